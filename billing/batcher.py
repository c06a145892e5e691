"""Natural batching: transfers that come in while others are being committed go together in the next transaction.

Owns the queue and its lanes. Must never import realtime or presence. Each transfer gets its own outcome; one that makes
the database raise is found by halving the batch and fails alone. A lost connection leaves open whether a batch was
committed: it is posted again, and the ids decide.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from billing.errors import BillingError, Busy, UnknownAccount
from billing.ledger import Posted, Transfer, post_all

BATCH_MAX = 500  # about 15 ms of PostgreSQL's time: what the last in a batch waits at most
PENDING_MAX = 20_000  # a second's worth; beyond it callers are told to wait
LANES = 4  # some are prepared and computed while others wait for the disk; a connection each
ASKS_MAX = 3  # for twins in flight; an account that is unknown then does not exist
RETRY_MS = 100
RETRIES_MAX = 50  # a restart of PostgreSQL takes seconds


@dataclass(slots=True)
class _Waiting:
    transfer: Transfer
    result: asyncio.Future[Posted]
    asks: int = 0


class _Lane:
    """A connection that is kept from batch to batch: handing it back costs the server a reset each time."""

    __slots__ = ("_conn", "_pool")

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._conn: asyncpg.Connection | None = None

    async def connection(self) -> asyncpg.Connection:
        if self._conn is None:
            self._conn = await self._pool.acquire()
        return self._conn

    async def release(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await self._pool.release(conn)


class TransferBatcher:
    """Posts transfers in batches, in transactions of its own.

    Args:
        pool: asyncpg pool, from which each lane holds a connection.
        batch_max: transfers in a transaction.
        lanes: transactions in flight.
    """

    __slots__ = ("_batch_max", "_lanes", "_pool", "_queue", "_wake")

    def __init__(self, pool: asyncpg.Pool, *, batch_max: int = BATCH_MAX, lanes: int = LANES) -> None:
        self._pool = pool
        self._batch_max = batch_max
        self._lanes = lanes
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled. Whoever waits for a transfer then gets Busy: it may or may not be booked."""
        try:
            async with asyncio.TaskGroup() as lanes:
                for _ in range(self._lanes):
                    lanes.create_task(self._lane())
        finally:
            while self._queue:
                _fail(self._queue.popleft(), Busy("the batcher has stopped"))

    async def post(self, transfer: Transfer) -> Posted:
        """Book a transfer and return its outcome, once it is committed. As `ledger.post`, which see for the errors.

        Raises:
            Busy: too many are waiting, or the database cannot be reached. Ask again with the same id.
        """
        if len(self._queue) >= PENDING_MAX:
            raise Busy(f"{PENDING_MAX} transfers are waiting")
        waiting = _Waiting(transfer, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake.set()
        posted = await waiting.result
        error = posted.error()
        if error is not None:
            raise error
        return posted

    async def _lane(self) -> None:
        lane = _Lane(self._pool)
        try:
            while True:
                await self._wake.wait()
                batch = self._next()
                if not batch:
                    self._wake.clear()
                    continue
                try:
                    await self._book(lane, batch)
                except BaseException:
                    for waiting in batch:
                        _fail(waiting, Busy("the batcher has stopped"))
                    raise
        finally:
            await lane.release()

    def _next(self) -> list[_Waiting]:
        """Take what may go together: no id and no debited account twice; the others keep their turn."""
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        taken: set[object] = set()
        while self._queue and len(batch) < self._batch_max and len(later) < self._batch_max:
            waiting = self._queue.popleft()
            transfer = waiting.transfer
            account = (transfer.debit, transfer.debit_owner)
            user = transfer.debit in ("wallet", "earnings")
            if transfer.transfer_id in taken or (user and account in taken):
                later.append(waiting)
                continue
            taken.add(transfer.transfer_id)
            taken.add(account)
            batch.append(waiting)
        self._queue.extendleft(reversed(later))
        return batch

    async def _book(self, lane: _Lane, batch: Sequence[_Waiting]) -> None:
        """Post a batch; on an unexpected refusal halve it until the culprit is alone."""
        retries = 0
        while True:
            try:
                posted = await post_all(await lane.connection(), [waiting.transfer for waiting in batch])
                break
            except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError, Busy) as exc:
                retries += 1
                if isinstance(exc, Busy) and len(batch) > 1:
                    return await self._halve(lane, batch)
                if not isinstance(exc, Busy):
                    await lane.release()
                if retries >= RETRIES_MAX:
                    return _fail_all(batch, Busy(f"the ledger cannot be reached: {exc}"))
                await asyncio.sleep(RETRY_MS / 1000)
            except (asyncpg.PostgresError, BillingError) as exc:
                if len(batch) > 1:
                    return await self._halve(lane, batch)
                return _fail_all(batch, exc)
        for waiting, outcome in zip(batch, posted, strict=True):
            self._answer(waiting, outcome)
        return None

    async def _halve(self, lane: _Lane, batch: Sequence[_Waiting]) -> None:
        half = len(batch) // 2
        await self._book(lane, batch[:half])
        await self._book(lane, batch[half:])

    def _answer(self, waiting: _Waiting, posted: Posted) -> None:
        if posted.outcome != "undecided":
            if not waiting.result.done():
                waiting.result.set_result(posted)
            return
        waiting.asks += 1
        if waiting.asks >= ASKS_MAX:
            _fail(waiting, UnknownAccount(f"transfer {posted.transfer_id}: no such account"))
        else:
            self._queue.append(waiting)
            self._wake.set()


def _fail_all(batch: Sequence[_Waiting], error: Exception) -> None:
    for waiting in batch:
        _fail(waiting, error)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.result.done():
        waiting.result.set_exception(error)
