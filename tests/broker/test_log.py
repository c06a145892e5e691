"""What a stream leaves in Redis: bounded, gone when nobody touches it, and kept as long as somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import redis.asyncio as aioredis

from realtime.broker import Broker, StreamEvent
from tests.broker.support import until

TTL_MS = 1_500
LOG_EVENTS = 100
STREAM = "c:1:room"


@pytest.fixture
async def broker(redis_url: str, redis: aioredis.Redis) -> AsyncIterator[Broker]:
    broker = Broker(redis_url, log_events=LOG_EVENTS, log_ttl_ms=TTL_MS)
    yield broker
    await broker.close()


def event(event_id: str = "") -> StreamEvent:
    return StreamEvent(event_id or str(uuid4()), "channel.message", 0, 0, b"{}")


async def append(broker: Broker, *, repeatable: bool) -> None:
    await broker.begin_append(STREAM, [event()], repeatable=repeatable)


async def look(broker: Broker) -> None:
    await broker.positions([STREAM])


@pytest.mark.parametrize("steps", ["l", "i", "n", "li", "ln", "ni", "in", "lni", "lin", "iin", "nni"])
async def test_every_key_expires_however_the_stream_began(broker: Broker, redis: aioredis.Redis, steps: str) -> None:
    """Steps: a look at the position; an event whose id is remembered; one whose id is not."""
    for step in steps:
        await (look(broker) if step == "l" else append(broker, repeatable=step == "i"))
    keys = await redis.keys("*")
    assert keys
    for key in keys:
        assert 0 < await redis.pttl(key) <= TTL_MS * 1.25, key


async def test_a_stream_that_nobody_touches_is_forgotten(broker: Broker, redis: aioredis.Redis) -> None:
    await append(broker, repeatable=True)

    async def gone() -> bool:
        return not await redis.keys("*")

    await until(gone, "nothing is left of it")


@pytest.mark.parametrize("touch", ["l", "i", "n"])
async def test_a_stream_that_is_touched_outlives_its_time(broker: Broker, touch: str) -> None:
    await append(broker, repeatable=True)
    began = (await broker.positions([STREAM]))[0]
    loop = asyncio.get_running_loop()
    end = loop.time() + 2 * TTL_MS / 1_000
    appended = 0
    while loop.time() < end:
        await (look(broker) if touch == "l" else append(broker, repeatable=touch == "i"))
        appended += touch != "l"
        await asyncio.sleep(TTL_MS / 20_000)
    assert (await broker.positions([STREAM]))[0] == (began.epoch, began.offset + appended)


async def test_ids_are_remembered_as_long_as_their_events_and_not_much_longer(
    broker: Broker, redis: aioredis.Redis
) -> None:
    ids = [str(uuid4()) for _ in range(5 * LOG_EVENTS)]
    for start in range(0, len(ids), 7):
        await broker.append(STREAM, [event(each) for each in ids[start : start + 7]])
    keys = broker.keys.stream(STREAM)
    assert LOG_EVENTS <= await redis.zcard(keys.seen) <= 2 * LOG_EVENTS
    again = await broker.append(STREAM, [event(each) for each in ids[-LOG_EVENTS:]])
    assert [place.offset for place in again] == list(range(4 * LOG_EVENTS + 1, 5 * LOG_EVENTS + 1))
    assert (await broker.positions([STREAM]))[0].offset == len(ids)


async def test_what_nobody_can_repeat_is_logged_and_not_remembered(broker: Broker, redis: aioredis.Redis) -> None:
    for _ in range(3):
        await append(broker, repeatable=False)
    assert not await redis.exists(broker.keys.stream(STREAM).seen)
    past = await broker.history(STREAM, 10)
    assert [each.offset for each in past.events] == [1, 2, 3]
