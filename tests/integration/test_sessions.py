"""Signing in and out on whole servers: by header, on too many devices, everywhere at once, and while a node drains."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed

from realtime.client import State
from tests.integration.node import Node, running, until
from tests.integration.test_bad_input import ask, close_code, raw, sign_in


async def test_the_upgrades_header_may_carry_the_token(node: Node) -> None:
    token = await node.token("ravi")
    async with raw(node, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        reply = await ask(socket, {"id": 1, "op": "session.sign_in", "data": {"device_id": "d"}})
        assert reply["ok"]["user"]["id"] == "ravi"


async def test_a_second_sign_in_on_one_connection_is_refused(node: Node) -> None:
    token = await node.token("ravi")
    async with raw(node) as socket:
        await sign_in(socket, token)
        assert (await sign_in(socket, token))["error"]["code"] == "conflict"


async def test_one_device_too_many_replaces_the_oldest_on_every_node(shared: dict[str, Any], tmp_path: Path) -> None:
    async with running(tmp_path, **shared) as one, running(tmp_path, **shared) as two:
        token = await one.token("ravi")
        async with raw(one) as oldest:
            first = {"id": 1, "op": "session.sign_in", "data": {"token": token, "device_id": "0"}}
            await ask(oldest, first)
            clients = [two.client(token, str(number)) for number in range(1, 6)]
            for client in clients:
                await client.connect()
            assert await close_code(oldest) == 4504
            assert all(client.state is State.ONLINE for client in clients)
            for client in clients:
                await client.close()


async def test_signing_out_everywhere_ends_all_devices_and_all_tokens(shared: dict[str, Any], tmp_path: Path) -> None:
    async with running(tmp_path, **shared) as one, running(tmp_path, **shared) as two:
        token = await one.token("ravi")
        async with raw(one) as phone, raw(two) as tablet:
            await ask(phone, {"id": 1, "op": "session.sign_in", "data": {"token": token, "device_id": "phone"}})
            await ask(tablet, {"id": 1, "op": "session.sign_in", "data": {"token": token, "device_id": "tablet"}})
            await ask(phone, {"id": 2, "op": "session.sign_out", "data": {"everywhere": True}})
            assert await close_code(tablet) == 4503
            assert await close_code(phone) == 4503
        async with raw(two) as again:
            assert (await sign_in(again, token))["error"]["code"] == "token_invalid"
            await asyncio.sleep(0.01)  # a token of a later moment
            assert "ok" in await sign_in(again, await one.token("ravi"))


async def test_a_draining_node_begins_no_call(shared: dict[str, Any], tmp_path: Path) -> None:
    slow_drain = {**shared, "drain_ms": 4000}
    async with contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(running(tmp_path, **slow_drain))
        await node.token("asha", host=True, price_coins=1, pulse_ms=60_000)
        token = await node.token("ravi", coins=10)
        opened = [await stack.enter_async_context(raw(node)) for _ in range(4)]
        for number, conn in enumerate(opened):
            data = {"token": token, "device_id": str(number)}
            await ask(conn, {"id": 1, "op": "session.sign_in", "data": data})
        node.process.terminate()

        async def refused() -> bool:
            codes = set()
            for number, conn in enumerate(opened):
                invite = {"id": 2, "op": "call.invite", "key": f"k{number}", "data": {"host": "asha", "media": "voice"}}
                with contextlib.suppress(ConnectionClosed):  # the drain has closed this one already
                    reply = await ask(conn, invite)
                    codes.add(reply.get("error", {}).get("code"))
            return "draining" in codes

        await until(refused, timeout_s=4)
        assert await asyncio.wait_for(node.process.wait(), 30) == 0
