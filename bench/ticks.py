"""Metering: how many ticks a second, and how late by the real clock.

100,000 one-minute meters on a million wallets, durable commits. The plain run drives them as fast as it goes on a clock
that is pushed ahead, and leaves the events in their outbox (`--take-events` takes them too). The paced run lets the
real worker keep up with the real clock, a consumer take the events, and users send gifts. Bulk liveness, each side of
each meter every five seconds of real time, is part of both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import time
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import uvloop

from bench._ledger import (
    SQL,
    Pgbench,
    durable_postgres,
    every,
    make_books,
    postgres_cpu_s,
    proved_books,
    settle,
)
from bench.harness import Figures, Scenario, percentile
from billing import metering
from billing.gifts import payment
from billing.metering import slots_between
from billing.tariffs import Tariff
from billing.transfers import TransferBatcher
from billing.worker import MeterWorker
from realtime.database import SESSION, open_pool
from realtime.embedded import Engines
from realtime.ids import new_id

PROOF_EVERY_S = 5.0  # as the clients report media
PROOF_SLICES = 50  # a bulk report has a fiftieth of the meters
GRACE_MS = 3_600_000  # the plain run's clock is pushed far ahead of the liveness reports, which keep real time
MINUTE_MS = 60_000
WARM_S = 10
TAKE = 1_000


@dataclass(slots=True)
class Load:
    """The state of a run: the clock that is pushed ahead, and what was measured."""

    url: str
    meters: list[UUID]
    now_ms: int
    ticks: int = 0
    proofs: int = 0
    taken: int = 0
    took_ms: list[float] = field(default_factory=list)

    async def tick(self, batch_ms: int, limit: int) -> None:
        """Charge what falls due in slice after slice of the pushed clock, until cancelled."""
        conn = await asyncpg.connect(self.url, server_settings=SESSION)
        with contextlib.closing(_Terminated(conn)):
            while True:
                from_ms = self.now_ms
                self.now_ms += batch_ms
                slots = slots_between(from_ms, from_ms + batch_ms - 1)
                began = time.perf_counter()
                done = await metering.tick(conn, limit=limit, now_ms=from_ms + batch_ms - 1, slots=slots)
                self.took_ms.append((time.perf_counter() - began) * 1000)
                self.ticks += done

    async def prove_by_clock(self) -> None:
        """As `prove`, with the real time."""
        await self.prove(pushed=False)

    async def prove(self, *, pushed: bool = True) -> None:
        """Report both sides of every meter every few seconds of real time, until cancelled."""
        conn = await asyncpg.connect(self.url, server_settings=SESSION)
        step = -(-len(self.meters) // PROOF_SLICES)
        slices = itertools.cycle([self.meters[n : n + step] for n in range(0, len(self.meters), step)])
        with contextlib.closing(_Terminated(conn)):

            async def report() -> None:
                ids = next(slices)
                zeros = [0] * len(ids)
                now_ms = self.now_ms if pushed else None
                await conn.execute("select billing.prove($1, $2, $3, $4)", now_ms, ids, zeros, zeros)
                self.proofs += len(ids)

            await every(PROOF_EVERY_S / PROOF_SLICES, report)

    async def take(self, pause_s: float) -> None:
        """Consume the events, until cancelled."""
        conn = await asyncpg.connect(self.url, server_settings=SESSION)
        with contextlib.closing(_Terminated(conn)):
            while True:
                events = await conn.fetchval("select count(*) from billing.take_events(2000)")
                self.taken += events
                await asyncio.sleep(0 if events == 2000 else pause_s)


class _Terminated:
    """Closes a connection at once, also in the middle of a statement."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn

    def close(self) -> None:
        self._conn.terminate()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--paced", action="store_true", help="by the real clock, with gifts")
    parser.add_argument("--meters", type=int, default=100_000)
    parser.add_argument("--wallets", type=int, default=1_000_000)
    parser.add_argument(
        "--seconds", type=int, default=20, help="length of the measurement (paced: after a first minute)"
    )
    parser.add_argument("--connections", type=int, default=3, help="tick workers of the plain run")
    parser.add_argument("--batch", type=int, default=2_000, help="meters in a statement of the plain run")
    parser.add_argument("--gifts", type=int, default=300, help="a second, in the paced run")
    parser.add_argument("--pgbench-seconds", type=int, default=10, help="of each of the two runs, before and after")
    parser.add_argument("--take-events", action="store_true", help="also take the events in the plain run")


def run(arguments: argparse.Namespace) -> Figures:
    with durable_postgres() as engines:
        if arguments.paced:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the server runs
                return runner.run(_paced(engines, arguments))
        pgbench = Pgbench(engines)
        pgbench.prepare()
        load = asyncio.run(_prepare(engines, arguments, grace_ms=GRACE_MS))
        before = pgbench.tps(arguments.pgbench_seconds)
        figures = asyncio.run(_flat_out(engines, load, arguments))
        tps = (before + pgbench.tps(arguments.pgbench_seconds)) / 2
        ratio = round(float(figures["ticks_per_s"]) / tps, 2)
        return {"ticks_per_s": figures.pop("ticks_per_s"), "pgbench_tps": round(tps), "ratio": ratio, **figures}


async def _prepare(engines: Engines, arguments: argparse.Namespace, *, grace_ms: int) -> Load:
    url = await make_books(engines, wallets=arguments.wallets, now_ms=time.time_ns() // 1_000_000)
    now_ms = time.time_ns() // 1_000_000
    conn = await asyncpg.connect(url)
    try:
        seed = (SQL / "seed_meters.sql").read_text()
        await conn.execute(seed, arguments.meters, arguments.wallets, now_ms, grace_ms)
        meters = [row[0] for row in await conn.fetch("select meter_id from billing.meters order by due_ms")]
    finally:
        await conn.close()
    await settle(url)
    return Load(url, meters, now_ms + MINUTE_MS)


async def _flat_out(engines: Engines, load: Load, arguments: argparse.Namespace) -> Figures:
    # Slots are tenths of a second: the batch is as many of them as hold about that many meters.
    batch_ms = max(100, round(arguments.batch * MINUTE_MS / arguments.meters / 100) * 100)
    load.now_ms -= load.now_ms % 100
    workers = [load.tick(batch_ms, metering.TICK_LIMIT_MAX) for _ in range(arguments.connections)]
    workers.append(load.prove())
    if arguments.take_events:
        workers.append(load.take(0.01))
    tasks = [asyncio.create_task(work) for work in workers]
    await asyncio.sleep(3)  # warm: plans made, first page images written
    ticks, proofs, taken, cpu_s, began = load.ticks, load.proofs, load.taken, postgres_cpu_s(engines), time.monotonic()
    load.took_ms.clear()
    await asyncio.sleep(arguments.seconds)
    took_s = time.monotonic() - began
    ticks, proofs, taken = load.ticks - ticks, load.proofs - proofs, load.taken - taken
    cpu_s = postgres_cpu_s(engines) - cpu_s
    await _end(tasks)
    return {
        "ticks_per_s": round(ticks / took_s),
        "p50_ms": round(percentile(load.took_ms, 0.50), 1),
        "p99_ms": round(percentile(load.took_ms, 0.99), 1),
        "postgres_cpu_us_each": round(cpu_s / ticks * 1e6, 1),
        "proofs_per_s": round(2 * proofs / took_s),
        "events_taken_per_s": round(taken / took_s),
        "batch": arguments.batch,
        "meters": arguments.meters,
        "wallets": arguments.wallets,
        **await proved_books(load.url),
    }


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _paced(engines: Engines, arguments: argparse.Namespace) -> Figures:
    load = await _prepare(engines, arguments, grace_ms=Tariff(price_coins=10).grace_ms)
    pool = await open_pool(load.url, name="bench", min_size=4, max_size=8)
    paced = Paced(pool, load)
    batcher = TransferBatcher(pool)
    written = asyncio.Event()
    works = (
        MeterWorker(pool, wake=written.set).run(),
        batcher.run(),
        load.prove_by_clock(),
        paced.consume(written),
        paced.give(batcher, arguments.gifts, arguments.wallets),
    )
    tasks = [asyncio.create_task(work) for work in works]
    # The first minute's pulses fall due from here on; a few seconds of it warm the plans.
    await asyncio.sleep(max(0.0, load.now_ms / 1000 - time.time()) + WARM_S)
    paced.lateness_ms.clear()
    paced.gift_ms.clear()
    cpu_s, own_s, began = postgres_cpu_s(engines), _own_cpu_s(), time.monotonic()
    await asyncio.sleep(arguments.seconds)
    took_s = time.monotonic() - began
    cpu_s, own_s = postgres_cpu_s(engines) - cpu_s, _own_cpu_s() - own_s
    late, gifts = list(paced.lateness_ms), list(paced.gift_ms)
    await _end(tasks)
    await pool.close()
    return {
        "lateness_p50_ms": round(percentile(late, 0.50), 1),
        "lateness_p99_ms": round(percentile(late, 0.99), 1),
        "lateness_max_ms": round(max(late), 1),
        "cores": round((cpu_s + own_s) / took_s, 3),
        "postgres_cores": round(cpu_s / took_s, 3),
        "worker_cores": round(own_s / took_s, 3),
        "ticks_per_s": round(len(late) / took_s),
        "gifts_per_s": round(len(gifts) / took_s),
        "gift_p99_ms": round(percentile(gifts, 0.99), 1),
        "other_events": paced.other,
        "meters": arguments.meters,
        "wallets": arguments.wallets,
        **await proved_books(load.url),
    }


@dataclass(slots=True)
class Paced:
    """A consumer of events and senders of gifts by the real clock, and what they saw."""

    pool: asyncpg.Pool
    load: Load
    lateness_ms: list[float] = field(default_factory=list)
    gift_ms: list[float] = field(default_factory=list)
    other: int = 0

    async def consume(self, written: asyncio.Event) -> None:
        """Take events when there are some: a pulse is late by the time from its moment until its event is in hand."""
        while True:
            await written.wait()
            written.clear()
            async with self.pool.acquire() as conn, conn.transaction():
                events = await metering.take_events(conn, limit=TAKE)
            now_ms = time.time() * 1000
            for event in events:
                if event.kind == "charged":
                    self.lateness_ms.append(now_ms - event.at_ms)
                else:
                    self.other += 1
            if len(events) == TAKE:
                written.set()

    async def give(self, batcher: TransferBatcher, per_s: int, wallets: int) -> None:
        """Send gifts at a steady rate, each by somebody else."""
        payers = itertools.cycle(range(1, wallets // 2))
        async with asyncio.TaskGroup() as gifts:

            async def one() -> None:
                gifts.create_task(self._gift(batcher, next(payers), wallets))

            await every(1 / per_s, one)

    async def _gift(self, batcher: TransferBatcher, payer_id: int, wallets: int) -> None:
        began = time.perf_counter()
        gift = payment(
            "gift",
            transfer_id=new_id(),
            payer_id=payer_id,
            payee_id=wallets - payer_id,
            price_coins=10,
            commission_bp=3000,
            memo="rose",
        )
        await batcher.post(gift)
        self.gift_ms.append((time.perf_counter() - began) * 1000)


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system


SCENARIO = Scenario(
    "ticks", "meters charged a second against pgbench; --paced: lateness by the real clock", add_arguments, run
)
