"""Gifts over the wire: one answer for one key, whichever node is asked, also when one is killed under a storm."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from billing.audit import audit
from tests.integration.node import Node, running
from tests.integration.test_bad_input import ask, raw

SENDERS = 12
COINS = 100
ROSE = 5


async def users(node: Node) -> list[str]:
    """Make a host and her admirers; return their tokens."""
    await node.token("asha", host=True)
    return [await node.token(f"user{n}", coins=COINS) for n in range(SENDERS)]


async def sign_in(socket: ClientConnection, token: str, device_id: str) -> None:
    """Sign in on a device of its own: another socket of the same device would take its place."""
    data = {"token": token, "device_id": device_id}
    assert "ok" in await ask(socket, {"id": 1, "op": "session.sign_in", "data": data})


def gift(key: str, gift_id: str = "rose") -> dict[str, Any]:
    return {"id": 2, "op": "gift.send", "key": key, "data": {"to": "asha", "gift_id": gift_id}}


async def paid(owner: asyncpg.Connection) -> list[int]:
    """Return how many gifts each user has paid."""
    rows = await owner.fetch(
        "select count(*) as n from billing.transfers where kind = 'gift' and refused is null group by debit_owner"
    )
    return [row["n"] for row in rows]


async def test_a_gift_asked_on_two_nodes_at_once_is_paid_once_and_answered_alike(
    shared: dict[str, Any], tmp_path: Path, owner: asyncpg.Connection
) -> None:
    async with running(tmp_path, **shared) as one, running(tmp_path, **shared) as two:

        async def send(node: Node, token: str, device_id: str) -> tuple[Any, Any]:
            async with raw(node) as socket:
                await sign_in(socket, token, device_id)
                first = await ask(socket, gift("k"))
                return first["ok"], (await ask(socket, gift("k", "coffee")))["error"]["code"]

        tokens = await users(one)
        devices = ((one, "phone"), (two, "tablet"))
        answers = await asyncio.gather(*(send(node, token, device) for token in tokens for node, device in devices))
    for first, second in zip(answers[::2], answers[1::2], strict=True):
        assert first == second
        assert first[0]["wallet"]["coins"] == COINS - ROSE
        assert first[1] == "key_reused"
    assert await paid(owner) == [1] * SENDERS
    assert (await audit(owner)).ok


@pytest.mark.crash
async def test_gifts_under_way_on_a_killed_node_are_paid_once_when_asked_again(
    shared: dict[str, Any], tmp_path: Path, owner: asyncpg.Connection
) -> None:
    async with running(tmp_path, **shared) as one, running(tmp_path, **shared) as two:
        tokens = await users(one)
        answered = asyncio.Event()
        told: list[dict[str, Any]] = [{} for _ in tokens]

        async def storm(number: int) -> None:
            """Send gift after gift until the node dies; keep what was answered."""
            with contextlib.suppress(ConnectionClosed, TimeoutError, OSError):
                async with raw(one) as socket:
                    await sign_in(socket, tokens[number], "phone")
                    for n in range(10):
                        told[number][f"k{n}"] = (await ask(socket, gift(f"k{n}")))["ok"]
                        answered.set()

        storms = [asyncio.create_task(storm(number)) for number in range(SENDERS)]
        await answered.wait()
        await one.kill()
        await asyncio.gather(*storms)

        async def again(number: int) -> None:
            async with raw(two) as socket:
                await sign_in(socket, tokens[number], "phone")
                for n in range(10):
                    reply = (await ask(socket, gift(f"k{n}")))["ok"]
                    assert told[number].get(f"k{n}", reply) == reply

        await asyncio.gather(*(again(number) for number in range(SENDERS)))
    assert await paid(owner) == [10] * SENDERS
    assert (await audit(owner)).ok
