"""Natural batching: jobs that come in while others are being done go together in the next batch.

Owns the queue, who may go together, the pace, the lanes, and what becomes of a batch that fails; what doing a batch
means, and which limits are right for it, its users say: `billing.transfers`, `realtime.wallet.gifts` and
`realtime.accounts.sign_ins`. Imports nothing of the project, so that all of them may import it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

# Does a batch and returns for each job in order: its result, the error that it alone fails with, or Undecided. What it
# raises is about the batch: nothing of it is done, or that is not known. It may be called again with the same jobs.
Book = Callable[[Sequence[Job]], Awaitable[Sequence[Result | Exception]]]
# What a job takes: jobs that share a key never go into one batch, and go in the order in which they came.
Keys = Callable[[Job], Collection[Hashable]]


class Undecided(Exception):
    """The outcome of a job that is to be asked again, some batches later."""

    def __init__(self, at_last: Exception) -> None:
        """Args: at_last: what it fails with when it stays undecided."""
        self.at_last = at_last


class Verdict(Enum):
    """What is to be done about a batch that failed."""

    REPEAT = auto()  # none of them is to blame: the same once more after a pause; refuse all when it never goes well
    REFUSE = auto()  # none of them is to blame, and they had better not wait here
    HALVE = auto()  # one of them may be: do each half by itself, until the culprit is alone and fails with the error


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What differs from one use to the other.

    Attributes:
        batch_max: jobs in a batch: it bounds what the last of them waits for.
        pending_max: jobs in no batch yet; whoever comes then is refused.
        lanes: batches that are being done at a time.
        gather_ms: a batch starts this long after the one before, unless it is full. Whoever comes first after a pause
            does not wait.
        asks_max: how often an undecided job is done in all.
        tries_max: how often a batch is tried whose verdict is REPEAT.
        repeat_ms: the pause between two tries.
        judge: returns the verdict over a batch of so many jobs that failed with an error.
        refusal: makes the error of those who may come again, from the reason.
    """

    batch_max: int
    pending_max: int
    lanes: int
    gather_ms: int
    asks_max: int = 1
    tries_max: int
    repeat_ms: int
    judge: Callable[[Exception, int], Verdict]
    refusal: Callable[[str], Exception]


@dataclass(slots=True)
class _Waiting(Generic[Job, Result]):
    job: Job
    result: asyncio.Future[Result]
    asks: int = 1


class Batcher(Generic[Job, Result]):
    """Collects jobs and has them done in batches, each with its own outcome.

    Attributes:
        batches: how many went well, halves of failed ones included.
        booked: how many jobs had a result.
    """

    def __init__(self, book: Book[Job, Result], keys: Keys[Job], options: Options) -> None:
        self._book = book
        self._keys = keys
        self._options = options
        self._queue: deque[_Waiting[Job, Result]] = deque()
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._next_start_s = 0.0
        self._under_way = 0
        self.batches = 0
        self.booked = 0

    @property
    def waiting(self) -> int:
        """How many jobs are in no batch yet."""
        return len(self._queue)

    async def run(self, *, until_idle: bool = False) -> None:
        """Work until cancelled. Whoever waits for a result then is refused: the job may or may not be done.

        Args:
            until_idle: end by itself when nothing waits and nothing is under way; it may be run again.
        """
        free = asyncio.Semaphore(self._options.lanes)
        try:
            while self._queue or not until_idle:
                async with asyncio.TaskGroup() as lanes:
                    while await self._turn(until_idle):
                        await free.acquire()
                        batch = self._next()
                        if batch:
                            self._under_way += 1
                            lanes.create_task(self._lane(batch, free))
                        else:  # all of them have given up
                            free.release()
        finally:
            self.dismiss()

    def dismiss(self) -> None:
        """Refuse those that are in no batch."""
        self._refuse(self._queue, "the server stops")
        self._queue.clear()

    async def add(self, job: Job) -> Result:
        """Have a job done and return its result.

        Raises:
            Exception: the job's own error, or the options' refusal: too many are waiting, or it cannot be done now.
        """
        if len(self._queue) >= self._options.pending_max:
            raise self._options.refusal(f"{self._options.pending_max} are waiting")
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._enqueue(_Waiting(job, result))
        return await result

    def _enqueue(self, waiting: _Waiting[Job, Result]) -> None:
        self._queue.append(waiting)
        self._some.set()
        if len(self._queue) >= self._options.batch_max:
            self._full.set()

    async def _turn(self, until_idle: bool) -> bool:
        """Wait until the next batch may start: something waits, and it is full or the last start is a while ago.

        Returns:
            False when nothing is left to wait for.
        """
        loop = asyncio.get_running_loop()
        while not self._queue:
            if until_idle and not self._under_way:
                return False
            self._some.clear()
            await self._some.wait()
        pause_s = self._next_start_s - loop.time()
        if pause_s > 0 and len(self._queue) < self._options.batch_max:
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._full.wait()
        self._next_start_s = loop.time() + self._options.gather_ms / 1000
        return True

    def _next(self) -> list[_Waiting[Job, Result]]:
        """Take what may go together, the one that has waited longest first; the others keep their turn."""
        batch: list[_Waiting[Job, Result]] = []
        later: list[_Waiting[Job, Result]] = []
        taken: set[Hashable] = set()
        most = self._options.batch_max
        while self._queue and len(batch) < most and len(later) < most:
            waiting = self._queue.popleft()
            if waiting.result.done():
                continue  # whoever asked has given up, before anything was done
            keys = self._keys(waiting.job)
            (batch if taken.isdisjoint(keys) else later).append(waiting)
            taken.update(keys)  # of those who stay too, or the next might overtake them
        self._queue.extendleft(reversed(later))
        return batch

    async def _lane(self, batch: Sequence[_Waiting[Job, Result]], free: asyncio.Semaphore) -> None:
        try:
            await self._settle(batch)
        except BaseException:
            self._refuse(batch, "the server stops")
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._some.set()  # for a run that ends when it is idle
            free.release()

    async def _settle(self, batch: Sequence[_Waiting[Job, Result]]) -> None:
        """Give each of a batch its outcome."""
        failure: Exception | None = None
        for _ in range(self._options.tries_max):
            try:
                outcomes = await self._book([waiting.job for waiting in batch])
            except Exception as exc:
                failure = exc
            else:
                self.batches += 1
                for waiting, outcome in zip(batch, outcomes, strict=True):
                    self._answer(waiting, outcome)
                return
            match self._options.judge(failure, len(batch)):
                case Verdict.HALVE:
                    await self._halve(batch, failure)
                    return
                case Verdict.REFUSE:
                    break
                case Verdict.REPEAT:
                    await asyncio.sleep(self._options.repeat_ms / 1000)
        self._refuse(batch, f"it cannot be done now: {type(failure).__name__}", failure)

    async def _halve(self, batch: Sequence[_Waiting[Job, Result]], failure: Exception) -> None:
        if len(batch) == 1:
            _fail(batch[0], failure)
            return
        half = len(batch) // 2
        await self._settle(batch[:half])
        await self._settle(batch[half:])

    def _answer(self, waiting: _Waiting[Job, Result], outcome: Result | Exception) -> None:
        if not isinstance(outcome, Exception):
            self.booked += 1
            if not waiting.result.done():
                waiting.result.set_result(outcome)
        elif not isinstance(outcome, Undecided):
            _fail(waiting, outcome)
        elif waiting.asks < self._options.asks_max:
            waiting.asks += 1
            self._enqueue(waiting)
        else:
            _fail(waiting, outcome.at_last)

    def _refuse(self, refused: Collection[_Waiting[Job, Result]], reason: str, cause: Exception | None = None) -> None:
        for waiting in refused:
            error = self._options.refusal(reason)  # one each: a traceback is written into what is raised
            error.__cause__ = cause
            _fail(waiting, error)


def _fail(waiting: _Waiting[Job, Result], error: Exception) -> None:
    if not waiting.result.done():
        waiting.result.set_exception(error)
        waiting.result.exception()  # an asker whose loop has gone must not make asyncio complain
