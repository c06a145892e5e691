"""Rows of calls and of the busy lock. Owns realtime.calls and realtime.busy; no other part reads or writes them.

Takes the caller's connection, inside its transaction; knows no rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg

from realtime.calls.model import Call, Reason, State
from realtime.sql import load_sql

DAY_MS: Final = 86_400_000
MILLIS_SHIFT: Final = 80  # where a time-ordered id keeps its milliseconds (RFC 9562, section 5.7)


class CallStore:
    """Reads and writes calls; each method is one statement of calls.sql."""

    def __init__(self, *, clock_ms: Callable[[], int] | None = None) -> None:
        """Args: clock_ms: stands in for the database's clock, in tests."""
        self._sql = load_sql(Path(__file__).with_name("calls.sql"))
        self._clock_ms = clock_ms

    async def now_ms(self, conn: asyncpg.Connection) -> int:
        """Return the database's clock in unix milliseconds."""
        if self._clock_ms is not None:
            return self._clock_ms()
        now: int = await conn.fetchval(self._sql["now_ms"])
        return now

    async def insert(self, conn: asyncpg.Connection, call: Call) -> frozenset[int]:
        """Store a new call and take both users; return those that were not free (then roll back)."""
        await conn.execute(
            self._sql["insert_call"],
            call.call_id,
            call.tenant_id,
            call.caller_id,
            call.host_id,
            call.media,
            call.price_coins,
            call.pulse_ms,
            call.state,
            call.v,
            call.created_ms,
            call.ring_by_ms,
            call.deadline_ms,
            call.pushable,
            call.caller_device,
        )
        users = sorted((call.caller_id, call.host_id))
        rows = await conn.fetch(self._sql["take_busy"], call.tenant_id, users, call.call_id)
        return frozenset(users) - {row["user_id"] for row in rows}

    async def get(self, conn: asyncpg.Connection, call_id: UUID) -> Call | None:
        return _call_or_none(await conn.fetchrow(self._sql["get_call"], call_id))

    async def lock(self, conn: asyncpg.Connection, call_id: UUID) -> Call | None:
        """Return the call, locked until the transaction's end."""
        return _call_or_none(await conn.fetchrow(self._sql["lock_call"], call_id))

    async def lock_many(self, conn: asyncpg.Connection, call_ids: Sequence[UUID]) -> dict[UUID, Call]:
        """Return those calls that exist, locked in one order everywhere."""
        return {row["id"]: _call(row) for row in await conn.fetch(self._sql["lock_calls"], call_ids)}

    async def claim_due(self, conn: asyncpg.Connection, now_ms: int, limit: int) -> list[Call]:
        """Return calls whose deadline has passed, locked, without those that another worker holds."""
        return [_call(row) for row in await conn.fetch(self._sql["claim_due"], now_ms, limit)]

    async def postpone(self, conn: asyncpg.Connection, call_ids: Sequence[UUID], deadline_ms: int) -> None:
        """Move the deadlines of live calls that this transaction has locked."""
        await conn.execute(self._sql["postpone"], call_ids, deadline_ms)

    async def ms_to_deadline(self, conn: asyncpg.Connection) -> int:
        """Return how long until the earliest deadline, in milliseconds; a day when there is none."""
        wait_ms: int | None = await conn.fetchval(self._sql["ms_to_deadline"])
        return DAY_MS if wait_ms is None else wait_ms

    async def save(self, conn: asyncpg.Connection, calls: Sequence[Call]) -> None:
        """Write what may change of these locked calls, and free the users of those that have ended.

        Raises:
            asyncpg.ObjectNotInPrerequisiteStateError: one had ended before; the database refuses a second end.
        """
        await conn.execute(
            self._sql["save_calls"],
            [c.call_id for c in calls],
            [c.state for c in calls],
            [c.reason for c in calls],
            [c.v for c in calls],
            [c.ringing_ms for c in calls],
            [c.accepted_ms for c in calls],
            [c.connected_ms for c in calls],
            [c.ended_ms for c in calls],
            [c.deadline_ms for c in calls],
            [c.accepted_device for c in calls],
            [c.caller_media for c in calls],
            [c.host_media for c in calls],
            [c.paused for c in calls],
            [c.funded_until_ms for c in calls],
            [c.periods for c in calls],
            [c.spent_coins for c in calls],
            [c.earned_coins for c in calls],
        )

    async def live_of(self, conn: asyncpg.Connection, user_ids: Sequence[int]) -> list[Call]:
        """Return the live calls that these users are in: at most one each."""
        rows = await conn.fetch(self._sql["live_calls_of"], user_ids)
        return list({row["id"]: _call(row) for row in rows}.values())

    async def busy_of(self, conn: asyncpg.Connection, user_ids: Collection[int]) -> set[int]:
        """Return which of these users are in a live call."""
        return {row["user_id"] for row in await conn.fetch(self._sql["busy_of"], list(user_ids))}

    async def recent_invites(
        self, conn: asyncpg.Connection, caller_id: int, *, since_ms: int, limit: int
    ) -> tuple[int, int]:
        """Return how many calls the caller began since (at most `limit`), and when the first of these was."""
        since = UUID(int=since_ms << MILLIS_SHIFT)
        row = await conn.fetchrow(self._sql["recent_invites"], caller_id, since, limit)
        return row["invites"], row["first_ms"] or since_ms

    async def history(self, conn: asyncpg.Connection, user_id: int, *, before: UUID | None, limit: int) -> list[Call]:
        """Return the user's ended calls, newest first, from below `before`."""
        return [_call(row) for row in await conn.fetch(self._sql["history"], user_id, before, limit)]


def _call_or_none(row: asyncpg.Record | None) -> Call | None:
    return None if row is None else _call(row)


def _call(row: asyncpg.Record) -> Call:
    values: dict[str, Any] = dict(row)
    values["call_id"] = values.pop("id")
    values["state"] = State(values["state"])
    values["reason"] = Reason(values["reason"]) if values["reason"] else None
    return Call(**values)
