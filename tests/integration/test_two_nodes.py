"""Two servers on the same PostgreSQL and Valkey: everything works across them, and either may be killed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from billing.audit import audit
from realtime.client import Client
from tests.integration.calling import Player, talk
from tests.integration.node import QUICK, Node, running, until
from tests.integration.proxy import Proxy


@pytest.fixture
async def pair(shared: dict[str, Any], tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    async with running(tmp_path, **shared) as one, running(tmp_path, **shared) as two:
        yield one, two


async def test_a_call_across_nodes(pair: tuple[Node, Node], owner: asyncpg.Connection) -> None:
    one, two = pair
    host_token = await two.token("asha", host=True, price_coins=3, pulse_ms=1000)
    caller_token = await one.token("ravi", coins=10)
    async with two.client(host_token, "h") as hc, one.client(caller_token, "c") as cc:
        host, caller = Player(hc), Player(cc)
        call_id = await talk(caller, host, "asha")
        await caller.ask("call.signal", call_id=call_id, kind="offer", payload={"sdp": "v=0"})
        assert (await host.wait_for("call.signal")).data["payload"] == {"sdp": "v=0"}
        await host.ask("chat.send", to="ravi", kind="text", body="across")
        assert (await caller.wait_for("chat.message")).data["message"]["body"] == "across"
        await caller.ask("gift.send", to="asha", gift_id="rose", call_id=call_id)
        await host.wait_for("gift.received")
        ended = await host.wait_for("call.ended")
        assert ended.data["call"]["reason"] == "exhausted"
    assert (await audit(owner)).ok


@pytest.mark.crash
@pytest.mark.parametrize("killed", ["the caller's node", "the host's node"])
async def test_a_killed_node_neither_ends_the_call_nor_loses_a_coin(
    pair: tuple[Node, Node], owner: asyncpg.Connection, killed: str
) -> None:
    one, two = pair
    host_token = await two.token("asha", host=True, price_coins=2, pulse_ms=1000)
    caller_token = await one.token("ravi", coins=1_000)
    async with Proxy(one.url).running() as caller_way, Proxy(two.url).running() as host_way:
        caller_client = Client(caller_way.socket_url, token=caller_token, device_id="c", backoff=QUICK)
        host_client = Client(host_way.socket_url, token=host_token, device_id="h", backoff=QUICK)
        async with caller_client as cc, host_client as hc:
            caller, host = Player(cc), Player(hc)
            call_id = await talk(caller, host, "asha")
            await caller.wait_for("call.charged", count=2)
            if killed == "the caller's node":
                caller_way.target = two.url
                await one.kill()
            else:
                host_way.target = one.url
                await two.kill()
            lost, staying = (caller, host) if killed == "the caller's node" else (host, caller)
            await until(lambda: _connections(lost.client, 2))
            active = (await lost.ask("call.active"))["calls"]
            assert [call["call_id"] for call in active] == [call_id], "the call went on"
            seen = staying.names().count("call.charged")
            await staying.wait_for("call.charged", count=seen + 2)
            answer = await lost.ask("call.hang_up", call_id=call_id)
            await staying.wait_for("call.ended")
            wallet = (await caller.ask("wallet.get"))["wallet"]
        assert answer["call"]["state"] == "ended"
        receipt = answer["receipt"]
        if lost is caller:
            assert wallet["coins"] == 1_000 - receipt["spent_coins"]
    assert (await audit(owner)).ok


async def _connections(client: Client, count: int) -> bool:
    return client.connections >= count and client.state.value == "online"


@pytest.mark.crash
async def test_users_of_a_killed_node_are_offline_soon(pair: tuple[Node, Node]) -> None:
    one, two = pair
    host_token = await two.token("asha", host=True)
    watcher_token = await one.token("ravi")
    async with one.client(watcher_token, "c") as watcher, two.client(host_token, "h"):

        async def status(wanted: str) -> bool:
            states = (await watcher.request("presence.watch", {"users": ["asha"]}))["states"]
            return bool(states) and states[0]["status"] == wanted

        await until(lambda: status("online"))
        await two.kill()
        await until(lambda: status("offline"), timeout_s=20.0)


async def test_workers_behind_one_port_serve_one_call(shared: dict[str, Any], tmp_path: Path) -> None:
    async with running(tmp_path, "--workers", "2", **shared) as node:
        host_token = await node.token("asha", host=True, price_coins=5, pulse_ms=1000)
        caller_token = await node.token("ravi", coins=10)
        async with node.client(host_token, "h") as hc, node.client(caller_token, "c") as cc:
            host, caller = Player(hc), Player(cc)
            await talk(caller, host, "asha")
            assert (await caller.wait_for("call.ended")).data["call"]["reason"] == "exhausted"
        assert await node.stop() == 0


async def test_a_node_that_stops_tells_its_clients_to_reconnect(shared: dict[str, Any], tmp_path: Path) -> None:
    async with running(tmp_path, **shared) as node:
        token = await node.token("ravi")
        client = node.client(token, "c")
        await client.connect()
        closed: list[str] = []
        client.on("client.state", lambda event: closed.append(str(event.data)))
        assert await node.stop() == 0
        await client.close()
        assert any("going_away" in state or "4000" in state for state in closed), closed
