"""The index of hosts: filters, order, pages, late writes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio as aioredis
from hypothesis import given
from hypothesis import strategies as st

from presence.directory import BadCursor, Directory, Host, Query, rank

TENANT = 3


@pytest.fixture
async def directory(redis: aioredis.Redis) -> AsyncIterator[Directory]:
    directory = Directory(redis)
    yield directory
    await directory.close()


async def everything(directory: Directory, query: Query, *, limit: int = 2, tenant: int = TENANT) -> list[int]:
    found: list[int] = []
    cursor = None
    for _ in range(100):
        page = await directory.query(tenant, query, limit=limit, cursor=cursor)
        assert len(page.hosts) <= limit
        found += [user_id for user_id, _ in page.hosts]
        cursor = page.cursor
        if cursor is None:
            return found
    raise AssertionError("pages never end")


async def fill(directory: Directory) -> None:
    hosts = [
        Host(user_id=1, version=1, card=b"1", rating=4.5, price_coins=10, languages=("hi", "en"), tags=("Love",),
             category="life", media=("voice",)),
        Host(user_id=2, version=1, card=b"2", rating=4.9, price_coins=30, languages=("en",), tags=("career",),
             category="work", media=("voice", "video")),
        Host(user_id=3, version=1, card=b"3", rating=0, price_coins=5, languages=("ta",), category="life",
             media=("video",)),
        Host(user_id=4, version=1, card=b"4", rating=4.5, price_coins=20, languages=("hi",), tags=("love", "career"),
             category="life", media=("voice",)),
    ]  # fmt: skip
    for host in hosts:
        assert await directory.put(TENANT, host)


async def test_hosts_come_by_rating_then_by_seniority(directory: Directory) -> None:
    await fill(directory)
    assert await everything(directory, Query()) == [2, 1, 4, 3]
    page = await directory.query(TENANT, Query(), limit=1)
    assert page.hosts == [(2, b"2")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(languages=("hi",)), [1, 4]),
        (Query(languages=("hi", "ta")), [1, 4, 3]),
        (Query(languages=("en",), tags=("love",)), [1]),
        (Query(tags=("love", "career")), [2, 1, 4]),
        (Query(category="life", media=("voice",)), [1, 4]),
        (Query(max_price_coins=10), [1, 3]),
        (Query(languages=("hi",), max_price_coins=15), [1]),
        (Query(languages=("xx",)), []),
        (Query(media=("voice", "video"), languages=("hi", "en", "ta")), [2, 1, 4, 3]),
    ],
)
@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_filters(directory: Directory, query: Query, expected: list[int], limit: int) -> None:
    await fill(directory)
    assert await everything(directory, query, limit=limit) == expected


async def test_tenants_have_directories_of_their_own(directory: Directory) -> None:
    await fill(directory)
    assert await everything(directory, Query(), tenant=TENANT + 1) == []


async def test_a_host_who_is_taken_off_is_in_no_filter(directory: Directory) -> None:
    await fill(directory)
    assert await directory.remove(TENANT, 1, 2)
    assert await everything(directory, Query()) == [2, 4, 3]
    assert await everything(directory, Query(languages=("hi",))) == [4]


async def test_a_changed_host_leaves_the_filters_that_no_longer_fit(directory: Directory) -> None:
    await fill(directory)
    await directory.put(TENANT, Host(user_id=1, version=2, card=b"new", languages=("ta",), price_coins=50))
    assert await everything(directory, Query(languages=("hi",))) == [4]
    assert (await directory.query(TENANT, Query(languages=("ta",)), limit=5)).hosts == [(1, b"new"), (3, b"3")]


async def test_a_late_write_never_brings_back_what_is_over(directory: Directory) -> None:
    assert await directory.put(TENANT, Host(user_id=1, version=5, card=b"x"))
    assert await directory.remove(TENANT, 1, 7)
    assert not await directory.put(TENANT, Host(user_id=1, version=6, card=b"late"))
    assert await everything(directory, Query()) == []


async def test_a_page_goes_on_where_the_last_one_ended_when_its_last_host_has_left(directory: Directory) -> None:
    await fill(directory)
    first = await directory.query(TENANT, Query(), limit=2)
    await directory.remove(TENANT, 1, 2)
    second = await directory.query(TENANT, Query(), limit=2, cursor=first.cursor)
    assert [user_id for user_id, _ in second.hosts] == [4, 3]


async def test_a_query_looks_at_a_limited_number_and_goes_on_from_there(redis: aioredis.Redis) -> None:
    directory = Directory(redis, scan_max=7)
    try:
        for user_id in range(1, 31):
            host = Host(user_id=user_id, version=1, card=b"x", price_coins=1 if user_id in (5, 29) else 100)
            await directory.put(TENANT, host)
        assert (await directory.query(TENANT, Query(max_price_coins=10), limit=10)).hosts == [(5, b"x")]
        assert await everything(directory, Query(max_price_coins=10), limit=10) == [5, 29]
        assert await everything(directory, Query(), limit=10) == list(range(1, 31))
    finally:
        await directory.close()


@pytest.mark.parametrize("cursor", ["", "abc", "1e5", "-1", "9" * 17, "١"])
async def test_a_made_up_cursor_is_refused(directory: Directory, cursor: str) -> None:
    with pytest.raises(BadCursor):
        await directory.query(TENANT, Query(), limit=2, cursor=cursor)


@given(st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(0, 500)), unique_by=lambda host: host[0]))
def test_rank_is_exact_in_a_double_and_orders_by_rating_then_id(hosts: list[tuple[int, int]]) -> None:
    ordered = sorted(hosts, key=lambda host: (-host[1], host[0]))
    assert sorted(hosts, key=lambda host: -float(rank(host[0], host[1] / 100))) == ordered
    assert len({float(rank(host[0], host[1] / 100)) for host in hosts}) == len(hosts)
