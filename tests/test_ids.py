"""Ids are in the order of time, carry their shard, and cannot be guessed."""

from __future__ import annotations

import pytest

from realtime.ids import SHARD_MAX, millis_of, new_id, shard_of


def test_an_id_is_a_uuid_of_version_7_with_its_time_and_shard() -> None:
    id_ = new_id(7, now_ms=1_700_000_000_123)
    assert (id_.version, id_.variant) == (7, "specified in RFC 4122")
    assert shard_of(id_) == 7
    assert millis_of(id_) == 1_700_000_000_123


def test_later_ids_sort_after_earlier_ones() -> None:
    ids = [new_id(now_ms=1_700_000_000_000 + step) for step in range(100)]
    assert ids == sorted(ids)


def test_ids_of_one_moment_differ() -> None:
    assert len({new_id(now_ms=1) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("shard", [-1, SHARD_MAX + 1])
def test_a_shard_that_does_not_fit_is_refused(shard: int) -> None:
    with pytest.raises(ValueError, match="shard"):
        new_id(shard)
