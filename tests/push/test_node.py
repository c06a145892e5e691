"""Push on a whole server: a person whose phone is asleep is woken by a message and by a call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from tests.integration.node import Node, running, until
from tests.push.fake_fcm import FakeFcm


@pytest.fixture
async def node(pg_url: str, redis_url: str, fcm: FakeFcm, tmp_path: Path) -> AsyncIterator[Node]:
    account = tmp_path / "account.json"
    account.write_text(json.dumps(fcm.certificate))
    async with running(
        tmp_path,
        database_url=pg_url,
        redis_url=redis_url,
        redis_prefix=f"t{uuid4().hex[:8]}",
        data_dir=tmp_path / "data",
        drain_ms=200,
        firebase_credentials=account,
        fcm_url=fcm.url,
    ) as node:
        yield node


async def test_a_sleeping_phone_is_woken_by_a_message_and_by_a_call(
    node: Node, fcm: FakeFcm, owner: asyncpg.Connection
) -> None:
    host_token = await node.token("asha", host=True, name="Asha", price_coins=5, pulse_ms=60_000)
    caller_token = await node.token("ravi", name="Ravi", coins=50)
    async with node.client(host_token, "phone") as host:
        await host.request("device.register", {"push_kind": "fcm", "push_address": "asha-phone"})
    async with node.client(caller_token, "c") as caller:

        async def woken_by_message() -> bool:
            # Until the server has seen the host's socket go, a message finds her connected.
            await caller.request("chat.send", {"to": "asha", "body": "are you there?"})
            return bool(fcm.messages)

        await until(woken_by_message)
        message = fcm.messages[0]
        assert (message["token"], message["data"]["kind"], message["data"]["from"]) == ("asha-phone", "message", "ravi")
        invited = await caller.request("call.invite", {"host": "asha", "media": "voice"})
        call_id = invited["call"]["call_id"]

        async def rings() -> list[dict[str, str]]:
            found = [one["data"] for one in fcm.messages if one["data"]["kind"] == "incoming_call"]
            return [data for data in found if data["call_id"] == call_id]

        (ring,) = await until(rings)
        assert ring["name"] == "Ravi"
        # She opens the app from the push: the ring is there, and she reports what she saw.
        async with node.client(host_token, "phone") as host:
            await host.request("push.report", {"push_id": ring["push_id"], "state": "acted"})
            answered = await host.request("call.accept", {"call_id": call_id})
            assert answered["call"]["state"] == "accepted"
    state = await owner.fetchval("select state from realtime.push_deliveries where push_id = $1::uuid", ring["push_id"])
    assert state == "acted"


async def test_a_caller_who_gives_up_leaves_one_missed_call(node: Node, fcm: FakeFcm) -> None:
    host_token = await node.token("asha", host=True, name="Asha", price_coins=5, pulse_ms=60_000)
    caller_token = await node.token("ravi", name="Ravi", coins=50)
    async with node.client(host_token, "phone") as host:
        await host.request("device.register", {"push_kind": "fcm", "push_address": "asha-phone"})
    async with node.client(caller_token, "c") as caller:
        invited = await caller.request("call.invite", {"host": "asha", "media": "voice"})
        await caller.request("call.cancel", {"call_id": invited["call"]["call_id"]})

        async def missed() -> list[dict[str, str]]:
            return [one["data"] for one in fcm.messages if one["data"]["kind"] in ("missed_call", "call_cancelled")]

        await until(missed)
        assert len(await missed()) == 1
