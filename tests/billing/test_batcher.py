"""Natural batching: many transfers in few transactions, each with its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from billing import gifts, wallets
from billing.batcher import TransferBatcher
from billing.errors import BillingError, Busy, InsufficientFunds, InvalidAmount, TransferConflict, UnknownAccount
from billing.ledger import Posted, Transfer
from billing.tariffs import COINS_MAX
from tests.billing.conftest import CALLER, HOST, OTHER, Desk


@pytest.fixture
async def batcher(pool: asyncpg.Pool) -> AsyncIterator[TransferBatcher]:
    batcher = TransferBatcher(pool, batch_max=50)
    task = asyncio.create_task(batcher.run())
    yield batcher
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def rose(payer_id: int = CALLER, *, payee_id: int = HOST, price_coins: int = 10) -> Transfer:
    return gifts.payment(
        "gift",
        transfer_id=uuid4(),
        payer_id=payer_id,
        payee_id=payee_id,
        price_coins=price_coins,
        commission_bp=2500,
        memo="rose",
    )


async def outcome(batcher: TransferBatcher, transfer: Transfer) -> str:
    try:
        return (await batcher.post(transfer)).outcome
    except BillingError as exc:
        return exc.code


async def test_everybody_gets_his_own_outcome(desk: Desk, batcher: TransferBatcher) -> None:
    await desk.grant(95)
    await desk.grant(9, user_id=OTHER)
    rich = [rose() for _ in range(12)]
    outcomes = await asyncio.gather(*(outcome(batcher, t) for t in [*rich, rose(OTHER), rose(999), rich[0]]))
    # The repeat may overtake the first: then that one is told that it was booked already.
    paid = [told in ("done", "replayed") for told in outcomes]
    assert paid[:12].count(True) == 9
    assert outcomes[:12].count("insufficient_funds") == 3
    assert outcomes[12:14] == ["insufficient_funds", "unknown_account"]
    assert paid[14] == paid[0]
    assert await desk.coins(CALLER) == (5, 0, 0)
    assert await desk.coins(HOST) == (0, 0, 9 * 8)


async def test_repeat_is_booked_once(desk: Desk, batcher: TransferBatcher) -> None:
    await desk.grant(100)
    transfer = rose()
    posted = await asyncio.gather(*(batcher.post(transfer) for _ in range(20)))
    assert sorted({p.outcome for p in posted}) == ["done", "replayed"]
    assert await desk.coins(CALLER) == (90, 0, 0)


async def test_culprit_of_a_batch_fails_alone(desk: Desk, batcher: TransferBatcher) -> None:
    """A grant that bursts a wallet aborts its statement; the others of the batch must not suffer."""
    await desk.grant(COINS_MAX - 5, user_id=OTHER)
    grants = [
        Transfer(
            transfer_id=uuid4(),
            kind="grant",
            debit="sales",
            debit_owner=1,
            credit="wallet",
            credit_owner=user,
            coins=10,
            bucket="paid",
        )
        for user in (CALLER, OTHER, HOST)
    ]
    results = await asyncio.gather(*(batcher.post(grant) for grant in grants), return_exceptions=True)
    assert isinstance(results[0], Posted)
    assert isinstance(results[1], InvalidAmount)
    assert isinstance(results[2], Posted)
    assert await desk.coins(CALLER) == (10, 0, 0)


async def test_typed_errors_reach_the_caller(desk: Desk, batcher: TransferBatcher) -> None:
    await desk.grant(50)
    with pytest.raises(InsufficientFunds):
        await batcher.post(rose(price_coins=51))
    with pytest.raises(UnknownAccount):
        await batcher.post(rose(payee_id=999))
    first = rose()
    await batcher.post(first)
    other = gifts.payment(
        "gift",
        transfer_id=first.transfer_id,
        payer_id=CALLER,
        payee_id=HOST,
        price_coins=11,
        commission_bp=0,
        memo="rose",
    )
    with pytest.raises(TransferConflict):
        await batcher.post(other)


async def test_twins_in_two_batchers_are_booked_once(desk: Desk, pool: asyncpg.Pool) -> None:
    await desk.grant(1000)
    transfers = [rose() for _ in range(20)]
    batchers = [TransferBatcher(pool, batch_max=5) for _ in range(2)]
    tasks = [asyncio.create_task(b.run()) for b in batchers]
    posted = await asyncio.gather(*(b.post(t) for t in transfers for b in batchers))
    assert sorted(p.outcome for p in posted) == ["done"] * 20 + ["replayed"] * 20
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await desk.coins(CALLER) == (800, 0, 0)


async def test_stopped_batcher_lets_nobody_wait(desk: Desk, pool: asyncpg.Pool) -> None:
    batcher = TransferBatcher(pool)
    waiting = asyncio.create_task(batcher.post(rose()))
    await asyncio.sleep(0)
    task = asyncio.create_task(batcher.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises((Busy, InsufficientFunds)):
        await waiting
    assert (await wallets.balance(desk.conn, CALLER)).coins == 0
