"""Rows of pushes, their deliveries, receipts and preferences. Owns their SQL. Imports values only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec

from realtime.push.notice import Outcome
from realtime.sql import load_sql


@dataclass(frozen=True, slots=True)
class PushRow:
    """One push to one user, as it is queued."""

    id: UUID
    tenant_id: int
    user_id: int
    kind: str
    thing: str
    event_id: UUID | None
    args: dict[str, str]
    except_device: str | None
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A push that is to be sent now; `confirmed` when a socket has taken its event meanwhile."""

    row: PushRow
    confirmed: bool


class PushStore:
    """Each method, but for purge, is one statement on the caller's connection."""

    def __init__(self) -> None:
        self._sql = load_sql(Path(__file__).with_name("store.sql"))

    async def insert(self, conn: asyncpg.Connection, rows: Sequence[PushRow], now_ms: int) -> set[UUID]:
        """Insert what is new; return the ids of those."""
        records = await conn.fetch(
            self._sql["insert"],
            [row.id for row in rows],
            [row.tenant_id for row in rows],
            [row.user_id for row in rows],
            [row.kind for row in rows],
            [row.thing for row in rows],
            [row.event_id for row in rows],
            [msgspec.json.encode(row.args).decode() for row in rows],
            [row.except_device for row in rows],
            [row.expires_ms for row in rows],
            now_ms,
        )
        return {record["id"] for record in records}

    async def cancel(self, conn: asyncpg.Connection, pushes: Collection[tuple[int, str, str]]) -> set[tuple[int, str]]:
        """Take back (user, kind, thing); return (user, thing) of those that may have gone out."""
        ordered = sorted(pushes)
        records = await conn.fetch(
            self._sql["cancel"],
            [user_id for user_id, _, _ in ordered],
            [kind for _, kind, _ in ordered],
            [thing for _, _, thing in ordered],
        )
        return {(record["user_id"], record["thing"]) for record in records}

    async def mutes(self, conn: asyncpg.Connection, user_ids: Collection[int]) -> dict[int, set[str]]:
        muted: dict[int, set[str]] = {}
        for record in await conn.fetch(self._sql["mutes"], list(user_ids)):
            muted.setdefault(record["user_id"], set()).add(record["category"])
        return muted

    async def claim(self, conn: asyncpg.Connection, push_ids: Sequence[UUID]) -> list[Claimed]:
        return [
            Claimed(
                PushRow(
                    record["id"],
                    record["tenant_id"],
                    record["user_id"],
                    record["kind"],
                    record["thing"],
                    record["event_id"],
                    msgspec.json.decode(record["args"], type=dict[str, str]),
                    record["except_device"],
                    record["expires_ms"],
                ),
                record["confirmed"],
            )
            for record in await conn.fetch(self._sql["claim"], push_ids)
        ]

    async def delivered(self, conn: asyncpg.Connection, push_ids: Sequence[UUID]) -> dict[tuple[UUID, str], str]:
        """Return the state of the deliveries there are, by push and device."""
        records = await conn.fetch(self._sql["delivered"], push_ids)
        return {(record["push_id"], record["device_id"]): record["state"] for record in records}

    async def record(
        self, conn: asyncpg.Connection, deliveries: Sequence[tuple[UUID, str, Outcome]], now_ms: int
    ) -> None:
        await conn.execute(
            self._sql["record"],
            [push_id for push_id, _, _ in deliveries],
            [device_id for _, device_id, _ in deliveries],
            [outcome.state for _, _, outcome in deliveries],
            [outcome.service_id for _, _, outcome in deliveries],
            [outcome.error for _, _, outcome in deliveries],
            now_ms,
        )

    async def settle(self, conn: asyncpg.Connection, states: Sequence[tuple[UUID, str]]) -> None:
        await conn.execute(self._sql["settle"], [push_id for push_id, _ in states], [state for _, state in states])

    async def confirm(self, conn: asyncpg.Connection, user_id: int, event_ids: Sequence[UUID], now_ms: int) -> None:
        await conn.execute(self._sql["confirm"], user_id, event_ids, now_ms)

    async def report(
        self, conn: asyncpg.Connection, push_id: UUID, user_id: int, device_id: str, state: str, now_ms: int
    ) -> bool:
        return bool(await conn.fetchval(self._sql["report"], push_id, user_id, device_id, state, now_ms))

    async def set_mute(self, conn: asyncpg.Connection, user_id: int, category: str, *, muted: bool) -> None:
        await conn.execute(self._sql["mute" if muted else "unmute"], user_id, category)

    async def purge(
        self, conn: asyncpg.Connection, *, pushes_before_ms: int, receipts_before_ms: int, log_days: int, limit: int
    ) -> int:
        """Delete up to `limit` rows of each kind; return how many went."""
        pushes = await conn.fetchval(self._sql["purge_pushes"], pushes_before_ms, limit)
        receipts = await conn.fetchval(self._sql["purge_receipts"], receipts_before_ms, limit)
        logs = await conn.fetchval(self._sql["purge_queue_log"], log_days, limit)
        return int(pushes + receipts + logs)
