"""Calls from invite to receipt, on the real database and the real books."""

from __future__ import annotations

from uuid import uuid4

import msgspec
import pytest

from realtime.calls.invites import INVITES_MAX, INVITES_WINDOW_MS
from realtime.calls.model import Reason, State
from realtime.protocol.errors import (
    Busy,
    CallOver,
    Conflict,
    Forbidden,
    HostUnavailable,
    InsufficientFunds,
    InvalidData,
    InvalidTransition,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    SelfCall,
)
from tests.calls.world import Phone, World


async def test_a_whole_call_from_invite_to_receipt(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia", price_coins=10)
    call_id = await world.invite(ann, mia)
    await world.calls.acknowledged(mia, [str(call_id)])
    await world.accept(mia, call_id)
    await world.calls.media_up(ann, call_id, Phone())
    assert (await world.call(call_id)).state is State.ACCEPTED
    await world.calls.media_up(mia, call_id, Phone())
    await world.talk(call_id, ms=90_000)
    call = await world.hang_up(mia, call_id)

    assert (call.state, call.reason, call.spent_coins, call.earned_coins) == (
        State.ENDED,
        Reason.HUNG_UP_BY_HOST,
        20,
        14,
    )
    assert await world.names(ann) == [
        "call.ringing",
        "call.accepted",
        "call.connected",
        "call.charged",
        "call.charged",
        "call.ended",
    ]
    assert await world.names(mia) == [
        "call.incoming",
        "call.answered_elsewhere",
        "call.connected",
        "call.charged",
        "call.charged",
        "call.ended",
    ]
    assert await world.coins(ann) == 80
    assert (await world.wallets.get(mia.user_id)).earned == 14
    receipt = await world.calls.receipt(ann, call_id)
    assert [(line.kind, line.pulses, line.coins) for line in receipt.lines][-1] == ("charged", 2, 20)
    assert (receipt.spent_coins, receipt.talk_ms, receipt.earned_coins) == (20, 90_000, None)
    assert (await world.calls.receipt(mia, call_id)).earned_coins == 14
    assert await world.busy() == set()
    assert world.presence.in_call == set()


async def test_events_of_one_call_have_growing_versions_and_each_sides_view(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.connect(ann, mia)
    await world.hang_up(ann, call_id)
    for who, role, peer in ((ann, "caller", "mia"), (mia, "host", "ann")):
        told = [t for t in await world.told(who) if t.event.startswith("call.")]
        versions = [t.v for t in told]
        assert versions == sorted(versions)
        assert all(t.data["call"]["v"] == t.v for t in told)
        assert {t.data["call"]["role"] for t in told} == {role}
        assert {t.data["call"]["peer"]["id"] for t in told} == {peer}
    charged = next(t for t in await world.told(ann) if t.event == "call.charged")
    assert charged.data["wallet"]["coins"] == 90
    assert (charged.data["period"], charged.data["price_coins"]) == (1, 10)
    assert "earned_coins" not in charged.data["call"]


async def test_ring_is_acknowledged_by_the_call_id(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.invite(ann, mia)
    (incoming,) = await world.told(mia)
    assert (incoming.event, incoming.event_id, incoming.push) == ("call.incoming", str(call_id), True)
    await world.calls.acknowledged(ann, [str(call_id)])
    assert (await world.call(call_id)).state is State.INVITING
    await world.calls.acknowledged(mia, ["no-uuid", str(uuid4())])
    assert (await world.call(call_id)).state is State.INVITING
    await world.calls.acknowledged(mia, [str(call_id)])
    await world.calls.acknowledged(mia, [str(call_id)])
    assert (await world.call(call_id)).state is State.RINGING
    assert await world.names(ann) == ["call.ringing"]


async def test_first_pulse_must_be_funded_to_ring(world: World) -> None:
    ann, mia = await world.user("ann", coins=9), await world.host("mia", price_coins=10)
    with pytest.raises(InsufficientFunds) as refused:
        await world.invite(ann, mia)
    assert refused.value.details == {"needed_coins": 10, "coins": 9}
    assert await world.busy() == set()
    assert await world.told(mia) == []


async def test_call_whose_coins_went_meanwhile_ends_uncharged(world: World) -> None:
    ann, mia = await world.user("ann", coins=12), await world.host("mia", price_coins=10)
    call_id = await world.ring(ann, mia)
    await world.accept(mia, call_id)
    await world.gift(ann, "mia", "rose", call_id=call_id)
    await world.calls.media_up(ann, call_id, Phone())
    view = await world.calls.media_up(mia, call_id, Phone())
    assert (view.state, view.reason, view.spent_coins) == ("ended", "insufficient_funds", 0)
    assert await world.coins(ann) == 7
    assert await world.busy() == set()


async def test_call_ends_at_the_funded_second_with_exhausted(world: World) -> None:
    ann, mia = await world.user("ann", coins=25), await world.host("mia", price_coins=10)
    call_id = await world.connect(ann, mia)
    connected_ms = world.clock.now_ms
    await world.talk(call_id, ms=130_000)
    call = await world.call(call_id)
    assert (call.state, call.reason) == (State.ENDED, Reason.EXHAUSTED)
    assert call.ended_ms == connected_ms + 120_000
    assert await world.coins(ann) == 5
    low = next(t for t in await world.told(ann) if t.event == "call.low_balance")
    assert low.data["ends_at_ms"] == connected_ms + 120_000
    ended = next(t for t in await world.told(ann) if t.event == "call.ended")
    assert ended.data["receipt"]["spent_coins"] == 20
    assert await world.busy() == set()


async def test_silence_pauses_and_then_ends_the_call_at_the_last_proof(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.connect(ann, mia)
    connected_ms = world.clock.now_ms
    await world.talk(call_id, ms=10_000)
    phone = Phone()
    await world.calls.media_up(ann, call_id, phone)
    for _ in range(30):
        world.clock.forward(1000)
        phone.ago_ms += 1000
        await world.calls.media_up(mia, call_id, Phone())
        await world.report()
        await world.tick()
        if not (await world.call(call_id)).live:
            break
    call = await world.call(call_id)
    assert call.reason is Reason.LOST
    assert call.ended_ms == connected_ms + 10_000
    assert "call.suspended" in await world.names(mia)


async def test_decline_cancel_and_their_reasons(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    assert (await world.decline(mia, await world.ring(ann, mia))).reason is Reason.DECLINED
    assert (await world.cancel(ann, await world.ring(ann, mia))).reason is Reason.CANCELLED
    assert await world.busy() == set()


async def test_only_the_host_answers_and_only_the_caller_cancels(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.ring(ann, mia)
    with pytest.raises(Forbidden):
        await world.accept(ann, call_id)
    with pytest.raises(Forbidden):
        await world.cancel(mia, call_id)
    assert (await world.call(call_id)).state is State.RINGING


async def test_strangers_cannot_see_or_touch_a_call(world: World) -> None:
    ann, mia, eve = await world.user("ann", coins=100), await world.host("mia"), await world.user("eve")
    call_id = await world.ring(ann, mia)
    with pytest.raises(NotFound):
        await world.accept(eve, call_id)
    with pytest.raises(NotFound):
        await world.calls.get(eve, call_id)
    with pytest.raises(NotFound):
        await world.calls.signal(eve, call_id, kind="offer", payload={}, now_ms=0)
    with pytest.raises(NotFound):
        await world.calls.receipt(eve, call_id)


async def test_second_device_hears_that_another_answered(world: World) -> None:
    ann, desk = await world.user("ann", coins=100), await world.host("mia", device="desk")
    phone = await world.user("mia", device="phone")
    call_id = await world.ring(ann, desk)
    assert (await world.accept(desk, call_id)).accepted_device == "desk"
    with pytest.raises(Conflict):
        await world.accept(phone, call_id)
    elsewhere = next(t for t in await world.told(desk) if t.event == "call.answered_elsewhere")
    assert elsewhere.data["call"]["accepted_device"] == "desk"


async def test_another_device_cannot_keep_a_dead_one_alive(world: World) -> None:
    ann, desk = await world.user("ann", coins=100), await world.host("mia", device="desk")
    phone = await world.user("mia", device="phone")
    call_id = await world.connect(ann, desk)
    world.clock.forward(5_000)
    with pytest.raises(Forbidden):
        await world.calls.media_up(phone, call_id, Phone())
    with pytest.raises(Forbidden):
        await world.calls.media_down(phone, call_id)
    assert {sign.heard_ago_ms for sign in world.liveness.due()} == {0}, "the desk's socket still speaks for it"


async def test_the_other_device_may_hang_up_but_not_talk(world: World) -> None:
    ann, desk = await world.user("ann", coins=100), await world.host("mia", device="desk")
    phone = await world.user("mia", device="phone")
    call_id = await world.ring(ann, desk)
    await world.accept(desk, call_id)
    with pytest.raises(Forbidden):
        await world.calls.media_up(phone, call_id, Phone())
    with pytest.raises(Forbidden):
        await world.calls.credentials(phone, call_id)
    assert (await world.hang_up(phone, call_id)).reason is Reason.HUNG_UP_BY_HOST


@pytest.mark.parametrize("problem", ["away", "media", "price", "nobody", "no_host", "self"])
async def test_who_cannot_be_rung_is_refused_with_its_reason(world: World, problem: str) -> None:
    ann, bob = await world.user("ann", coins=100), await world.user("bob")
    mia = await world.host("mia", media=("voice",), price_coins=0 if problem == "price" else 10)
    if problem == "away":
        world.presence.away.add(mia.user_id)
    host = {"nobody": "zoe", "no_host": bob.user, "self": ann.user}.get(problem, mia.user)
    expected = {"nobody": NotFound, "no_host": NotFound, "self": SelfCall}.get(problem, HostUnavailable)
    with pytest.raises(expected):
        async with world.tx() as tx:
            await world.calls.invite(tx, ann, host=host, media="video" if problem == "media" else "voice")
    assert await world.busy() == set()


async def test_caller_who_rings_and_cancels_without_end_has_to_wait(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    for _ in range(INVITES_MAX):
        world.clock.forward(10)
        await world.cancel(ann, await world.invite(ann, mia))
    with pytest.raises(RateLimited) as refused:
        await world.invite(ann, mia)
    wait_ms = refused.value.details["retry_after_ms"]
    assert wait_ms == INVITES_WINDOW_MS - 10 * (INVITES_MAX - 1)
    world.clock.forward(INVITES_WINDOW_MS - 10 * (INVITES_MAX - 1) + 1)
    await world.invite(ann, mia)


async def test_busy_host_and_busy_caller_are_told_apart(world: World) -> None:
    ann, bob = await world.user("ann", coins=100), await world.user("bob", coins=100)
    mia, lea = await world.host("mia"), await world.host("lea")
    call_id = await world.ring(ann, mia)
    with pytest.raises(Busy) as host_busy:
        await world.invite(bob, mia)
    assert host_busy.value.details == {"who": "host"}
    with pytest.raises(Busy) as caller_busy:
        await world.invite(ann, lea)
    assert caller_busy.value.details == {"who": "caller", "call_id": str(call_id)}


async def test_invite_at_a_price_that_has_changed_is_refused_with_the_new_one(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia", price_coins=20)
    with pytest.raises(Conflict) as refused:
        async with world.tx() as tx:
            await world.calls.invite(tx, ann, host="mia", media="voice", shown_coins=10)
    assert refused.value.details == {"price_coins": 20, "pulse_ms": 60_000}
    async with world.tx() as tx:
        await world.calls.invite(tx, ann, host="mia", media="voice", shown_coins=20)
    assert await world.names(mia) == ["call.incoming"]


async def test_crossed_invites_become_one_call_whose_payer_stays(world: World) -> None:
    ann, mia = await world.host("ann", coins=100, price_coins=99), await world.host("mia", coins=100, price_coins=10)
    call_id = await world.invite(ann, mia)
    async with world.tx() as tx:
        crossed = await world.calls.invite(tx, mia, host="ann", media="voice")
    assert crossed.call.call_id == call_id
    assert (crossed.call.state, crossed.call.caller_id) == (State.ACCEPTED, ann.user_id)
    assert crossed.media is not None
    assert await world.names(ann) == ["call.accepted"]
    await world.calls.media_up(ann, call_id, Phone())
    await world.calls.media_up(mia, call_id, Phone())
    assert (await world.coins(ann), await world.coins(mia)) == (90, 100)


async def test_crossed_invites_for_other_media_ring_instead_of_opening_a_camera(world: World) -> None:
    ann, mia = await world.host("ann", coins=100), await world.host("mia", coins=100)
    call_id = await world.invite(ann, mia, media="video")
    with pytest.raises(Busy) as busy:
        await world.invite(mia, ann, media="voice")
    assert busy.value.details == {"who": "host", "call_id": str(call_id)}
    assert (await world.call(call_id)).state is State.INVITING


async def test_hang_up_counts_from_when_it_was_sent(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.connect(ann, mia)
    await world.talk(call_id, ms=62_000)
    assert await world.coins(ann) == 80
    call = await world.hang_up(ann, call_id, sent_ms_ago=3_000)
    assert call.spent_coins == 10
    assert await world.coins(ann) == 90


async def test_hang_ups_that_cross_are_both_answered_with_the_same_end(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.connect(ann, mia)
    first = await world.hang_up(ann, call_id)
    assert await world.hang_up(mia, call_id) == first
    assert (await world.names(ann)).count("call.ended") == 1


async def test_media_before_the_answer_is_refused(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.ring(ann, mia)
    with pytest.raises(InvalidTransition):
        await world.calls.media_up(ann, call_id, Phone())


async def test_signals_go_to_the_other_sides_device_only(world: World) -> None:
    ann, mia = await world.user("ann", coins=100, device="phone"), await world.host("mia", device="desk")
    call_id = await world.ring(ann, mia)
    with pytest.raises(InvalidTransition):
        await world.calls.signal(ann, call_id, kind="offer", payload={"sdp": "x"}, now_ms=1)
    await world.accept(mia, call_id)
    await world.calls.signal(ann, call_id, kind="offer", payload={"sdp": "x"}, now_ms=1)
    (event,) = world.signals.events
    assert (event.user_id, event.event) == (mia.user_id, "call.signal")
    assert b'"from_device":"phone"' in event.data
    assert b'"to_device":"desk"' in event.data
    with pytest.raises(PayloadTooLarge):
        await world.calls.signal(ann, call_id, kind="offer", payload="x" * 20_000, now_ms=1)
    with pytest.raises(InvalidData):
        await world.calls.signal(ann, call_id, kind="offer", payload=msgspec.msgpack.Ext(5, b"x"), now_ms=1)
    await world.hang_up(ann, call_id)
    with pytest.raises(CallOver):
        await world.calls.signal(ann, call_id, kind="candidate", payload={}, now_ms=1)


async def test_credentials_follow_the_funded_time(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia", pulse_ms=60_000)
    call_id = await world.connect(ann, mia)
    first = await world.calls.credentials(ann, call_id)
    assert first.expires_ms == world.clock.now_ms + 120_000
    await world.talk(call_id, ms=61_000)
    assert (await world.calls.credentials(ann, call_id)).expires_ms == first.expires_ms + 60_000
    await world.hang_up(ann, call_id)
    with pytest.raises(CallOver):
        await world.calls.credentials(ann, call_id)


async def test_device_that_connects_while_it_rings_rings_too(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.ring(ann, mia)
    (snapshot,) = await world.calls.snapshot(mia)
    assert (snapshot.call_id, snapshot.role, snapshot.state) == (str(call_id), "host", "ringing")
    await world.accept(mia, call_id)
    (snapshot,) = await world.calls.snapshot(mia)
    assert snapshot.state == "accepted"


async def test_history_pages_newest_first_over_both_roles(world: World) -> None:
    ann, mia = await world.host("ann", coins=100), await world.host("mia", coins=100)
    ids = []
    for n in range(5):
        caller, host = (ann, mia) if n % 2 else (mia, ann)
        world.clock.forward(1000)
        call_id = await world.ring(caller, host)
        await world.decline(host, call_id)
        ids.append(str(call_id))
    page, cursor = await world.calls.history(ann.user_id, before=None, limit=3)
    rest, end = await world.calls.history(ann.user_id, before=cursor, limit=3)
    assert [view.call_id for view in page + rest] == ids[::-1]
    assert end is None
    assert {view.role for view in page} == {"caller", "host"}


async def test_gift_in_a_call_names_the_call(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.connect(ann, mia)
    await world.gift(ann, "mia", "rose", call_id=call_id)
    received = next(t for t in await world.told(mia) if t.event == "gift.received")
    assert received.data["call_id"] == str(call_id)
