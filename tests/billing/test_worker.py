"""The worker: claims and charges by itself, beside others, and is not stopped by one bad meter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg

from billing import metering, wallets
from billing.metering import Proof, slots_between
from billing.tariffs import Tariff
from billing.worker import MeterWorker
from tests.billing.conftest import CALLER, HOST, TENANT, Desk

SECOND = Tariff(price_coins=1, pulse_ms=1_000)
MINUTE = Tariff(price_coins=10)
WAIT_S = 20


@asynccontextmanager
async def working(*workers: MeterWorker) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        async with asyncio.timeout(WAIT_S):
            yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll the database, which tells nobody; `working` bounds the time."""
    while True:
        if await condition():
            return
        await asyncio.sleep(0.02)


async def calls_due(conn: asyncpg.Connection, tariff: Tariff, count: int) -> list[UUID]:
    """Return meters of as many callers whose second pulse is due now, with everybody heard."""
    now_ms = await conn.fetchval("select billing.clock_ms()")
    meters = [uuid4() for _ in range(count)]
    for n, meter_id in enumerate(meters):
        await wallets.open_wallet(conn, tenant_id=TENANT, user_id=1000 + n)
        desk = Desk(conn, now_ms=now_ms - tariff.pulse_ms)
        await desk.grant(1000, user_id=1000 + n)
        await metering.open_meter(
            conn,
            meter_id=meter_id,
            tenant_id=TENANT,
            payer_id=1000 + n,
            payee_id=HOST,
            tariff=tariff,
            now_ms=desk.now_ms,
        )
        await desk.start(meter_id)
    await metering.prove(conn, [Proof(m, side, 0) for m in meters for side in ("payer", "payee")])
    return meters


async def periods(conn: asyncpg.Connection) -> dict[UUID, int]:
    return {row[0]: row[1] for row in await conn.fetch("select meter_id, period from billing.meters")}


async def test_workers_side_by_side_charge_each_pulse_once(desk: Desk, pool: asyncpg.Pool) -> None:
    meters = await calls_due(desk.conn, MINUTE, 40)
    woken = asyncio.Event()

    async def all_charged() -> bool:
        return min((await periods(desk.conn)).values()) >= 2

    async with working(*(MeterWorker(pool, wake=woken.set, batch=7) for _ in range(3))):
        await wait_for(all_charged)
        await woken.wait()
    assert set((await periods(desk.conn)).values()) == {2}
    charged = [e.meter_id for e in await desk.events() if e.kind == "charged"]
    assert sorted(charged) == sorted(meters)


async def test_bad_meter_is_set_aside_and_the_others_are_charged(
    desk: Desk, pool: asyncpg.Pool, owner: asyncpg.Connection
) -> None:
    meters = await calls_due(desk.conn, MINUTE, 9)
    bad = meters[4]
    # A charge that is there already makes the whole statement fail.
    await owner.execute("insert into billing.charges values ($1, 2, 0, 10, 0, 10, 0, 0)", bad)
    faults: list[UUID] = []

    async def settled() -> bool:
        found = await periods(desk.conn)
        return bool(faults) and all(found[m] == 2 for m in meters if m != bad)

    worker = MeterWorker(pool, wake=lambda: None, on_fault=lambda meter_id, _: faults.append(meter_id))
    async with working(worker):
        await wait_for(settled)
    assert faults == [bad]
    totals = await metering.totals(desk.conn, bad)
    assert (totals.state, totals.periods) == ("faulted", 1)
    await owner.execute("set session_replication_role = replica")
    await owner.execute("delete from billing.charges where meter_id = $1 and period = 2", bad)
    await desk.conn.execute("select billing.put_back($1)", bad)
    await desk.hear(bad)
    assert (await metering.stop(desk.conn, bad, reason="hung_up")).state == "ended"


async def test_worker_charges_short_pulses_by_the_clock(desk: Desk, pool: asyncpg.Pool) -> None:
    await calls_due(desk.conn, SECOND, 3)

    async def three_pulses() -> bool:
        return min((await periods(desk.conn)).values()) >= 3

    async with working(MeterWorker(pool, wake=lambda: None)):
        await wait_for(three_pulses)


async def test_worker_goes_on_after_its_connections_were_cut(
    desk: Desk, pool: asyncpg.Pool, owner: asyncpg.Connection
) -> None:
    await calls_due(desk.conn, SECOND, 3)

    async def reached(period: int) -> bool:
        return min((await periods(desk.conn)).values()) >= period

    async with working(MeterWorker(pool, wake=lambda: None)):
        await wait_for(lambda: reached(2))
        await owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() "
            "and pid not in (pg_backend_pid(), $1)",
            desk.conn.get_server_pid(),
        )
        await wait_for(lambda: reached(3))


async def test_slots_find_the_meters_that_fall_due(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    due_ms = desk.now_ms + 60_000
    desk.now_ms = due_ms + 40
    await desk.hear(meter)
    other = slots_between(due_ms + 100, due_ms + 59_000)
    assert await metering.tick(desk.conn, now_ms=desk.now_ms, slots=other) == 0
    assert await metering.tick(desk.conn, now_ms=desk.now_ms, slots=slots_between(due_ms, desk.now_ms)) == 1


async def test_tick_since_finds_what_fell_due_since_the_last_round(desk: Desk) -> None:
    await desk.grant(1000)
    meter = await desk.call(MINUTE)
    desk.now_ms += 59_900
    handled, since_ms = await metering.tick_since(desk.conn, None, now_ms=desk.now_ms)
    assert (handled, since_ms) == (0, desk.now_ms)
    for _ in range(3):
        desk.now_ms += 60_000
        await desk.hear(meter)
        handled, since_ms = await metering.tick_since(desk.conn, since_ms, now_ms=desk.now_ms)
        assert handled == 1
    assert await desk.coins(CALLER) == (1000 - 4 * 10, 0, 0)
