"""Natural batching: transfers that come in while others are being committed go together in the next transaction.

Owns the queue, the pace and the lanes; what booking a batch means is handed in. Must never import realtime or presence.
Each job gets its own outcome; one that makes its batch fail is found by halving and fails alone. A lost connection
leaves open whether a batch was committed: it is booked again, and the ids decide.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import asyncpg

from billing.errors import Busy, UnknownAccount
from billing.ledger import Posted, Transfer, post_all

BATCH_MAX: Final = 500  # about 15 ms of PostgreSQL's time: what the last in a batch waits at most
PENDING_MAX: Final = 20_000  # a second's worth; beyond it callers are told to wait
LANES: Final = 4  # some are prepared and computed while others wait for the disk; a connection each
# A batch starts this long after the one before, unless it is full. A transaction costs ten times what one more transfer
# in it does, so a steady trickle is worth gathering; whoever comes first after a pause does not wait.
GATHER_MS: Final = 25
ASKS_MAX: Final = 3  # for twins in flight; an account that is unknown then does not exist
RETRY_MS: Final = 100
RETRIES_MAX: Final = 50  # a restart of PostgreSQL takes seconds

Job = TypeVar("Job")
Result = TypeVar("Result")
# Books jobs in one transaction, no two of which debit one wallet, and returns for each in order: its result, the error
# that it alone is refused with, or None when it could not be decided and is to be asked again. May be called again with
# the same jobs after a failure that left open whether it committed. What it raises, it has booked nothing of.
Book = Callable[[Sequence[Job]], Awaitable[Sequence[Result | Exception | None]]]


@dataclass(slots=True)
class _Waiting(Generic[Job, Result]):
    job: Job
    transfer: Transfer
    result: asyncio.Future[Result]
    asks: int = 0


class Batcher(Generic[Job, Result]):
    """Collects jobs, each of which posts a transfer, and has them booked in batches.

    Attributes:
        batches: how many were booked, halves of failed ones included.
        booked: how many jobs had a result.
    """

    def __init__(self, book: Book[Job, Result], *, batch_max: int = BATCH_MAX, lanes: int = LANES) -> None:
        """Args: batch_max: jobs in a transaction; lanes: transactions in flight."""
        self._book = book
        self._batch_max = batch_max
        self._lanes = lanes
        self._queue: deque[_Waiting[Job, Result]] = deque()
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._next_start_s = 0.0
        self.batches = 0
        self.booked = 0

    @property
    def waiting(self) -> int:
        """How many jobs are in no batch yet."""
        return len(self._queue)

    async def run(self) -> None:
        """Work until cancelled. Whoever waits for a result then gets Busy: it may or may not be booked."""
        free = asyncio.Semaphore(self._lanes)
        try:
            async with asyncio.TaskGroup() as bookings:
                while True:
                    await self._turn()
                    await free.acquire()
                    batch = self._next()
                    if batch:
                        bookings.create_task(self._lane(batch, free))
                    else:  # all of them have given up
                        free.release()
        finally:
            while self._queue:
                _fail(self._queue.popleft(), Busy("the batcher has stopped"))

    async def add(self, job: Job, transfer: Transfer) -> Result:
        """Have a job booked and return its result, once it is committed.

        Args:
            transfer: what the job posts; it decides which jobs go together.

        Raises:
            Busy: too many are waiting, or the database cannot be reached. Ask again with the same id.
            Exception: the job's own refusal.
        """
        if len(self._queue) >= PENDING_MAX:
            raise Busy(f"{PENDING_MAX} transfers are waiting")
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._enqueue(_Waiting(job, transfer, result))
        return await result

    def _enqueue(self, waiting: _Waiting[Job, Result]) -> None:
        self._queue.append(waiting)
        self._some.set()
        if len(self._queue) >= self._batch_max:
            self._full.set()

    async def _turn(self) -> None:
        """Wait until the next batch may start: something waits, and it is full or the last start is a while ago."""
        loop = asyncio.get_running_loop()
        while not self._queue:
            self._some.clear()
            await self._some.wait()
        pause_s = self._next_start_s - loop.time()
        if pause_s > 0 and len(self._queue) < self._batch_max:
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._full.wait()
        self._next_start_s = loop.time() + GATHER_MS / 1000

    def _next(self) -> list[_Waiting[Job, Result]]:
        """Take what may go together: no id and no debited account twice; the others keep their turn."""
        batch: list[_Waiting[Job, Result]] = []
        later: list[_Waiting[Job, Result]] = []
        taken: set[object] = set()
        while self._queue and len(batch) < self._batch_max and len(later) < self._batch_max:
            waiting = self._queue.popleft()
            if waiting.result.done():
                continue  # whoever asked has given up, before anything was done
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

    async def _lane(self, batch: Sequence[_Waiting[Job, Result]], free: asyncio.Semaphore) -> None:
        try:
            await self._settle(batch)
        except BaseException:
            for waiting in batch:
                _fail(waiting, Busy("the batcher has stopped"))
            raise
        finally:
            free.release()

    async def _settle(self, batch: Sequence[_Waiting[Job, Result]]) -> None:
        """Give each of a batch its outcome; on an unexpected failure halve it until the culprit is alone."""
        failure: Exception | None = None
        for _ in range(RETRIES_MAX):
            try:
                outcomes = await self._book([waiting.job for waiting in batch])
            except Exception as exc:
                failure = exc
            else:
                self.batches += 1
                for waiting, outcome in zip(batch, outcomes, strict=True):
                    self._answer(waiting, outcome)
                return
            if not _is_unreachable(failure):
                if len(batch) > 1:
                    half = len(batch) // 2
                    await self._settle(batch[:half])
                    await self._settle(batch[half:])
                    return
                if not isinstance(failure, Busy):
                    _fail(batch[0], failure)
                    return
            await asyncio.sleep(RETRY_MS / 1000)
        for waiting in batch:
            _fail(waiting, Busy(f"the ledger cannot be reached: {failure}"))

    def _answer(self, waiting: _Waiting[Job, Result], outcome: Result | Exception | None) -> None:
        if isinstance(outcome, Exception):
            _fail(waiting, outcome)
        elif outcome is not None:
            self.booked += 1
            if not waiting.result.done():
                waiting.result.set_result(outcome)
        elif waiting.asks + 1 < ASKS_MAX:
            waiting.asks += 1
            self._enqueue(waiting)
        else:
            _fail(waiting, UnknownAccount(f"transfer {waiting.transfer.transfer_id}: no such account"))


class TransferBatcher(Batcher[Transfer, Posted]):
    """Posts transfers in batches, each batch one statement on a connection of a pool.

    Args:
        pool: asyncpg pool with a connection for each lane; handing one back should cost no round trip.
    """

    def __init__(self, pool: asyncpg.Pool, *, batch_max: int = BATCH_MAX, lanes: int = LANES) -> None:
        super().__init__(self._post, batch_max=batch_max, lanes=lanes)
        self._pool = pool

    async def post(self, transfer: Transfer) -> Posted:
        """Book a transfer and return its outcome, once it is committed. As `ledger.post`, which see for the errors.

        Raises:
            Busy: too many are waiting, or the database cannot be reached. Ask again with the same id.
        """
        return await self.add(transfer, transfer)

    async def _post(self, transfers: Sequence[Transfer]) -> list[Posted | Exception | None]:
        async with self._pool.acquire() as conn:
            return [outcome_of(posted) for posted in await post_all(conn, transfers)]


def outcome_of(posted: Posted) -> Posted | Exception | None:
    """Return what a batcher is to be told of a transfer: booked, refused, or not decided."""
    return None if posted.outcome == "undecided" else posted.error() or posted


def _is_unreachable(exc: Exception) -> bool:
    """Whether the connection is to blame, and not what was asked."""
    return isinstance(
        exc,
        (
            asyncpg.PostgresConnectionError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,  # a connection that ends while a statement is being prepared
            asyncpg.AdminShutdownError,
            asyncpg.CrashShutdownError,
            asyncpg.CannotConnectNowError,
            asyncpg.TooManyConnectionsError,
            OSError,
        ),
    )


def _fail(waiting: _Waiting[Job, Result], error: Exception) -> None:
    if not waiting.result.done():
        waiting.result.set_exception(error)
