"""Buckets over all nodes, in a real Valkey: exact, forgotten when full, and no obstacle when it is away."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as aioredis

from realtime.rates import Rate, SharedRates

SLOW = {"call.invite": Rate(5, 0.001)}


@pytest.fixture
def shared(redis: aioredis.Redis) -> SharedRates:
    return SharedRates(redis, "t", SLOW)


async def test_all_nodes_together_let_through_what_one_bucket_holds(redis: aioredis.Redis, redis_url: str) -> None:
    other: aioredis.Redis = aioredis.from_url(redis_url)
    try:
        nodes = [SharedRates(redis, "t", SLOW), SharedRates(other, "t", SLOW)]
        waits = await asyncio.gather(*(node.take(1, "call.invite") for node in nodes * 20))
    finally:
        await other.aclose()
    assert waits.count(0) == 5
    assert all(0 < wait_ms <= 1_000_000 for wait_ms in waits if wait_ms)


async def test_users_and_actions_have_buckets_of_their_own(redis: aioredis.Redis) -> None:
    shared = SharedRates(redis, "t", {"a": Rate(1, 0.001), "b": Rate(1, 0.001)})
    assert [await shared.take(1, "a"), await shared.take(1, "b"), await shared.take(2, "a")] == [0, 0, 0]
    assert await shared.take(1, "a") > 0


async def test_a_bucket_refills_at_its_rate_and_is_forgotten_when_it_is_full(redis: aioredis.Redis) -> None:
    shared = SharedRates(redis, "t", {"a": Rate(1, 5)})
    assert await shared.take(1, "a") == 0
    wait_ms = await shared.take(1, "a")
    assert 0 < wait_ms <= 201
    assert 0 < await redis.pttl("t:{u:1}:rate:a") <= 200
    await asyncio.sleep(wait_ms / 1_000)  # what it was told to do
    assert await shared.take(1, "a") == 0


async def test_a_refusal_takes_nothing(shared: SharedRates, redis: aioredis.Redis) -> None:
    for _ in range(5):
        await shared.take(1, "call.invite")
    before = await redis.get("t:{u:1}:rate:call.invite")
    assert await shared.take(1, "call.invite") > 0
    assert await redis.get("t:{u:1}:rate:call.invite") == before


async def test_with_redis_away_nobody_is_refused_and_it_is_counted() -> None:
    client: aioredis.Redis = aioredis.from_url("redis://127.0.0.1:1")
    shared = SharedRates(client, "t", SLOW)
    assert [await shared.take(1, "call.invite") for _ in range(10)] == [0] * 10
    assert shared.unshared == 10
    await client.aclose()


async def test_a_redis_that_does_not_answer_is_not_waited_for() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    client: aioredis.Redis = aioredis.from_url(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    shared = SharedRates(client, "t", SLOW)
    async with asyncio.timeout(5):
        assert await shared.take(1, "call.invite") == 0
    assert shared.unshared == 1
    await client.aclose()
    server.close()
