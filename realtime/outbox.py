"""Transactions that carry their events: what a transaction changes and what it tells commit together.

Owns the event outbox: writing rows, publishing them after the commit, and relaying what a dead node left over. Knows no
feature and no socket; it is given a publisher (the broker) and a planner (push).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import msgspec
import structlog

from realtime.ids import new_id

log = structlog.get_logger()

QUEUE_ROWS_MAX = 20_000  # rows beyond stay in the table, and the sweep finds them
BATCH_ROWS_MAX = 1_000
SWEEP_EVERY_S = 1.0
LEFT_OVER_AFTER_MS = 3_000  # a live node publishes within milliseconds
BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)

INSERT_SQL = """
insert into realtime.outbox (id, tenant_id, audience, event, v, ts_ms, push, data)
select id, tenant_id, array(select jsonb_array_elements_text(audience)::bigint), event, v, ts_ms, push, data
from unnest($1::uuid[], $2::int[], $3::jsonb[], $4::text[], $5::bigint[], $6::bigint[], $7::bool[], $8::bytea[])
    as e (id, tenant_id, audience, event, v, ts_ms, push, data)
"""
INSERT_ONE_SQL = """
insert into realtime.outbox (id, tenant_id, audience, event, v, ts_ms, push, data)
values ($1, $2, $3, $4, $5, $6, $7, $8)
"""
LEFT_OVER_SQL = """
select id, tenant_id, audience, event, v, ts_ms, push, data from realtime.outbox
where ts_ms < $1 order by id limit $2 for update skip locked
"""
DELETE_SQL = "delete from realtime.outbox where id = any($1::uuid[]) returning id"


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One durable event for some users: `data` is the JSON that their devices get."""

    id: UUID
    tenant_id: int
    audience: tuple[int, ...]
    event: str
    v: int
    ts_ms: int
    push: bool
    data: bytes


def columns(rows: Sequence[OutboxRow]) -> tuple[list[Any], ...]:
    """Return the arguments of INSERT_SQL: one list for each of its eight columns."""
    return (
        [row.id for row in rows],
        [row.tenant_id for row in rows],
        [msgspec.json.encode(row.audience).decode() for row in rows],
        [row.event for row in rows],
        [row.v for row in rows],
        [row.ts_ms for row in rows],
        [row.push for row in rows],
        [row.data for row in rows],
    )


class Publisher(Protocol):
    """Takes events to the audience's devices, wherever they are connected; drops ids that it has seen."""

    async def publish_rows(self, rows: Sequence[OutboxRow]) -> None:
        """Publish all rows, in order for each user; raises when it cannot be known that all have been taken."""
        ...


class Planner(Protocol):
    """Decides which of the events also go out as push notifications, and enqueues those."""

    async def plan(self, conn: asyncpg.Connection, events: Sequence[OutboxRow]) -> None:
        """Enqueue push jobs on `conn`, in the transaction that deletes these rows from the outbox."""
        ...


class Tx:
    """One PostgreSQL transaction and the events that it causes.

    Attributes:
        conn: the connection, inside the transaction; billing and stores take it.
        tenant_id: whose events these are.
    """

    __slots__ = ("_after", "_last_id", "_rows", "_written", "conn", "tenant_id")

    def __init__(self, conn: asyncpg.Connection, tenant_id: int) -> None:
        self.conn = conn
        self.tenant_id = tenant_id
        self._rows: list[OutboxRow] = []
        self._written = 0
        self._last_id = UUID(int=0)
        self._after: list[Callable[[], None]] = []

    def emit(
        self,
        event: str,
        *,
        to: Sequence[int],
        data: msgspec.Struct,
        v: int = 0,
        event_id: UUID | None = None,
        push: bool = True,
        tenant_id: int | None = None,
    ) -> UUID:
        """Tell the users `to` (internal ids) of something, when and only when this transaction commits.

        Args:
            event: name from the feature's EVENTS.
            data: its struct; serialised now.
            v: version of the thing it tells of; receivers ignore a lower one of the same thing.
            event_id: when the caller must know it beforehand; a fresh one otherwise.
            push: whether it may also go out as a push notification.
            tenant_id: when it differs from the transaction's (workers that serve all tenants).

        Returns:
            the event id, which a device acknowledges.
        """
        id_ = event_id or self._next_id()
        ts_ms = time.time_ns() // 1_000_000
        tenant = self.tenant_id if tenant_id is None else tenant_id
        self._rows.append(OutboxRow(id_, tenant, tuple(to), event, v, ts_ms, push, msgspec.json.encode(data)))
        return id_

    def _next_id(self) -> UUID:
        """Return a fresh id above the last: the sweep relays by id, and a transaction's events keep their order."""
        self._last_id = max(new_id(), UUID(int=self._last_id.int + 1))
        return self._last_id

    def after_commit(self, fn: Callable[[], None]) -> None:
        """Run `fn` once the transaction has committed; it must not block. A rollback forgets it."""
        self._after.append(fn)

    async def write_rows(self) -> None:
        """Insert the emitted events that have not been written yet; the last statement before the commit."""
        rows = self.take_unwritten()
        if len(rows) == 1:
            row = rows[0]
            await self.conn.execute(
                INSERT_ONE_SQL, row.id, row.tenant_id, row.audience, row.event, row.v, row.ts_ms, row.push, row.data
            )
        elif rows:
            await self.conn.execute(INSERT_SQL, *columns(rows))

    def take_unwritten(self) -> list[OutboxRow]:
        """Return the emitted events that nobody has written; whoever takes them inserts them."""
        rows, self._written = self._rows[self._written :], len(self._rows)
        return rows

    def committed(self) -> list[OutboxRow]:
        """Run what waits for the commit, and hand over the rows to publish."""
        for fn in self._after:
            try:
                fn()
            except Exception:
                log.exception("after_commit_failed")
        return self._rows


class Outbox:
    """Opens transactions with events, publishes after the commit, and sweeps up what other nodes left.

    `run` is the owner's task; until it runs, rows wait in the table.
    """

    def __init__(self, pool: asyncpg.Pool, publisher: Publisher, planner: Planner | None = None) -> None:
        self._pool = pool
        self._publisher = publisher
        self._planner = planner
        self._queue: list[OutboxRow] = []
        self._wake = asyncio.Event()
        self.relayed = 0

    @contextlib.asynccontextmanager
    async def transaction(self, tenant_id: int = 0) -> AsyncIterator[Tx]:
        """Open a transaction; on a clean exit it commits with its events, which are then published at once.

        Args:
            tenant_id: the tenant of its events; 0 for workers that name it with each event.
        """
        async with self._pool.acquire() as conn:
            async with conn.transaction():
                tx = Tx(conn, tenant_id)
                yield tx
                await tx.write_rows()
        self._enqueue(tx.committed())

    async def run(self) -> None:
        """Publish committed events as they come, until cancelled; sweep for left-over ones in between."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish_loop())
            group.create_task(self._sweep_loop())

    def _enqueue(self, rows: list[OutboxRow]) -> None:
        if rows and len(self._queue) < QUEUE_ROWS_MAX:
            self._queue += rows
            self._wake.set()

    async def _publish_loop(self) -> None:
        while True:
            await self._wake.wait()
            # What comes in while one batch is under way makes up the next: no timer, no fixed delay.
            batch, self._queue = self._queue[:BATCH_ROWS_MAX], self._queue[BATCH_ROWS_MAX:]
            if not self._queue:
                self._wake.clear()
            try:
                await self._publisher.publish_rows(batch)
                await self._delete(batch)
            except Exception as exc:
                # The rows stay in the table. The sweep takes them up when the broker or the database is back.
                log.warning("publish_failed", rows=len(batch), error=repr(exc))

    async def _delete(self, rows: Sequence[OutboxRow]) -> None:
        """Delete published rows and enqueue their pushes in one transaction, for rows nobody else has deleted."""
        async with self._pool.acquire() as conn, conn.transaction():
            deleted = {record["id"] for record in await conn.fetch(DELETE_SQL, [row.id for row in rows])}
            mine = [row for row in rows if row.id in deleted and row.push]
            if self._planner is not None and mine:
                await self._planner.plan(conn, mine)
        self.relayed += len(rows)

    async def _sweep_loop(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1] if failures else SWEEP_EVERY_S)
            try:
                while await self.sweep() == BATCH_ROWS_MAX:
                    pass
                failures = 0
            except Exception as exc:
                failures += 1
                log.warning("sweep_failed", error=repr(exc))

    async def sweep(self, *, older_than_ms: int = LEFT_OVER_AFTER_MS) -> int:
        """Relay one batch of rows that nobody has published in `older_than_ms`; return how many."""
        async with self._pool.acquire() as conn, conn.transaction():
            records = await conn.fetch(LEFT_OVER_SQL, time.time_ns() // 1_000_000 - older_than_ms, BATCH_ROWS_MAX)
            rows = [OutboxRow(**(dict(record) | {"audience": tuple(record["audience"])})) for record in records]
            if not rows:
                return 0
            await self._publisher.publish_rows(rows)
            await conn.execute(DELETE_SQL, [row.id for row in rows])
            pushable = [row for row in rows if row.push]
            if self._planner is not None and pushable:
                await self._planner.plan(conn, pushable)
        self.relayed += len(rows)
        return len(rows)
