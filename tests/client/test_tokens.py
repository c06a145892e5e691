"""When the Python client fetches its next token, and what a failing source means."""

from __future__ import annotations

import time

import pytest

from realtime.client.endings import Lost
from realtime.client.errors import Stopped
from realtime.client.tokens import REFRESH_AHEAD_MS, REFRESH_EVERY_MS, Tokens

HOUR_MS = 3_600_000
SLACK_S = 5.0


async def fetch() -> str:
    return "fresh"


def now_ms() -> int:
    return int(time.time() * 1000)


def test_a_plain_token_is_never_renewed_by_itself() -> None:
    tokens = Tokens("plain")
    tokens.lives_until(now_ms() + HOUR_MS)
    assert tokens.renewal_delay_s() is None


def test_a_long_life_is_renewed_a_minute_before_its_end() -> None:
    tokens = Tokens(fetch)
    tokens.lives_until(now_ms() + HOUR_MS)
    delay_s = tokens.renewal_delay_s()
    assert delay_s is not None
    assert abs(delay_s - (HOUR_MS - REFRESH_AHEAD_MS) / 1000) < SLACK_S


def test_a_short_life_is_renewed_at_its_half() -> None:
    tokens = Tokens(fetch)
    tokens.lives_until(now_ms() + 60_000)
    delay_s = tokens.renewal_delay_s()
    assert delay_s is not None
    assert abs(delay_s - 30) < SLACK_S


def test_an_ended_token_is_renewed_soon_but_not_in_a_tight_loop() -> None:
    tokens = Tokens(fetch)
    tokens.lives_until(1)
    assert tokens.renewal_delay_s() == REFRESH_EVERY_MS / 1000


def test_the_server_s_clock_counts_and_not_ours() -> None:
    tokens = Tokens(fetch)
    skewed_ms = now_ms() + 10 * HOUR_MS
    tokens.lives_until(skewed_ms + HOUR_MS, server_time_ms=skewed_ms)
    delay_s = tokens.renewal_delay_s()
    assert delay_s is not None
    assert abs(delay_s - (HOUR_MS - REFRESH_AHEAD_MS) / 1000) < SLACK_S


async def test_a_source_that_fails_is_a_lost_connection_and_one_that_stops_us_is_not() -> None:
    async def offline() -> str:
        raise OSError("no network")

    async def signed_out() -> str:
        raise Stopped("the user signed out", code="signed_out")

    with pytest.raises(Lost):
        await Tokens(offline).fetch()
    with pytest.raises(Stopped):
        await Tokens(signed_out).fetch()


async def test_a_replaced_token_is_used_from_then_on() -> None:
    tokens = Tokens("old")
    tokens.replace("new")
    assert await tokens.fetch() == "new"
    asked = Tokens(fetch)
    asked.replace("new")
    assert await asked.fetch() == "fresh"
