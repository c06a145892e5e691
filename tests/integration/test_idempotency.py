"""A repeat is answered with the first answer, on any connection and any node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg

from tests.integration.node import Node, running
from tests.integration.test_bad_input import ask, raw, sign_in


def send(key: str, body: str = "once", number: int = 2) -> dict[str, Any]:
    return {"id": number, "op": "chat.send", "key": key, "data": {"to": "asha", "kind": "text", "body": body}}


async def messages(owner: asyncpg.Connection) -> int:
    count: int = await owner.fetchval("select count(*) from realtime.messages")
    return count


async def test_a_repeat_gets_the_first_answer(node: Node, owner: asyncpg.Connection) -> None:
    await node.token("asha")
    token = await node.token("ravi")
    async with raw(node) as socket:
        await sign_in(socket, token)
        first = await ask(socket, send("k1"))
        second = await ask(socket, send("k1", number=3))
    async with raw(node) as socket:
        await sign_in(socket, token)
        third = await ask(socket, send("k1"))
    assert first["ok"] == second["ok"] == third["ok"]
    assert await messages(owner) == 1


async def test_repeats_at_the_same_time_take_effect_once(
    shared: dict[str, Any], tmp_path: Path, owner: asyncpg.Connection
) -> None:
    async with running(tmp_path, **shared) as one, running(tmp_path, **shared) as two:
        await one.token("asha")
        token = await one.token("ravi")

        async def repeat(node: Node, device: str) -> Any:
            async with raw(node) as socket:
                await sign_in(socket, token, device)
                return (await ask(socket, send("k2")))["ok"]

        answers = await asyncio.gather(*(repeat(node, f"d{n}") for n, node in enumerate((one, two, one, two, one))))
    assert all(answer == answers[0] for answer in answers)
    assert await messages(owner) == 1


async def test_a_key_with_other_contents_is_refused(node: Node, owner: asyncpg.Connection) -> None:
    await node.token("asha")
    async with raw(node) as socket:
        await sign_in(socket, await node.token("ravi"))
        await ask(socket, send("k3", body="one"))
        reply = await ask(socket, send("k3", body="two"))
    assert reply["error"]["code"] == "key_reused"
    assert await messages(owner) == 1


async def test_a_repeated_gift_is_paid_once(node: Node) -> None:
    await node.token("asha", host=True)
    async with raw(node) as socket:
        await sign_in(socket, await node.token("ravi", coins=100))
        gift = {"id": 2, "op": "gift.send", "key": "g", "data": {"to": "asha", "gift_id": "rose"}}
        answers = [await ask(socket, gift) for _ in range(5)]
        wallet = await ask(socket, {"id": 3, "op": "wallet.get", "data": {}})
    assert all(answer == answers[0] for answer in answers)
    assert wallet["ok"]["wallet"]["coins"] == 95


async def test_a_repeat_of_an_accept_is_answered_after_the_call_has_moved_on(node: Node) -> None:
    host_token = await node.token("asha", host=True, price_coins=1, pulse_ms=60_000)
    caller_token = await node.token("ravi", coins=10)
    async with raw(node) as host, raw(node) as caller:
        await sign_in(host, host_token)
        await sign_in(caller, caller_token)
        invite = {"id": 2, "op": "call.invite", "key": "i", "data": {"host": "asha", "media": "voice"}}
        call_id = (await ask(caller, invite))["ok"]["call"]["call_id"]
        accept = {"id": 2, "op": "call.accept", "key": "a", "data": {"call_id": call_id}}
        first = await ask(host, accept)
        hang_up = {"id": 3, "op": "call.hang_up", "key": "h", "data": {"call_id": call_id}}
        assert (await ask(host, hang_up))["ok"]["call"]["state"] == "ended"
        assert (await ask(host, accept))["ok"] == first["ok"]


async def test_a_refusal_is_given_again_and_money_errors_may_be_tried_again(node: Node) -> None:
    await node.token("asha", host=True)
    async with raw(node) as socket:
        token = await node.token("ravi")
        await sign_in(socket, token)
        gift = {"id": 2, "op": "gift.send", "key": "poor", "data": {"to": "asha", "gift_id": "rose"}}
        poor = await ask(socket, gift)
        assert (poor["error"]["code"], poor["error"]["next_action"]) == ("insufficient_funds", "top_up")
        await node.token("ravi", coins=10)
        assert "ok" in await ask(socket, gift)
