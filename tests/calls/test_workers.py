"""Deadlines, the meters' news and proofs of life: the work that no request asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from billing import metering
from billing.gifts import send_gift
from realtime.accounts.service import Accounts
from realtime.calls.conductor import Change
from realtime.calls.model import Call, Limits, MediaUp, Reason, Side, State
from realtime.calls.workers import FAILED_AGAIN_MS, Deadlines, MeterNews, Proofs
from realtime.ids import new_id
from realtime.protocol.principal import Principal
from tests.calls.world import Phone, World

WAIT_S = 10.0


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait, within bounds, for what another task is about to do."""
    async with asyncio.timeout(WAIT_S):
        while not await condition():  # noqa: ASYNC110 - the condition is a row in the database
            await asyncio.sleep(0.01)


async def reconnected(pool: asyncpg.Pool) -> bool:
    """Whether each of the pool's connections works again, or has been given up."""
    async with asyncio.TaskGroup() as group:
        looks = [group.create_task(_works(pool)) for _ in range(pool.get_max_size())]
    return all(look.result() for look in looks)


async def _works(pool: asyncpg.Pool) -> bool:
    try:
        async with pool.acquire() as conn:
            await conn.execute("select pg_sleep(0.02)")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        return False
    return True


async def with_push(world: World, who: Principal) -> None:
    async with world.tx() as tx:
        await world.accounts.register_push(tx, who, kind="fcm", address=f"address-of-{who.user}", platform="android")


async def ended(world: World, call_id: UUID) -> Call:
    assert await world.deadlines.sweep() == 1
    return await world.call(call_id)


async def test_unanswered_ring_is_missed_and_told_to_both(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.ring(ann, mia)
    world.clock.forward(world.limits.ring_timeout_ms - 1)
    assert await world.deadlines.sweep() == 0
    world.clock.forward(1)
    call = await ended(world, call_id)
    assert (call.state, call.reason, call.ended_ms) == (State.ENDED, Reason.MISSED, world.clock.now_ms)
    assert await world.busy() == set()
    assert world.presence.in_call == set()
    host_ended, caller_ended = [next(t for t in await world.told(who) if t.event == "call.ended") for who in (mia, ann)]
    assert host_ended.push, "the missed call is told to a phone that is asleep"
    assert not caller_ended.push


async def test_invite_that_reaches_no_device_and_no_push_is_unreachable(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.invite(ann, mia)
    world.clock.forward(world.limits.receipt_timeout_ms)
    assert (await ended(world, call_id)).reason is Reason.UNREACHABLE


async def test_pushed_invite_waits_until_the_cap_and_is_missed(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    await with_push(world, mia)
    call_id = await world.invite(ann, mia)
    world.clock.forward(world.limits.ring_cap_ms - 1)
    assert await world.deadlines.sweep() == 0
    world.clock.forward(1)
    assert (await ended(world, call_id)).reason is Reason.MISSED


async def test_late_receipt_does_not_ring_beyond_the_cap(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    await with_push(world, mia)
    call_id = await world.invite(ann, mia)
    world.clock.forward(world.limits.ring_cap_ms - 5_000)
    await world.calls.acknowledged(mia, [str(call_id)])
    world.clock.forward(5_000)
    assert (await ended(world, call_id)).reason is Reason.MISSED


async def test_answered_call_without_media_fails(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.ring(ann, mia)
    await world.accept(mia, call_id)
    await world.calls.media_up(ann, call_id, Phone())
    world.clock.forward(world.limits.connect_timeout_ms)
    assert (await ended(world, call_id)).reason is Reason.FAILED
    assert await world.coins(ann) == 100


async def test_call_whose_meters_last_word_was_lost_is_ended_by_its_deadline(world: World) -> None:
    ann, mia = await world.user("ann", coins=10), await world.host("mia")
    call_id = await world.connect(ann, mia)
    connected_ms = world.clock.now_ms
    await world.talk(call_id, ms=59_000)
    world.clock.forward(2_000)
    async with world.pool.acquire() as conn:
        await world.report()
        await metering.tick(conn, now_ms=world.clock.now_ms)
        lost = await metering.take_events(conn)  # taken and committed by somebody who told nobody
    assert [event.kind for event in lost][-1] == "exhausted"
    assert (await world.call(call_id)).live
    world.clock.forward(world.limits.watch_ms)
    call = await ended(world, call_id)
    assert (call.reason, call.ended_ms) == (Reason.EXHAUSTED, connected_ms + 60_000)
    assert await world.busy() == set()


async def test_talking_call_passes_its_watch_and_goes_on(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia", pulse_ms=600_000)
    call_id = await world.connect(ann, mia)
    world.clock.forward(world.limits.watch_ms)
    call = await ended(world, call_id)
    assert (call.state, call.deadline_ms) == (State.CONNECTED, world.clock.now_ms + world.limits.watch_ms)


class Crash(Exception):
    """The process dies here."""


async def media_and_crash(world: World, call_id: UUID) -> None:
    """Everything that the second report of media does, but for the commit."""
    async with world.tx() as tx:
        call = await world.store.lock(tx.conn, call_id)
        assert call is not None
        await world.conductor.apply(tx, {call_id: call}, [Change(call_id, MediaUp(Side.HOST))], world.clock.now_ms)
        raise Crash


async def test_crash_between_steps_leaves_nothing_half_done(world: World) -> None:
    """A transaction that dies before its commit has written, told and charged nothing; the next one finds it all."""
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.ring(ann, mia)
    await world.accept(mia, call_id)
    await world.calls.media_up(ann, call_id, Phone())
    told = len(await world.told())

    with pytest.raises(Crash):
        await media_and_crash(world, call_id)
    assert (await world.call(call_id)).state is State.ACCEPTED
    assert await world.coins(ann) == 100
    assert len(await world.told()) == told
    await world.calls.media_up(mia, call_id, Phone())
    assert (await world.call(call_id)).state is State.CONNECTED
    assert await world.coins(ann) == 90


async def test_news_of_a_consumer_that_died_is_taken_again(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.connect(ann, mia)
    await world.talk(call_id, ms=59_000)
    world.clock.forward(2_000)
    await world.report()
    async with world.pool.acquire() as conn:
        await metering.tick(conn, now_ms=world.clock.now_ms)
        transaction = conn.transaction()
        await transaction.start()
        assert await metering.take_events(conn)
        await transaction.rollback()
    assert await world.news.consume() == 1
    assert (await world.names(ann)).count("call.charged") == 2


async def test_two_consumers_tell_each_charge_once(world: World) -> None:
    calls = []
    for n in range(10):
        ann, mia = await world.user(f"ann{n}", coins=100), await world.host(f"mia{n}", pulse_ms=1_000, price_coins=1)
        calls.append((ann, await world.connect(ann, mia)))
    ids = [call_id for _, call_id in calls]
    for _ in range(5):
        world.clock.forward(1_000)
        async with world.pool.acquire() as conn:
            await world.report()
            await metering.tick(conn, now_ms=world.clock.now_ms + 1)
        await asyncio.gather(world.news.consume(), world.news.consume())
    await world.talk(*ids, ms=1_000)
    for ann, call_id in calls:
        periods = [t.data["period"] for t in await world.told(ann) if t.event == "call.charged"]
        assert sorted(periods) == list(range(1, len(periods) + 1))
        assert (await world.call(call_id)).spent_coins == len(periods)


async def test_one_broken_call_does_not_hold_up_the_news_of_others(world: World, owner: asyncpg.Connection) -> None:
    """A fault planted in the database for one call only."""
    pairs = []
    for n in range(3):
        ann, mia = await world.user(f"ann{n}", coins=100), await world.host(f"mia{n}")
        pairs.append((ann, await world.connect(ann, mia)))
    broken = pairs[1][1]
    await owner.execute(f"alter table realtime.calls add check (id <> '{broken}' or periods < 2) not valid")
    await world.talk(*[call_id for _, call_id in pairs], ms=61_000)
    charged = [(await world.names(ann)).count("call.charged") for ann, _ in pairs]
    assert charged == [2, 1, 2]


async def test_call_that_cannot_be_ended_does_not_stand_before_the_others(
    world: World, owner: asyncpg.Connection
) -> None:
    """A fault planted in the database for one call only, whose deadline is the first."""
    calls = []
    for n in range(3):
        ann, mia = await world.user(f"ann{n}", coins=100), await world.host(f"mia{n}")
        calls.append(await world.ring(ann, mia))
        world.clock.forward(1)
    await owner.execute(
        f"alter table realtime.calls add constraint planted check (id <> '{calls[0]}' or state <> 'ended') not valid"
    )
    world.clock.forward(world.limits.ring_timeout_ms)
    assert await world.deadlines.sweep() == 3
    assert [(await world.call(call_id)).live for call_id in calls] == [True, False, False]
    assert await world.deadlines.sweep() == 0, "it waits before it is tried again"
    world.clock.forward(FAILED_AGAIN_MS)
    await owner.execute("alter table realtime.calls drop constraint planted")
    assert await world.deadlines.sweep() == 1
    assert not (await world.call(calls[0])).live


async def test_charge_that_is_heard_of_after_the_end_is_in_the_wallet_that_the_end_told(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.connect(ann, mia)
    await world.talk(call_id, ms=59_000)
    world.clock.forward(2_000)
    await world.report()
    await world.hang_up(ann, call_id)  # charges the pulse that was due, whose news is not consumed yet
    wallets = [t for t in await world.told(ann) if t.event == "wallet.changed"]
    assert wallets[-1].data["wallet"]["coins"] == 80 == await world.coins(ann)
    told = await world.told()
    assert await world.news.consume() == 1
    assert await world.told() == told


async def test_hang_up_after_the_coins_ran_out_says_exhausted(world: World) -> None:
    ann, mia = await world.user("ann", coins=10), await world.host("mia")
    call_id = await world.connect(ann, mia)
    connected_ms = world.clock.now_ms
    await world.talk(call_id, ms=59_000)
    world.clock.forward(3_000)
    await world.report()
    async with world.pool.acquire() as conn:
        await metering.tick(conn, now_ms=world.clock.now_ms)  # whose news is not consumed yet
    call = await world.hang_up(ann, call_id)
    assert (call.reason, call.ended_ms) == (Reason.EXHAUSTED, connected_ms + 60_000)
    receipt = await world.calls.receipt(ann, call_id)
    assert (receipt.reason, receipt.ended_ms) == ("exhausted", call.ended_ms)


async def test_gift_in_a_call_tells_both_the_earlier_end_and_a_top_up_the_later_one(world: World) -> None:
    ann, mia = await world.user("ann", coins=30), await world.host("mia")
    call_id = await world.connect(ann, mia)
    connected_ms = world.clock.now_ms
    await world.talk(call_id, ms=10_000)
    async with world.pool.acquire() as conn, conn.transaction():
        await send_gift(
            conn,
            transfer_id=new_id(),
            payer_id=ann.user_id,
            payee_id=mia.user_id,
            price_coins=15,
            commission_bp=3000,
            memo="rose",
            now_ms=world.clock.now_ms,
        )
    await world.news.consume()
    async with world.tx() as tx:
        await world.wallets.grant(tx, ann.user_id, coins=20, bucket="paid", reason="test")
    await world.news.consume()
    for who in (ann, mia):
        told = await world.told(who)
        low, extended = [t for t in told if t.event in ("call.low_balance", "call.extended")]
        assert (low.event, low.data["threshold_ms"], low.data["ends_at_ms"]) == (
            "call.low_balance",
            0,
            connected_ms + 60_000,
        )
        assert (extended.event, extended.data["ends_at_ms"]) == ("call.extended", connected_ms + 180_000)


async def test_news_of_one_batch_is_told_in_the_order_in_which_it_happened(world: World) -> None:
    ann, mia = await world.user("ann", coins=20), await world.host("mia", pulse_ms=5_000)
    call_id = await world.connect(ann, mia)
    for _ in range(11):
        world.clock.forward(1_000)
        await world.calls.media_up(ann, call_id, Phone())
        await world.calls.media_up(mia, call_id, Phone())
        await world.report()
        async with world.pool.acquire() as conn:
            await metering.tick(conn, now_ms=world.clock.now_ms)
    assert await world.news.consume() == 3
    assert (await world.names(ann))[-4:] == ["call.charged", "call.charged", "call.low_balance", "call.ended"]


async def test_workers_run_until_cancelled_and_survive_the_database(pool: asyncpg.Pool, pg_url: str) -> None:
    """The loops themselves, on the real clock."""
    limits = Limits(ring_timeout_ms=100, ring_cap_ms=200, receipt_timeout_ms=100, connect_timeout_ms=100)
    world = World(pool, await Accounts(pool).ensure_tenant("main"), limits=limits, real_time=True)
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    tasks = [
        asyncio.create_task(
            Deadlines(outbox=world.outbox, pool=pool, store=world.store, conductor=world.conductor).run()
        ),
        asyncio.create_task(
            MeterNews(
                outbox=world.outbox, pool=pool, store=world.store, meters=world.meters, conductor=world.conductor
            ).run()
        ),
        asyncio.create_task(Proofs(pool=pool, meters=world.meters, liveness=world.liveness).run()),
    ]
    try:
        first = await world.ring(ann, mia)

        async def over(call_id: UUID) -> bool:
            return not (await world.call(call_id)).live

        await until(lambda: over(first))
        assert (await world.call(first)).reason is Reason.MISSED
        server = await asyncpg.connect(pg_url)
        await server.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        await server.close()
        await until(lambda: reconnected(pool))
        second = await world.invite(ann, mia)
        await until(lambda: over(second))
        assert (await world.call(second)).reason is Reason.UNREACHABLE
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
