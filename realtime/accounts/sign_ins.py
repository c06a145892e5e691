"""Sign-ins in natural batches: those that come while others are at the database go together in its next statement.

Owns the limits of such batches and what a failure of the database means for them; the statement is the store's, queue,
pace and lanes are the batcher's. Must never import another feature. After the restart of a node all of its apps come
back at once: one by one, each is a round trip and a commit (docs/decisions/0063).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Sequence
from functools import partial
from typing import Final

import asyncpg

from billing.batcher import Batcher, Options, Verdict
from realtime.accounts.models import HostDefaults
from realtime.accounts.store import AccountStore, SignIn, SignInRow
from realtime.database import UNREACHABLE
from realtime.protocol.errors import Unavailable

# How stale "last seen" of a connected device may be. Sessions touch those that stay, once in this time; one that comes
# back within it is only looked up.
LAST_SEEN_MIN: Final = 10
TIMEOUT_S: Final = 8.0  # of a statement: below a handler's patience, so that clients hear what it was
RETRY_AFTER_MS: Final = 1_000
# The last is what asyncpg says of a pooled connection that the server ended a moment ago; the next one is another.
REPEATABLE: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.InternalClientError)


def judge(error: Exception, _sign_ins: int) -> Verdict:
    """Return what is to be done about sign-ins that failed together."""
    if isinstance(error, UNREACHABLE):
        return Verdict.REFUSE  # an app that hears so comes again by itself, and its socket is not held meanwhile
    return Verdict.REPEAT if isinstance(error, REPEATABLE) else Verdict.HALVE


SIGN_INS: Final = Options(
    batch_max=500,  # about 30 ms of PostgreSQL's time
    pending_max=50_000,  # all sockets of a node, twice over
    lanes=2,  # one is prepared while the other waits for the disk; a connection each
    # What follows a sign-in (subscribing, resuming, presence) keeps together, so the pace makes the batches of all
    # that larger too.
    gather_ms=10,
    tries_max=3,
    repeat_ms=50,  # in which the loop hears that connections have ended
    judge=judge,
    refusal=partial(Unavailable, retry_after_ms=RETRY_AFTER_MS),
)


class SignIns:
    """Collects sign-ins and has the store do them in batches. Lives on one event loop.

    Args:
        pool: of which a connection for each lane is used.
        hosts: what a new host offers.
    """

    def __init__(self, pool: asyncpg.Pool, store: AccountStore, hosts: HostDefaults) -> None:
        self._pool = pool
        self._store = store
        self._hosts = hosts
        self._batcher: Batcher[SignIn, SignInRow | None] = Batcher(self._book, _keys, SIGN_INS)
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def batches(self) -> int:
        return self._batcher.batches

    async def sign_in(self, asked: SignIn) -> SignInRow | None:
        """Have one sign-in done; None when the user does not exist yet.

        Raises:
            Unavailable: the database cannot be reached, or too many are waiting.
        """
        if self._closed:
            raise Unavailable("the server stops", retry_after_ms=RETRY_AFTER_MS)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._batcher.run(until_idle=True), name="sign-ins")
        return await self._batcher.add(asked)

    async def close(self) -> None:
        """Refuse those that wait or are at the database, and all that come."""
        self._closed = True
        self._batcher.dismiss()  # also when what has been started did not come to its first step
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _book(self, asked: Sequence[SignIn]) -> list[SignInRow | None]:
        async with self._pool.acquire() as conn:
            return await self._store.sign_in(conn, asked, self._hosts, fresh_min=LAST_SEEN_MIN, timeout_s=TIMEOUT_S)


def _keys(asked: SignIn) -> Collection[Hashable]:
    """Return what a sign-in takes: its user, whose row a statement can change only once."""
    return ((asked.tenant_id, asked.external_id),)
