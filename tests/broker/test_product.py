"""Two whole servers and their Redis, which is killed under a running call: no call and no coin is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from billing.audit import audit
from realtime.client import Client
from tests.broker.support import Valkey
from tests.integration.calling import Player, talk
from tests.integration.node import running, until


@pytest.mark.crash
async def test_a_restart_of_redis_loses_no_call_and_no_coin(
    pg_url: str, owner: asyncpg.Connection, valkey: Valkey, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "database_url": pg_url,
        "redis_url": valkey.url,
        "redis_prefix": f"t{uuid4().hex[:8]}",
        "data_dir": tmp_path / "data",
        "drain_ms": 200,
        "database_pool_size": 6,
    }
    async with running(tmp_path, **settings) as one, running(tmp_path, **settings) as two:
        host_token = await two.token("asha", host=True, price_coins=2, pulse_ms=1000)
        caller_token, watcher_token = await one.token("ravi", coins=1_000), await one.token("vera")
        clients = (one.client(caller_token, "c"), two.client(host_token, "h"), one.client(watcher_token, "w"))
        async with clients[0] as cc, clients[1] as hc, clients[2] as wc:
            caller, host, watcher = Player(cc), Player(hc), Player(wc)
            call_id = await talk(caller, host, "asha")
            await caller.wait_for("call.charged", count=2)

            valkey.kill()
            # Requests need PostgreSQL only: the call can be looked at while Redis is away.
            assert (await caller.ask("call.get", call_id=call_id))["call"]["state"] == "connected"
            await asyncio.to_thread(valkey.start)

            for client in clients:
                await until(lambda client=client: _came_back(client))
            assert [call["call_id"] for call in (await caller.ask("call.active"))["calls"]] == [call_id]
            seen = caller.names().count("call.charged")
            await caller.wait_for("call.charged", count=seen + 2)

            async def busy() -> bool:
                states = (await watcher.ask("presence.watch", users=["asha"]))["states"]
                return bool(states) and states[0]["status"] == "busy"

            await until(busy)
            answer = await caller.ask("call.hang_up", call_id=call_id)
            await host.wait_for("call.ended")
            wallet = (await caller.ask("wallet.get"))["wallet"]
            listed = await until(lambda: _bookable(watcher))
        assert answer["call"]["state"] == "ended"
        assert wallet["coins"] == 1_000 - answer["receipt"]["spent_coins"]
        assert listed == ["asha"]
    assert (await audit(owner)).ok


async def _came_back(client: Client) -> bool:
    return client.connections >= 2 and client.state.value == "online"


async def _bookable(watcher: Player) -> list[str]:
    hosts = (await watcher.ask("hosts.list"))["hosts"]
    return [host["user"] for host in hosts if host["bookable"]]
