"""Everything at once on many connections: no deadlock, no lost coin, and the books are sound."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID, uuid4

import asyncpg

from billing import gifts, ledger, metering, wallets
from billing.errors import BillingError
from billing.metering import Proof
from billing.tariffs import Tariff
from billing.transfers import TransferBatcher
from tests.billing.conftest import TENANT, Desk

PAYERS = range(1000, 1030)
HOSTS = range(2000, 2004)  # few, so that everybody meets at their wallets
SHORT = Tariff(price_coins=9, pulse_ms=1_000, commission_bp=3_000)
ROUNDS = 60


async def test_crowd_on_few_wallets_meets_no_deadlock(
    desk: Desk, pool: asyncpg.Pool, owner: asyncpg.Connection
) -> None:
    for user in (*PAYERS, *HOSTS):
        await wallets.open_wallet(desk.conn, tenant_id=TENANT, user_id=user)
    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    before = await owner.fetchval(deadlocks)
    dice = random.Random(7)
    now_ms = desk.now_ms
    live: dict[int, UUID] = {}
    refused: list[BillingError] = []
    batcher = TransferBatcher(pool)
    batching = asyncio.create_task(batcher.run())

    async def calls(conn: asyncpg.Connection) -> None:
        payer, host = dice.choice(PAYERS), dice.choice(HOSTS)
        old = live.pop(payer, None)
        if old is not None:
            await metering.stop(conn, old, reason="hung_up", now_ms=now_ms)
        meter = uuid4()
        await metering.open_meter(
            conn, meter_id=meter, tenant_id=TENANT, payer_id=payer, payee_id=host, tariff=SHORT, now_ms=now_ms
        )
        await metering.start(conn, meter, now_ms=now_ms)
        live[payer] = meter

    async def one_round(task: int) -> None:
        async with pool.acquire() as conn:
            match task % 6:
                case 0:
                    await metering.tick(conn, limit=10, now_ms=now_ms)
                case 1:
                    ages = [
                        Proof(m, side, dice.choice((0, 0, 12_000, 25_000))) for m in live.values() for side in SIDES
                    ]
                    await metering.prove(conn, ages, now_ms=now_ms)
                case 2 | 3:
                    await calls(conn)
                case 4:
                    await grant(conn, dice.choice(PAYERS))
        if task % 6 == 5:
            await batcher.post(rose(dice.choice(PAYERS), dice.choice(HOSTS)))

    async def player(number: int) -> None:
        nonlocal now_ms
        for turn in range(ROUNDS):
            now_ms += 50
            try:
                await one_round(number + turn)
            except BillingError as exc:
                refused.append(exc)

    try:
        await asyncio.gather(*(player(n) for n in range(6)))
    finally:
        batching.cancel()
        await asyncio.gather(batching, return_exceptions=True)
    assert not [error for error in refused if error.retryable]
    await pool.close()  # the last of a connection is to say what it counted
    async with asyncio.timeout(20):
        await gone(owner, desk.conn.get_server_pid())
    assert await owner.fetchval(deadlocks) == before


OTHERS = """
select count(*) from pg_stat_activity
where datname = current_database() and backend_type = 'client backend' and pid not in (pg_backend_pid(), $1)
"""
SIDES: tuple[metering.Side, ...] = ("payer", "payee")


async def gone(owner: asyncpg.Connection, besides: int) -> None:
    """Wait until nobody else is connected; the server tells nobody of that, so it is asked."""
    while True:
        if not await owner.fetchval(OTHERS, besides):
            return
        await asyncio.sleep(0.01)


def rose(payer_id: int, payee_id: int) -> ledger.Transfer:
    return gifts.payment(
        "gift",
        transfer_id=uuid4(),
        payer_id=payer_id,
        payee_id=payee_id,
        price_coins=3,
        commission_bp=1_000,
        memo="rose",
    )


async def grant(conn: asyncpg.Connection, user_id: int) -> None:
    await ledger.grant(conn, transfer_id=uuid4(), user_id=user_id, coins=40, bucket="paid", reason="top-up")
