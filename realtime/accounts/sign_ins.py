"""Sign-ins in natural batches: those that come while others are at the database go together in its next statement.

Owns the queue, the lanes and what a failed batch means; the statement is the store's. Must never import another
feature. After the restart of a node all of its apps come back at once: one by one, each is a round trip and a commit
(docs/decisions/0063).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

from realtime.accounts.models import HostDefaults
from realtime.accounts.store import AccountStore, SignIn, SignInRow
from realtime.database import UNREACHABLE
from realtime.protocol.errors import Unavailable

BATCH_MAX: Final = 500  # about 30 ms of PostgreSQL's time: what the last in a batch waits at most
PENDING_MAX: Final = 50_000  # all sockets of a node, twice over; beyond it clients are told to wait
LANES: Final = 2  # one is prepared while the other waits for the disk; a connection each
# A batch starts this long after the one before, unless it is full. What follows it (subscribing, resuming, presence)
# keeps together, so the pace makes the batches of all that larger. Whoever comes after a pause does not wait.
GATHER_MS: Final = 10
# How stale "last seen" of a connected device may be. Sessions touch those that stay, once in this time; one that comes
# back within it is only looked up.
LAST_SEEN_MIN: Final = 10
REPEATS_MAX: Final = 3  # of a batch that may go well the next time
REPEAT_PAUSE_S: Final = 0.05  # in which the loop hears that connections have ended
TIMEOUT_S: Final = 8.0  # of a statement: below a handler's patience, so that clients hear what it was
RETRY_AFTER_MS: Final = 1_000

# The last is what asyncpg says of a pooled connection that the server ended a moment ago; the next one is another.
REPEATABLE: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.InternalClientError)


class _Waiting(NamedTuple):
    asked: SignIn
    answer: asyncio.Future[SignInRow | None]


class SignIns:
    """Collects sign-ins and has the store do them in batches. Lives on one event loop.

    Args:
        pool: of which up to LANES connections are used.
        hosts: what a new host offers.
    """

    def __init__(self, pool: asyncpg.Pool, store: AccountStore, hosts: HostDefaults) -> None:
        self._pool = pool
        self._store = store
        self._hosts = hosts
        self._pending: deque[_Waiting] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._closed = False
        self._next_start_s = 0.0
        self.batches = 0

    async def sign_in(self, asked: SignIn) -> SignInRow | None:
        """Have one sign-in done; None when the user does not exist yet.

        Raises:
            Unavailable: the database cannot be reached, or too many are waiting.
        """
        if self._closed or len(self._pending) >= PENDING_MAX:
            raise Unavailable("too many are signing in", retry_after_ms=RETRY_AFTER_MS)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[SignInRow | None] = loop.create_future()
        self._pending.append(_Waiting(asked, answer))
        if len(self._lanes) < LANES:
            # It starts in the loop's next turn, so all that this turn brings goes along.
            lane = loop.create_task(self._drain(), name="sign-ins")
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        return await answer

    async def close(self) -> None:
        """Refuse what waits, and wait for what is at the database."""
        self._closed = True
        _fail(self._pending, "the node stops")
        self._pending.clear()
        await asyncio.gather(*self._lanes, return_exceptions=True)

    async def _drain(self) -> None:
        while self._pending:
            await self._pace()
            batch = self._next()
            try:
                await self._settle(batch)
            except asyncio.CancelledError:
                _fail(batch, "the node stops")
                raise

    async def _pace(self) -> None:
        """Wait until the next batch may start: it is full, or the start of the last one is a while ago."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        start_s = max(now_s, self._next_start_s)
        self._next_start_s = start_s + GATHER_MS / 1000
        if start_s > now_s and len(self._pending) < BATCH_MAX:
            await asyncio.sleep(start_s - now_s)

    def _next(self) -> list[_Waiting]:
        """Take what may go together: no user twice; the others keep their turn."""
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        users: set[tuple[int, str]] = set()
        while self._pending and len(batch) < BATCH_MAX and len(later) < BATCH_MAX:
            waiting = self._pending.popleft()
            user = (waiting.asked.tenant_id, waiting.asked.external_id)
            if waiting.answer.done():
                continue  # whoever asked has given up, before anything was done
            if user in users:
                later.append(waiting)
            else:
                users.add(user)
                batch.append(waiting)
        self._pending.extendleft(reversed(later))
        return batch

    async def _settle(self, batch: Sequence[_Waiting]) -> None:
        """Give each of a batch (it may be empty) its answer; on an unexpected failure halve it to find the culprit."""
        failure: Exception | None = None
        for _ in range(REPEATS_MAX if batch else 0):
            try:
                rows = await self._book(batch)
            except UNREACHABLE as exc:
                _fail(batch, f"the database cannot be reached: {type(exc).__name__}")
                return
            except REPEATABLE as exc:
                failure = exc
                await asyncio.sleep(REPEAT_PAUSE_S)
            except Exception as exc:
                failure = exc
                break
            else:
                for waiting, row in zip(batch, rows, strict=True):
                    if not waiting.answer.done():
                        waiting.answer.set_result(row)
                return
        if len(batch) > 1:
            half = len(batch) // 2
            await self._settle(batch[:half])
            await self._settle(batch[half:])
        elif batch and not batch[0].answer.done():
            batch[0].answer.set_exception(failure or AssertionError("unreachable"))

    async def _book(self, batch: Sequence[_Waiting]) -> list[SignInRow | None]:
        self.batches += 1
        async with self._pool.acquire() as conn:
            return await self._store.sign_in(
                conn,
                [waiting.asked for waiting in batch],
                self._hosts,
                fresh_min=LAST_SEEN_MIN,
                timeout_s=TIMEOUT_S,
            )


def _fail(batch: Sequence[_Waiting] | deque[_Waiting], why: str) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(Unavailable(why, retry_after_ms=RETRY_AFTER_MS))
            waiting.answer.exception()  # a caller that has gone must not make the loop complain
