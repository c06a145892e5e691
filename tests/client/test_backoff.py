"""Delays between attempts: exponential, capped, with full jitter."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from realtime.client.backoff import PATIENT_ATTEMPT, STABLE_MS, Backoff, next_attempt


@given(attempt=st.integers(0, 10_000), seed=st.integers())
def test_a_delay_is_within_its_bound_and_the_cap(attempt: int, seed: int) -> None:
    delay_ms = Backoff(base_ms=500, cap_ms=30_000, random=random.Random(seed)).delay_ms(attempt)
    assert 0 <= delay_ms <= min(30_000, 500 * 2**attempt)


def test_delays_are_spread_over_the_whole_interval() -> None:
    backoff = Backoff(base_ms=1_000, cap_ms=1_000, random=random.Random(7))
    quarters = {int(backoff.delay_ms(0) // 250) for _ in range(200)}
    assert quarters == {0, 1, 2, 3}


@given(attempt=st.integers(-1, 1_000))
def test_a_stable_connection_starts_the_count_anew(attempt: int) -> None:
    assert next_attempt(attempt, lived_ms=STABLE_MS, patient=False) == 0


@given(attempt=st.integers(-1, 1_000))
def test_a_short_connection_counts_as_a_failure(attempt: int) -> None:
    assert next_attempt(attempt, lived_ms=STABLE_MS - 1, patient=False) == attempt + 1


@given(attempt=st.integers(-1, 1_000), lived_ms=st.integers(0, 100_000))
def test_a_server_that_asks_for_patience_gets_it(attempt: int, lived_ms: int) -> None:
    assert next_attempt(attempt, lived_ms=lived_ms, patient=True) >= PATIENT_ATTEMPT
