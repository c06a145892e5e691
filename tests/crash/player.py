"""A process that is going to be killed: a meter worker, a batcher, a gift desk, and users of all of them.

Run by the crash test: `python -m tests.crash.player URL LOG FIRST_USER SEED`. Every operation's outcome is appended to
LOG once it was acknowledged; an operation without answer is asked again under the same id until it has one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
from collections.abc import Awaitable, Callable
from typing import IO, Any
from uuid import UUID

import asyncpg

from billing import gifts, ledger, metering
from billing.errors import BillingError, InsufficientFunds
from billing.metering import Proof
from billing.tariffs import Tariff
from billing.transfers import TransferBatcher
from billing.worker import MeterWorker
from realtime.idempotency import Repeated, RequestKey, recall
from realtime.ids import new_id
from realtime.outbox import Outbox
from realtime.wallet.gifts import GiftDesk, Order
from realtime.wallet.views import GiftView, Person
from tests.calls.world import NoRelay

USERS = 6  # of one player: each calls and pays; hosts are shared by all players
HOSTS = (1, 2, 3)
TARIFFS = (
    Tariff(price_coins=3, pulse_ms=1_000, commission_bp=3_333, tax_bp=1_800),
    Tariff(price_coins=8, pulse_ms=2_000, commission_bp=2_500, rounding="second"),
)
PROVE_S = 0.3
LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError, OSError, TimeoutError)


class Player:
    """Users of one process and the log of what they were told."""

    def __init__(self, pool: asyncpg.Pool, log: IO[str], users: range, dice: random.Random) -> None:
        self._pool = pool
        self._log = log
        self._users = users
        self._dice = dice
        self._live: set[UUID] = set()

    async def run(self) -> None:
        batcher = TransferBatcher(self._pool)
        desk = GiftDesk(Outbox(self._pool, NoRelay()))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(MeterWorker(self._pool, wake=lambda: None, poll_ms=20).run())
            tasks.create_task(batcher.run())
            tasks.create_task(desk.run())
            tasks.create_task(self._prove())
            tasks.create_task(self._take())
            for user in self._users:
                tasks.create_task(self._user(user, batcher, desk))

    async def _user(self, user: int, batcher: TransferBatcher, desk: GiftDesk) -> None:
        while True:
            match self._dice.choice(("gift", "gift", "wired", "wired", "grant", "call")):
                case "gift":
                    await self._gift(user, batcher)
                case "wired":
                    await self._wired(user, desk)
                case "grant":
                    await self._top_up(user)
                case "call":
                    await self._call(user)

    async def _gift(self, user: int, batcher: TransferBatcher) -> None:
        gift = gifts.payment(
            "gift",
            transfer_id=new_id(),
            payer_id=user,
            payee_id=self._dice.choice(HOSTS),
            price_coins=self._dice.randrange(1, 9),
            commission_bp=2_500,
            memo="rose",
        )

        async def give() -> str:
            await batcher.post(gift)
            return "done"

        await self._until_told("gift", gift.transfer_id, gift.coins, give)

    async def _wired(self, user: int, desk: GiftDesk) -> None:
        """A gift as it comes over the wire: exactly once by its key, told and answered by the same transaction."""
        id_, coins = new_id(), self._dice.randrange(1, 9)
        key = RequestKey(1, user, str(id_), b"hash")

        async def give() -> str:
            transfer = gifts.payment(
                "gift",
                transfer_id=new_id(),
                payer_id=user,
                payee_id=self._dice.choice(HOSTS),
                price_coins=coins,
                commission_bp=2_500,
                memo=str(id_),
            )
            try:
                await desk.send(Order(transfer, key, Person(str(user), str(id_)), GiftView("r", "R", "r", coins), None))
            except (Repeated, InsufficientFunds):
                # As dispatch does: an answer that was not heard of, also when the coins are spent by now.
                async with self._pool.acquire() as conn:
                    if await recall(conn, key) is None:
                        raise
            return "done"

        await self._until_told("wired", id_, coins, give)

    async def _top_up(self, user: int) -> None:
        grant_id, coins = new_id(), self._dice.randrange(1, 40)

        async def give() -> str:
            async with self._pool.acquire() as conn, conn.transaction():
                await ledger.grant(
                    conn, transfer_id=grant_id, user_id=user, coins=coins, bucket="paid", reason="top-up"
                )
            return "done"

        await self._until_told("grant", grant_id, coins, give)

    async def _call(self, user: int) -> None:
        meter_id, host, tariff = new_id(), self._dice.choice(HOSTS), self._dice.choice(TARIFFS)

        async def begin() -> str:
            async with self._pool.acquire() as conn, conn.transaction():
                await metering.open_meter(
                    conn, meter_id=meter_id, tenant_id=1, payer_id=user, payee_id=host, tariff=tariff
                )
                return (await metering.start(conn, meter_id)).state

        async def end() -> int:
            async with self._pool.acquire() as conn, conn.transaction():
                return (await metering.stop(conn, meter_id, reason="hung_up")).spent_coins

        if await self._until_told("start", meter_id, 0, begin) != "running":
            return
        self._live.add(meter_id)
        await asyncio.sleep(self._dice.random() * 3)
        await self._until_told("stop", meter_id, 0, end)
        self._live.discard(meter_id)

    async def _until_told(self, op: str, id_: UUID, coins: int, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask until there is an answer, write it down, return it."""
        while True:
            try:
                answer = await ask()
            except LOST:
                await asyncio.sleep(0.05)
                continue
            except BillingError as exc:
                if exc.retryable:
                    await asyncio.sleep(0.05)
                    continue
                answer = exc.code
            except asyncpg.PostgresError:
                await asyncio.sleep(0.05)
                continue
            print(json.dumps({"op": op, "id": str(id_), "coins": coins, "answer": answer}), file=self._log, flush=True)
            return answer

    async def _prove(self) -> None:
        while True:
            proofs = [Proof(meter_id, side, 0) for meter_id in self._live for side in ("payer", "payee")]
            try:
                async with self._pool.acquire() as conn:
                    await metering.prove(conn, proofs)
            except (*LOST, asyncpg.PostgresError, BillingError):
                pass  # the database is away; blindness is a case of its own
            await asyncio.sleep(PROVE_S)

    async def _take(self) -> None:
        """Take events as calls do: in a transaction with what they cause."""
        while True:
            try:
                async with self._pool.acquire() as conn, conn.transaction():
                    events = await metering.take_events(conn)
                    rows = [(e.id, e.meter_id, e.kind, e.period) for e in events]
                    await conn.executemany("insert into taken values ($1, $2, $3, $4)", rows)
            except (*LOST, asyncpg.PostgresError):
                pass
            await asyncio.sleep(0.05)


async def main(url: str, log: str, first_user: int, seed: int) -> None:
    while True:
        try:
            pool = await asyncpg.create_pool(url, min_size=1, max_size=6, server_settings={"role": "talkmeter_app"})
            break
        except (*LOST, asyncpg.PostgresError):
            await asyncio.sleep(0.05)
    with open(log, "a", encoding="utf-8") as file:  # noqa: ASYNC230
        await Player(pool, file, range(first_user, first_user + USERS), random.Random(seed)).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
