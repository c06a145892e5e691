"""Publishing without waiting for each reply: the order holds, each publish is answered, and no more than a few wait."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import redis.asyncio as aioredis
from websockets.asyncio.client import ClientConnection

from realtime.dispatch import PENDING_MAX
from tests.integration.node import Node
from tests.integration.test_bad_input import ask, raw, sign_in

MANY = 40
FIRST_ID = 100


def publish(number: int) -> str:
    data = {"channel": "lobby", "data": number}
    return json.dumps({"id": FIRST_ID + number, "op": "channel.publish", "data": data})


async def join(node: Node, socket: ClientConnection, user: str) -> None:
    await sign_in(socket, await node.token(user))
    assert "ok" in await ask(socket, {"id": 2, "op": "channel.join", "data": {"channel": "lobby", "history": 0}})


async def receive(socket: ClientConnection, kind: str, count: int) -> list[Any]:
    """Return the next `count` replies (kind "re") or channel messages (kind "event")."""
    found: list[Any] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            frame = json.loads(await socket.recv())
            if kind in frame and frame.get("event", "channel.message") == "channel.message":
                found.append(frame)
    return found


async def test_publishes_sent_at_once_keep_their_order_and_are_each_answered(node: Node) -> None:
    async with raw(node) as asha, raw(node) as ravi:
        await join(node, asha, "asha")
        await join(node, ravi, "ravi")
        for number in range(MANY):
            await asha.send(publish(number))
        replies = await receive(asha, "re", MANY)
        assert [reply["re"] for reply in replies] == [FIRST_ID + number for number in range(MANY)]
        first = replies[0]["ok"]["offset"]
        assert [reply["ok"]["offset"] for reply in replies] == list(range(first, first + MANY))
        heard = await receive(ravi, "event", MANY)
        assert [(event["offset"], event["data"]["data"]) for event in heard] == [
            (first + number, number) for number in range(MANY)
        ]


async def test_a_publish_right_behind_its_join_waits_for_it(node: Node) -> None:
    async with raw(node) as asha:
        await sign_in(asha, await node.token("asha"))
        await asha.send(json.dumps({"id": 2, "op": "channel.join", "data": {"channel": "lobby", "history": 0}}))
        await asha.send(publish(1))
        await asha.send(json.dumps({"id": 3, "op": "session.ping"}))
        replies = {reply["re"]: reply for reply in await receive(asha, "re", 3)}
        assert next(iter(replies)) == 3, "a ping waits for nothing"
        assert replies[FIRST_ID + 1]["ok"]["offset"] == replies[2]["ok"]["offset"] + 1


async def test_what_follows_a_publish_comes_after_it(node: Node) -> None:
    async with raw(node) as asha, raw(node) as ravi:
        await join(node, asha, "asha")
        await join(node, ravi, "ravi")
        await asha.send(publish(1))
        await asha.send(json.dumps({"id": 3, "op": "channel.leave", "data": {"channel": "lobby"}}))
        await asha.send(publish(2))
        replies = {reply["re"]: reply for reply in await receive(asha, "re", 3)}
        assert "ok" in replies[FIRST_ID + 1]
        assert "ok" in replies[3]
        assert replies[FIRST_ID + 2]["error"]["code"] == "forbidden"
        assert [event["data"]["data"] for event in await receive(ravi, "event", 1)] == [1]


async def test_no_more_than_a_few_publishes_wait_for_a_slow_redis(node: Node, redis: aioredis.Redis) -> None:
    async with raw(node) as asha:
        await join(node, asha, "asha")
        await redis.client_pause(60_000, all=False)  # scripts that write wait
        try:
            for number in range(PENDING_MAX + 5):
                await asha.send(publish(number))
            refused = await receive(asha, "re", 5)
            assert [reply["error"]["code"] for reply in refused] == ["too_many_pending"] * 5
            assert all(reply["error"]["retryable"] for reply in refused)
            assert "ok" in await ask(asha, {"id": 4, "op": "session.ping"}), "a ping waits for nothing"
        finally:
            await redis.client_unpause()
        answered = await receive(asha, "re", PENDING_MAX)
        assert [reply["re"] for reply in answered] == [FIRST_ID + number for number in range(PENDING_MAX)]
        assert all("ok" in reply for reply in answered)
