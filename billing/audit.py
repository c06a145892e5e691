"""The audit: proves the books, online, in slices.

Owns the checks and their order. Must never import realtime or presence. Every slice is one statement and so sees one
moment: wallets, meters and journal agree in each, whatever is going on. A budget bounds the time of a call, the
report's `position` goes on from there; `Auditor` does that for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from billing.queries import sql

logger = logging.getLogger(__name__)

SLICE_ROWS = 5_000  # about 50 ms each; short statements hold back no vacuum
FAULTS_MAX = 100  # examples kept in a report; the count goes on
PAUSE_MS = 200  # between the slices of the continuous job: a few per cent of one core
ROUND_PAUSE_MS = 60_000
RETRY_MS = 5_000

Position = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that cannot be in sound books: which rule, of what (user, meter or transfer), and the figures."""

    rule: str
    key: str
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """One of the checks: how many rows were examined and how many faults found; `complete` when it got to the end."""

    name: str
    examined: int
    faults: int
    complete: bool


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found. `ok` is about what was examined; `complete` says whether that was everything."""

    ok: bool
    complete: bool
    checks: tuple[Check, ...]
    faults: tuple[Fault, ...]
    took_ms: int
    position: Position


@dataclass(slots=True)
class _Part:
    """A check on its way through the rows."""

    name: str
    key: int | UUID | str
    statement: str
    examined: int = 0
    faults: int = 0
    complete: bool = False
    found: list[Fault] = field(default_factory=list)

    async def slice(self, conn: asyncpg.Connection, rows: int) -> None:
        for row in await conn.fetch(sql(self.statement), self.key, rows):
            if row["fault"] is not None:
                self.faults += 1
                if len(self.found) < FAULTS_MAX:
                    self.found.append(Fault(row["fault"], row["key"], row["detail"]))
            else:
                self.examined += row["examined"]
                self.complete = row["examined"] < rows
                if row["key"] is not None:
                    self.key = type(self.key)(row["key"])


async def audit(
    conn: asyncpg.Connection,
    *,
    budget_ms: int | None = None,
    position: Mapping[str, str | None] | None = None,
    slice_rows: int = SLICE_ROWS,
) -> AuditReport:
    """Check the books and return what was found; it never writes.

    Args:
        conn: outside a transaction, or in one of level read committed.
        budget_ms: stop after this time, between two slices; everything is checked without it.
        position: from a report that was not complete: goes on from there.
        slice_rows: rows in a statement.
    """
    began = time.monotonic()
    parts = _parts(position or {})
    for part in parts:
        while not part.complete:
            if budget_ms is not None and (time.monotonic() - began) * 1000 >= budget_ms:
                return _report(parts, began)
            await part.slice(conn, slice_rows)
    return _report(parts, began)


def _parts(position: Mapping[str, str | None]) -> list[_Part]:
    parts = [
        _Part("wallets", -1, "audit_wallets"),
        _Part("meters", UUID(int=0), "audit_meters"),
        _Part("transfers", UUID(int=0), "audit_transfers"),
        _Part("archives", "", "audit_archives"),
    ]
    for part in parts:
        if part.name in position:
            key = position[part.name]
            part.complete = key is None
            part.key = part.key if key is None else type(part.key)(key)
    return parts


def _report(parts: list[_Part], began: float) -> AuditReport:
    return AuditReport(
        ok=not any(part.faults for part in parts),
        complete=all(part.complete for part in parts),
        checks=tuple(Check(part.name, part.examined, part.faults, part.complete) for part in parts),
        faults=tuple(fault for part in parts for fault in part.found)[:FAULTS_MAX],
        took_ms=int((time.monotonic() - began) * 1000),
        position={part.name: None if part.complete else str(part.key) for part in parts},
    )


class Auditor:
    """Audits for ever, a slice at a time, round after round.

    Args:
        pool: asyncpg pool; a connection is held for one slice.
        observe: told after every slice: faults since the round began, whether the round is complete, and the report.
            The place for a metric: `talkmeter_audit_faults` and the time of the last clean round.
        pause_ms: between slices.
        round_pause_ms: between rounds.
    """

    __slots__ = ("_observe", "_pause_ms", "_pool", "_round_pause_ms")

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        observe: Callable[[AuditReport], None],
        pause_ms: int = PAUSE_MS,
        round_pause_ms: int = ROUND_PAUSE_MS,
    ) -> None:
        self._pool = pool
        self._observe = observe
        self._pause_ms = pause_ms
        self._round_pause_ms = round_pause_ms

    async def run(self) -> None:
        """Work until cancelled; a lost database is waited out."""
        while True:
            try:
                await self._round()
                await asyncio.sleep(self._round_pause_ms / 1000)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as exc:
                logger.warning("audit interrupted, again in %d ms: %s: %s", RETRY_MS, type(exc).__name__, exc)
                await asyncio.sleep(RETRY_MS / 1000)

    async def _round(self) -> None:
        began = time.monotonic()
        parts = _parts({})
        for part in parts:
            while not part.complete:
                async with self._pool.acquire() as conn:
                    await part.slice(conn, SLICE_ROWS)
                report = _report(parts, began)
                self._observe(report)
                await asyncio.sleep(self._pause_ms / 1000)
