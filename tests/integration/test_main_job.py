"""The main job on one node: find, ring, talk, pay, chat, give, run out of coins, and the books are right after it."""

from __future__ import annotations

import asyncpg

from billing.audit import audit
from tests.integration.calling import Player, talk
from tests.integration.node import Node


async def test_a_call_is_metered_until_the_coins_run_out(node: Node, owner: asyncpg.Connection) -> None:
    host_token = await node.token("asha", host=True, name="Asha", price_coins=5, pulse_ms=1000)
    caller_token = await node.token("ravi", name="Ravi", coins=27)
    async with node.client(host_token, "h") as hc, node.client(caller_token, "c", codec="msgpack") as cc:
        host, caller = Player(hc), Player(cc)
        call_id = await talk(caller, host, "asha", media="video")
        sent = await caller.ask("chat.send", to="asha", kind="text", body="hello")
        assert (await host.wait_for("chat.message")).data["message"]["body"] == "hello"
        gift = await caller.ask("gift.send", to="asha", gift_id="rose", call_id=call_id)
        received = await host.wait_for("gift.received")
        assert received.data["gift"]["gift_id"] == "rose"
        ended = await caller.wait_for("call.ended")
        await host.wait_for("call.ended")
        wallet = (await caller.ask("wallet.get"))["wallet"]
        earned = (await host.ask("wallet.get"))["wallet"]["earned"]
        receipt = (await caller.ask("call.receipt", call_id=call_id))["receipt"]
        history = (await host.ask("call.history"))["calls"]
    assert sent["message"]["seq"] == 1
    assert gift["wallet"]["coins"] <= 22
    assert ended.data["call"]["reason"] == "exhausted"
    assert wallet["coins"] == 2  # 27 = a rose at 5, four pulses at 5, and 2 that pay for nothing
    assert receipt["spent_coins"] == 20
    assert receipt["pulses"] == 4
    assert earned == 14 + received.data["earned_coins"]  # 30 % commission
    assert "call.low_balance" in caller.names()
    assert [call["call_id"] for call in history] == [call_id]
    # The call ended at the funded second, by the server's own times.
    call = ended.data["call"]
    assert call["ended_ms"] - call["connected_ms"] == 4000
    report = await audit(owner)
    assert report.ok, report


async def test_a_declined_call_costs_nothing_and_frees_both(node: Node) -> None:
    host_token = await node.token("asha", host=True, price_coins=5, pulse_ms=1000)
    caller_token = await node.token("ravi", coins=10)
    async with node.client(host_token, "h") as hc, node.client(caller_token, "c") as cc:
        host, caller = Player(hc), Player(cc)
        for _ in range(2):
            call_id = (await caller.ask("call.invite", host="asha", media="voice"))["call"]["call_id"]
            await host.wait_for("call.incoming")
            await host.ask("call.decline", call_id=call_id)
        ended = await caller.wait_for("call.ended", count=2)
        assert ended.data["call"]["reason"] == "declined"
        assert (await caller.ask("wallet.get"))["wallet"]["coins"] == 10


async def test_all_devices_ring_and_the_first_answer_wins(node: Node) -> None:
    host_token = await node.token("asha", host=True, price_coins=5, pulse_ms=60_000)
    caller_token = await node.token("ravi", coins=10)
    async with (
        node.client(host_token, "phone") as c1,
        node.client(host_token, "tablet") as c2,
        node.client(caller_token, "c") as cc,
    ):
        phone, tablet, caller = Player(c1), Player(c2), Player(cc)
        call_id = (await caller.ask("call.invite", host="asha", media="voice"))["call"]["call_id"]
        await phone.wait_for("call.incoming")
        await tablet.wait_for("call.incoming")
        await tablet.ask("call.accept", call_id=call_id)
        elsewhere = await phone.wait_for("call.answered_elsewhere")
        assert elsewhere.data["call"]["accepted_device"] == "tablet"


async def test_a_device_that_connects_while_it_rings_learns_of_the_call(node: Node) -> None:
    host_token = await node.token("asha", host=True, price_coins=5, pulse_ms=60_000)
    caller_token = await node.token("ravi", coins=10)
    async with node.client(host_token, "phone") as c1, node.client(caller_token, "c") as cc:
        phone, caller = Player(c1), Player(cc)
        call_id = (await caller.ask("call.invite", host="asha", media="voice"))["call"]["call_id"]
        await phone.wait_for("call.incoming")
        async with node.client(host_token, "tablet") as tablet:
            snapshot = tablet.welcome["snapshot"]
            assert [call["call_id"] for call in snapshot["calls"]] == [call_id]
            answer = await tablet.request("call.accept", {"call_id": call_id})
            assert answer["call"]["state"] == "accepted"


async def test_an_acknowledgement_that_was_lost_with_its_connection_is_given_again(node: Node) -> None:
    host_token = await node.token("asha", host=True, price_coins=5, pulse_ms=60_000)
    caller_token = await node.token("ravi", coins=10)
    async with node.client(host_token, "h") as hc, node.client(caller_token, "c") as cc:
        caller = Player(cc)
        hc.on("call.incoming", lambda event: hc.drop())  # before the client acknowledges it
        call_id = (await caller.ask("call.invite", host="asha", media="voice"))["call"]["call_id"]
        await caller.wait_for("call.ringing", call_id=call_id)
        assert hc.connections == 2


async def test_what_was_missed_follows_a_reconnect(node: Node) -> None:
    host_token = await node.token("asha", host=True)
    caller_token = await node.token("ravi")
    async with node.client(host_token, "h") as hc, node.client(caller_token, "c") as cc:
        host, caller = Player(hc), Player(cc)
        await caller.ask("chat.send", to="asha", kind="text", body="0")
        await host.wait_for("chat.message")
        hc.drop()
        for number in range(1, 6):
            await caller.ask("chat.send", to="asha", kind="text", body=str(number))
        await host.wait_for("chat.message", count=6)
        bodies = [event.data["message"]["body"] for event in host.seen if event.name == "chat.message"]
        assert bodies == ["0", "1", "2", "3", "4", "5"]
