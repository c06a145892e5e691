"""Natural batching: many transfers in few transactions, each with its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from billing import gifts, wallets
from billing.batcher import PENDING_MAX, Batcher, TransferBatcher
from billing.errors import BillingError, Busy, InsufficientFunds, InvalidAmount, TransferConflict, UnknownAccount
from billing.ledger import Posted, Transfer
from billing.tariffs import COINS_MAX
from tests.billing.conftest import CALLER, HOST, OTHER, Desk

WAIT_S = 20.0
NOBODY = 1_000_000  # users from here on have no wallets


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
        async with asyncio.timeout(WAIT_S):
            while True:
                if await owner.fetchval(
                    "select bool_or(pg_terminate_backend(pid, 5000)) from pg_stat_activity"
                    " where pg_backend_pid() = any (pg_blocking_pids(pid))"
                ):
                    break
                await asyncio.sleep(0.01)
    async with asyncio.timeout(WAIT_S):
        assert (await waiting).outcome == "done"
    assert await desk.coins(CALLER) == (90, 0, 0)


class Slow:
    """Books by keeping what it was asked, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = asyncio.Event()
        self.let = asyncio.Event()

    async def book(self, jobs: Sequence[int]) -> list[int | Exception | None]:
        self.batches.append(list(jobs))
        self.began.set()
        await self.let.wait()
        return list(jobs)


@asynccontextmanager
async def running(batcher: Batcher[int, int]) -> AsyncIterator[None]:
    task = asyncio.create_task(batcher.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def asks(batcher: Batcher[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.add(number, rose(payer_id=NOBODY + number))) for number in numbers]


async def test_first_goes_at_once_and_what_comes_meanwhile_goes_together() -> None:
    slow = Slow()
    batcher = Batcher(slow.book, lanes=1)
    async with running(batcher), asyncio.timeout(WAIT_S):
        first = asks(batcher, 1)
        await slow.began.wait()
        later = asks(batcher, 2, 3, 4, 5)
        await asyncio.sleep(0)
        assert batcher.waiting == 4
        slow.let.set()
        assert await asyncio.gather(*first, *later) == [1, 2, 3, 4, 5]
    assert slow.batches == [[1], [2, 3, 4, 5]]
    assert (batcher.batches, batcher.booked, batcher.waiting) == (2, 5, 0)


async def test_trickle_is_gathered_while_lanes_are_free() -> None:
    slow = Slow()
    slow.let.set()
    batcher = Batcher(slow.book, lanes=4)
    async with running(batcher), asyncio.timeout(WAIT_S):
        await asyncio.gather(*asks(batcher, 1))
        await asyncio.gather(*asks(batcher, 2), *asks(batcher, 3))
    assert slow.batches == [[1], [2, 3]]


async def test_no_batch_is_larger_than_its_limit() -> None:
    slow = Slow()
    slow.let.set()
    batcher = Batcher(slow.book, batch_max=3)
    async with running(batcher), asyncio.timeout(WAIT_S):
        await asyncio.gather(*asks(batcher, *range(1, 9)))
    assert [len(batch) for batch in slow.batches] == [3, 3, 2]


async def test_whoever_gave_up_before_the_start_is_not_booked() -> None:
    slow = Slow()
    slow.let.set()
    batcher = Batcher(slow.book)
    gone, stays = asks(batcher, 1, 2)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    async with running(batcher), asyncio.timeout(WAIT_S):
        assert await stays == 2
    assert slow.batches == [[2]]


async def test_full_queue_answers_that_it_is_busy() -> None:
    batcher = Batcher(Slow().book)
    waiting = asks(batcher, *range(1, PENDING_MAX + 1))
    await asyncio.sleep(0)
    with pytest.raises(Busy) as refused:
        await batcher.add(0, rose())
    assert (refused.value.retryable, refused.value.next_action) == (True, "wait")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


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
