"""What must hold when everything happens at once, on separate connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from uuid import UUID

import asyncpg
import pytest

from realtime.calls.model import Call, Reason, State
from realtime.protocol.errors import Busy, CallOver, Conflict, InvalidTransition, TalkmeterError
from realtime.protocol.principal import Principal
from tests.calls.world import Phone, World

CALLERS = 50


async def outcome(work: Awaitable[object]) -> object:
    """The result, or the refusal, of one of many."""
    try:
        return await work
    except (TalkmeterError, asyncpg.DeadlockDetectedError) as exc:
        return exc


async def meet(world: World, caller: Principal, host: Principal) -> Call:
    """Invite, and return whatever call came of it."""
    async with world.tx() as tx:
        return (await world.calls.invite(tx, caller, host=host.user, media="voice")).call


async def live_calls(world: World) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await world.pool.fetch("select * from realtime.calls where state <> 'ended'")
    return rows


async def test_fifty_invites_at_once_ring_a_host_exactly_once(world: World) -> None:
    mia = await world.host("mia")
    callers = [await world.user(f"caller{n}", coins=100) for n in range(CALLERS)]
    results = await asyncio.gather(*[outcome(world.invite(caller, mia)) for caller in callers])
    assert sum(isinstance(result, UUID) for result in results) == 1
    assert sum(isinstance(result, Busy) for result in results) == CALLERS - 1
    assert await world.names(mia) == ["call.incoming"]
    assert len(await live_calls(world)) == 1
    assert len(await world.busy()) == 2


async def test_nobody_is_ever_in_two_calls(world: World) -> None:
    """Everybody is a host and calls everybody, while calls are declined and cancelled."""
    users = [await world.host(f"user{n}", coins=1_000) for n in range(8)]
    chance = random.Random(1)

    async def live(seed: int) -> None:
        mine = random.Random(seed)
        for _ in range(12):
            caller, host = mine.sample(users, 2)
            made = await outcome(world.invite(caller, host))
            assert not isinstance(made, asyncpg.DeadlockDetectedError), "both rows are taken in one order"
            if isinstance(made, UUID):
                end = world.decline(host, made) if mine.random() < 0.5 else world.cancel(caller, made)
                await outcome(end)

    async def watch(done: asyncio.Event) -> int:
        looks = 0
        while not done.is_set():
            rows = await live_calls(world)
            inside = [user for row in rows for user in (row["caller_id"], row["host_id"])]
            assert len(inside) == len(set(inside)), "somebody is in two calls"
            looks += 1
        return looks

    done = asyncio.Event()
    watcher = asyncio.create_task(watch(done))
    await asyncio.gather(*[live(chance.randrange(10**6)) for _ in range(6)])
    done.set()
    assert await watcher > 0
    for row in await live_calls(world):
        who = next(user for user in users if user.user_id == row["caller_id"])
        await world.hang_up(who, row["id"])
    assert await world.busy() == set()


async def test_crossed_invites_at_once_make_one_call(world: World) -> None:
    for n in range(10):
        ann, mia = await world.host(f"ann{n}", coins=100), await world.host(f"mia{n}", coins=100)

        first, second = await asyncio.gather(meet(world, ann, mia), meet(world, mia, ann))
        assert first.call_id == second.call_id
        assert first.caller_id == second.caller_id, "the payer never flips"
        assert (await world.call(first.call_id)).state is State.ACCEPTED


async def test_two_devices_that_answer_at_once_are_told_who_won(world: World) -> None:
    ann = await world.user("ann", coins=100)
    devices = [await world.host("mia", device=f"device{n}") for n in range(6)]
    call_id = await world.ring(ann, devices[0])
    results = await asyncio.gather(*[outcome(world.accept(device, call_id)) for device in devices])
    winners = [result for result in results if isinstance(result, Call)]
    assert len(winners) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 5
    assert (await world.call(call_id)).accepted_device == winners[0].accepted_device
    assert (await world.names(devices[0])).count("call.answered_elsewhere") == 1


async def test_cancel_and_accept_at_once_have_one_winner(world: World) -> None:
    for n in range(10):
        ann, mia = await world.user(f"ann{n}", coins=100), await world.host(f"mia{n}")
        call_id = await world.ring(ann, mia)
        cancelled, accepted = await asyncio.gather(
            outcome(world.cancel(ann, call_id)), outcome(world.accept(mia, call_id))
        )
        call = await world.call(call_id)
        if isinstance(cancelled, Call):
            assert isinstance(accepted, CallOver)
            assert call.reason is Reason.CANCELLED
            assert await world.busy() == set()
        else:
            assert isinstance(cancelled, InvalidTransition)
            assert isinstance(accepted, Call)
            assert call.state is State.ACCEPTED
            await world.hang_up(ann, call_id)


async def test_media_from_both_sides_at_once_charges_the_first_pulse_once(world: World) -> None:
    for n in range(10):
        ann, mia = await world.user(f"ann{n}", coins=100), await world.host(f"mia{n}")
        call_id = await world.ring(ann, mia)
        await world.accept(mia, call_id)
        await asyncio.gather(*[world.calls.media_up(who, call_id, Phone()) for who in (ann, mia, ann, mia)])
        assert (await world.call(call_id)).state is State.CONNECTED
        assert await world.coins(ann) == 90
        assert (await world.names(ann)).count("call.connected") == 1


async def test_end_and_pulse_at_once_leave_one_end_and_sound_books(world: World) -> None:
    for n in range(10):
        ann, mia = await world.user(f"ann{n}", coins=20), await world.host(f"mia{n}")
        call_id = await world.connect(ann, mia)
        await world.talk(call_id, ms=59_000)
        world.clock.forward(1_500)
        await world.report()
        await asyncio.gather(
            world.hang_up(ann, call_id), world.hang_up(mia, call_id), world.tick(), world.news.consume()
        )
        await world.news.consume()
        call = await world.call(call_id)
        assert call.state is State.ENDED
        assert (await world.names(ann)).count("call.ended") == 1
        assert await world.coins(ann) == 20 - call.spent_coins


async def test_deadline_workers_side_by_side_end_each_call_once(world: World) -> None:
    pairs = [(await world.user(f"ann{n}", coins=100), await world.host(f"mia{n}")) for n in range(30)]
    for ann, mia in pairs:
        await world.ring(ann, mia)
    world.clock.forward(world.limits.ring_timeout_ms)
    handled = await asyncio.gather(*[world.deadlines.sweep() for _ in range(4)])
    assert sum(handled) == 30
    assert await live_calls(world) == []
    for ann, _ in pairs:
        assert (await world.names(ann)).count("call.ended") == 1


async def test_deadline_and_accept_at_once_have_one_winner(world: World) -> None:
    for n in range(10):
        ann, mia = await world.user(f"ann{n}", coins=100), await world.host(f"mia{n}")
        call_id = await world.ring(ann, mia)
        world.clock.forward(world.limits.ring_timeout_ms)
        _, accepted = await asyncio.gather(world.deadlines.sweep(), outcome(world.accept(mia, call_id)))
        call = await world.call(call_id)
        if isinstance(accepted, Call):
            assert call.state is State.ACCEPTED
            await world.hang_up(ann, call_id)
        else:
            assert isinstance(accepted, CallOver)
            assert call.reason is Reason.MISSED


async def test_operations_in_a_wrong_order_change_nothing(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.connect(ann, mia)
    before = await world.call(call_id)
    for late in (world.decline(mia, call_id), world.cancel(ann, call_id)):
        with pytest.raises(InvalidTransition):
            await late
    await world.calls.acknowledged(mia, [str(call_id)])
    assert await world.accept(mia, call_id) == before
    assert await world.call(call_id) == before
    await world.hang_up(ann, call_id)
    ended = await world.call(call_id)
    for too_late in (world.accept(mia, call_id), world.decline(mia, call_id), world.cancel(ann, call_id)):
        with pytest.raises(CallOver):
            await too_late
    assert await world.call(call_id) == ended
