"""Transfers in batches, on real PostgreSQL: few transactions, and to each his own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from billing import gifts, wallets
from billing.batcher import Undecided, Verdict
from billing.errors import BillingError, Busy, InsufficientFunds, InvalidAmount, TransferConflict, UnknownAccount
from billing.ledger import Posted, Transfer
from billing.tariffs import COINS_MAX
from billing.transfers import TRANSFERS, TransferBatcher, judge, keys, outcome_of
from tests.billing.conftest import CALLER, HOST, OTHER, TENANT, Desk
from tests.locks import blocked

WAIT_S = 20.0


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


async def test_value_that_cannot_be_sent_to_the_database_fails_alone(desk: Desk, batcher: TransferBatcher) -> None:
    await desk.grant(10)
    results = await asyncio.gather(*(batcher.post(rose(payer)) for payer in (CALLER, 2**70)), return_exceptions=True)
    assert isinstance(results[0], Posted)
    assert isinstance(results[1], asyncpg.DataError)


async def test_connection_that_is_cut_under_a_batch_is_replaced(
    desk: Desk, batcher: TransferBatcher, owner: asyncpg.Connection
) -> None:
    await desk.grant(100)
    async with owner.transaction():
        await owner.execute("select from billing.spending_wallets where user_id = $1 for update", CALLER)
        waiting = asyncio.create_task(batcher.post(rose()))
        assert await owner.fetchval("select pg_terminate_backend($1, 5000)", await blocked(owner))
    async with asyncio.timeout(WAIT_S):
        assert (await waiting).outcome == "done"
    assert await desk.coins(CALLER) == (90, 0, 0)


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


async def test_transaction_holds_no_more_than_its_limit(desk: Desk, pool: asyncpg.Pool) -> None:
    users = range(1000, 1010)
    for user in users:
        await wallets.open_wallet(desk.conn, tenant_id=TENANT, user_id=user)
        await desk.grant(10, user_id=user)
    batcher = TransferBatcher(pool, batch_max=4)
    waiting = [asyncio.create_task(batcher.post(rose(user))) for user in users]
    await asyncio.sleep(0)
    task = asyncio.create_task(batcher.run())
    async with asyncio.timeout(WAIT_S):
        assert [(await posted).outcome for posted in waiting] == ["done"] * len(users)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert batcher.batches == 3


def test_payments_of_one_user_and_repeats_of_one_id_do_not_go_together() -> None:
    first, second, of_another = rose(), rose(), rose(OTHER)
    assert not set(keys(first)).isdisjoint(keys(second))
    assert set(keys(first)).isdisjoint(keys(of_another))
    assert not set(keys(first)).isdisjoint(keys(replace(of_another, transfer_id=first.transfer_id)))


def test_account_of_the_platform_may_pay_many_at_once() -> None:
    grants = [replace(rose(), transfer_id=uuid4(), kind="grant", debit="grants", debit_owner=TENANT) for _ in range(2)]
    assert set(keys(grants[0])).isdisjoint(keys(grants[1]))


@pytest.mark.parametrize(
    ("error", "transfers", "verdict"),
    [
        (asyncpg.ConnectionDoesNotExistError(), 500, Verdict.REPEAT),
        (asyncpg.CannotConnectNowError(), 500, Verdict.REPEAT),
        (ConnectionRefusedError(), 1, Verdict.REPEAT),
        (TimeoutError(), 500, Verdict.REPEAT),
        (asyncpg.InternalClientError(), 500, Verdict.REPEAT),
        (Busy(), 2, Verdict.HALVE),
        (Busy(), 1, Verdict.REPEAT),
        (InvalidAmount(), 2, Verdict.HALVE),
        (InvalidAmount(), 1, Verdict.HALVE),
        (asyncpg.DataError(), 500, Verdict.HALVE),
    ],
)
def test_what_is_nobodys_fault_is_tried_again_and_anything_else_is_isolated(
    error: Exception, transfers: int, verdict: Verdict
) -> None:
    assert judge(error, transfers) is verdict


def test_transfer_without_an_outcome_is_asked_again_and_taken_for_one_of_unknown_accounts_at_last() -> None:
    """A twin in flight looks the same for a while."""
    undecided = outcome_of(Posted(uuid4(), "undecided", None, 0, 0))
    assert isinstance(undecided, Undecided)
    assert isinstance(undecided.at_last, UnknownAccount)
    assert TRANSFERS.asks_max > 1
    booked = Posted(uuid4(), "replayed", None, 0, 0)
    assert outcome_of(booked) is booked
    assert isinstance(outcome_of(Posted(uuid4(), "refused", "insufficient_funds", 0, 0)), InsufficientFunds)


def test_retries_outlast_a_restart_of_postgresql() -> None:
    assert TRANSFERS.tries_max * TRANSFERS.repeat_ms == 5_000
