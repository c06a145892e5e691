"""What devices say about pushes: receipts over a socket, what became of an alert, what a user does not want."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal
from uuid import UUID

import asyncpg

from realtime.outbox import Tx
from realtime.protocol.errors import NotFound
from realtime.push.kinds import CATEGORIES, DAY_MS, KINDS
from realtime.push.store import PushStore

LEDGER_DAYS = 30
RECEIPT_DAYS = 1
QUEUE_LOG_DAYS = 7
PURGE_ROWS_MAX = 5_000

Report = Literal["received", "shown", "acted"]


class Pushes:
    """The service over the push ledger, besides planning and sending."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._store = PushStore()

    async def confirm(self, user_id: int, event_ids: Collection[str], *, now_ms: int) -> None:
        """A device of the user has taken these events over its socket: no push is needed for them any more.

        Ids that are no ids are ignored: an acknowledgement has no answer that could refuse them.
        """
        known = [id_ for id_ in map(_uuid, event_ids) if id_ is not None]
        if known:
            async with self._pool.acquire() as conn:
                await self._store.confirm(conn, user_id, known, now_ms)

    async def report(self, user_id: int, device_id: str, push_id: str, state: Report, *, now_ms: int) -> None:
        """Note that a push was received, shown or acted on.

        Raises:
            NotFound: no such push went to this device.
        """
        id_ = _uuid(push_id)
        async with self._pool.acquire() as conn:
            if id_ is None or not await self._store.report(conn, id_, user_id, device_id, state, now_ms):
                raise NotFound("no such push went to this device", push_id=push_id)

    async def mute(self, tx: Tx, user_id: int, category: str, *, muted: bool) -> None:
        """Switch a category of pushes off or on; essential kinds are sent in any case."""
        await self._store.set_mute(tx.conn, user_id, category, muted=muted)

    async def muted(self, user_id: int, *, conn: asyncpg.Connection | None = None) -> set[str]:
        """Return the categories that the user has switched off."""
        if conn is not None:
            return (await self._store.mutes(conn, (user_id,))).get(user_id, set())
        async with self._pool.acquire() as mine:
            return (await self._store.mutes(mine, (user_id,))).get(user_id, set())

    async def purge(self, *, now_ms: int) -> int:
        """Delete a batch of what is older than its retention; return how many rows went, and call again until 0."""
        async with self._pool.acquire() as conn:
            return await self._store.purge(
                conn,
                pushes_before_ms=now_ms - LEDGER_DAYS * DAY_MS,
                receipts_before_ms=now_ms - RECEIPT_DAYS * DAY_MS,
                log_days=QUEUE_LOG_DAYS,
                limit=PURGE_ROWS_MAX,
            )


def essentials(category: str) -> Sequence[str]:
    """Return the kinds of a category that are sent although it is muted."""
    return [kind.name for kind in KINDS.values() if kind.category == category and kind.essential]


def categories() -> Sequence[str]:
    """Return all categories, in the order of the settings page."""
    return CATEGORIES


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
