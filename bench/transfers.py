"""Transfers: gifts a second through natural batching, each with its own outcome, against pgbench.

Many users send gifts one after the other, each waiting until his is committed. Durable commits, a million wallets.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from uuid import UUID

import uvloop

from bench._ledger import Pgbench, durable_postgres, make_books, postgres_cpu_s, proved_books, settle
from bench.harness import Figures, Scenario, percentile
from billing.gifts import payment
from billing.transfers import TransferBatcher
from realtime.database import open_pool
from realtime.embedded import Engines

WARM_S = 3
COMMISSION_BP = 2_500
PRICE_COINS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wallets", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=4_000, help="who send at a time")
    parser.add_argument("--batch", type=int, default=500, help="transfers in a transaction at most")
    parser.add_argument("--lanes", type=int, default=4, help="transactions in flight")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--pgbench-seconds", type=int, default=10, help="of each of the two runs, before and after")


def run(arguments: argparse.Namespace) -> Figures:
    with durable_postgres() as engines:
        pgbench = Pgbench(engines)
        pgbench.prepare()
        url = asyncio.run(_prepare(engines, arguments.wallets))
        before = pgbench.tps(arguments.pgbench_seconds)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the server runs
            figures = runner.run(_measure(engines, url, arguments))
        tps = (before + pgbench.tps(arguments.pgbench_seconds)) / 2
        ratio = round(float(figures["transfers_per_s"]) / tps, 2)
        return {"transfers_per_s": figures.pop("transfers_per_s"), "pgbench_tps": round(tps), "ratio": ratio, **figures}


async def _prepare(engines: Engines, wallets: int) -> str:
    url = await make_books(engines, wallets=wallets, now_ms=time.time_ns() // 1_000_000)
    await settle(url)
    return url


async def _measure(engines: Engines, url: str, arguments: argparse.Namespace) -> Figures:
    pool = await open_pool(url, name="bench", min_size=arguments.lanes, max_size=arguments.lanes)
    batcher = TransferBatcher(pool, batch_max=arguments.batch, lanes=arguments.lanes)
    took_ms: list[float] = []
    tasks = [asyncio.create_task(batcher.run())]
    tasks += [asyncio.create_task(_user(batcher, arguments.wallets, took_ms)) for _ in range(arguments.users)]
    await asyncio.sleep(WARM_S)
    took_ms.clear()
    cpu_s, own_s, began = postgres_cpu_s(engines), time.process_time(), time.monotonic()
    await asyncio.sleep(arguments.seconds)
    took_s, cpu_s, done = time.monotonic() - began, postgres_cpu_s(engines) - cpu_s, len(took_ms)
    own_s = time.process_time() - own_s
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.close()
    return {
        "transfers_per_s": round(done / took_s),
        "p50_ms": round(percentile(took_ms, 0.50), 1),
        "p99_ms": round(percentile(took_ms, 0.99), 1),
        "postgres_cpu_us_each": round(cpu_s / done * 1e6, 1),
        "python_cpu_us_each": round(own_s / done * 1e6, 1),
        "users": arguments.users,
        "wallets": arguments.wallets,
        **await proved_books(url),
    }


async def _user(batcher: TransferBatcher, wallets: int, took_ms: list[float]) -> None:
    """Send gifts, one at a time, each from somebody of the lower half to somebody of the upper."""
    half = wallets // 2
    while True:
        gift = payment(
            "gift",
            transfer_id=_id(),
            payer_id=random.randrange(1, half),
            payee_id=random.randrange(half + 1, wallets),
            price_coins=PRICE_COINS,
            commission_bp=COMMISSION_BP,
            memo="rose",
        )
        began = time.perf_counter()
        await batcher.post(gift)
        took_ms.append((time.perf_counter() - began) * 1000)


def _id() -> UUID:
    """A time-ordered id as senders make them; cheap, since the sender's time is not what is measured."""
    return UUID(int=int(time.time() * 1000) << 80 | 0x7 << 76 | 0x2 << 62 | random.getrandbits(62))


SCENARIO = Scenario("transfers", "gifts a second through natural batching against pgbench", add_arguments, run)
