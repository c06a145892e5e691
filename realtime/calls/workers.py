"""The work on calls that no request asks for: deadlines that have passed, meters that have news, proofs of life.

Owns three loops, each the task of whoever runs them; any node runs all three, and work is claimed, never owned. Decides
nothing: the rules do. Never imports handlers or the dispatcher.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg
import structlog

from billing.metering import MeterEvent
from realtime.calls.conductor import Change, Conductor
from realtime.calls.liveness import LOOK_EVERY_MS, Liveness
from realtime.calls.meters import Meters
from realtime.calls.model import (
    Charged,
    DeadlinePassed,
    Event,
    Extended,
    LowBalance,
    MeterEnded,
    Reason,
    Resumed,
    Suspended,
)
from realtime.calls.store import CallStore
from realtime.outbox import Outbox

log = structlog.get_logger()

DUE_BATCH: Final = 200  # calls of one look at the deadlines: locks are held while they are worked on
DUE_POLL_MS_MAX: Final = 250  # a missed call may be told this much late
DUE_POLL_MS_MIN: Final = 20
FAILED_AGAIN_MS: Final = 30_000  # for a call that cannot be ended: it must not stand before all others again at once
NEWS_BATCH: Final = 500  # meter events of one transaction
NEWS_POLL_S: Final = 0.1  # when nobody wakes us: the meters run in another process
PIDS_MAX: Final = 1_000  # of connections that were used; a process has some dozens, and new ones when they idle
BACKOFF_S_MAX: Final = 5.0
BACKOFF_S_MIN: Final = 0.1


class Deadlines:
    """Ends calls whose time is over: unanswered, unreachable, never connected; looks after silent meters."""

    def __init__(self, *, outbox: Outbox, pool: asyncpg.Pool, store: CallStore, conductor: Conductor) -> None:
        self._outbox = outbox
        self._pool = pool
        self._store = store
        self._conductor = conductor

    async def sweep(self) -> int:
        """Handle one batch of due calls that no other worker holds; return how many."""
        async with self._outbox.transaction() as tx:
            now = await self._store.now_ms(tx.conn)
            due = {call.call_id: call for call in await self._store.claim_due(tx.conn, now, DUE_BATCH)}
            if due:
                changes = [Change(call_id, DeadlinePassed()) for call_id in due]
                failed = await self._conductor.apply_each(tx, due, changes, now)
                if failed:
                    await self._store.postpone(tx.conn, failed, now + FAILED_AGAIN_MS)
        return len(due)

    async def run(self) -> None:
        """Sweep whenever a deadline is due, until cancelled."""

        async def once() -> float:
            wait_ms = await self._wait_ms()
            if wait_ms <= 0:
                while await self.sweep() == DUE_BATCH:
                    pass
                wait_ms = await self._wait_ms()
            return min(max(wait_ms, DUE_POLL_MS_MIN), DUE_POLL_MS_MAX) / 1000

        await _forever("deadlines", once, asyncio.Event())

    async def _wait_ms(self) -> int:
        async with self._pool.acquire() as conn:
            return await self._store.ms_to_deadline(conn)


class MeterNews:
    """Turns what happened to meters into what happened to calls, in one transaction with the events."""

    def __init__(
        self, *, outbox: Outbox, pool: asyncpg.Pool, store: CallStore, meters: Meters, conductor: Conductor
    ) -> None:
        self._outbox = outbox
        self._pool = pool
        self._store = store
        self._meters = meters
        self._conductor = conductor
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There is news; called by a meter worker of this process."""
        self._wake.set()

    async def consume(self) -> int:
        """Handle one batch of meter events; return how many."""
        async with self._outbox.transaction() as tx:
            events = await self._meters.take_events(tx.conn, NEWS_BATCH)
            if not events:
                return 0
            now = await self._store.now_ms(tx.conn)
            calls = await self._store.lock_many(tx.conn, sorted({event.meter_id for event in events}))
            # Whoever ended a call has told its final figures and wallets: news that comes later is none.
            live = {call_id: call for call_id, call in calls.items() if call.live}
            changes = [
                Change(event.meter_id, happened, event.payer, event.payee)
                for event in sorted(events, key=lambda event: event.id)
                if event.meter_id in live and (happened := call_event(event)) is not None
            ]
            await self._conductor.apply_each(tx, live, changes, now)
        return len(events)

    async def run(self) -> None:
        """Consume as news comes, until cancelled."""

        async def once() -> float:
            while await self._any() and await self.consume() == NEWS_BATCH:
                pass
            return NEWS_POLL_S

        await _forever("meter_news", once, self._wake)

    async def _any(self) -> bool:
        async with self._pool.acquire() as conn:
            return await self._meters.any_events(conn)


class Proofs:
    """Reports in bulk when each side of this node's calls was heard.

    The evidence is in an unlogged table: a crash of PostgreSQL empties it, and ends all connections. So whenever a
    report goes over a connection that none has gone over before, everything is reported again.
    """

    def __init__(self, *, pool: asyncpg.Pool, meters: Meters, liveness: Liveness) -> None:
        self._pool = pool
        self._meters = meters
        self._liveness = liveness
        self._pids: set[int] = set()

    async def report(self) -> int:
        """Report what is due; return how many signs of life or silence there were."""
        if not self._liveness:
            return 0
        try:
            async with self._pool.acquire() as conn:
                self._meet(conn.get_server_pid())
                signs = self._liveness.due()
                if signs:
                    await self._meters.prove(conn, signs)
        except Exception:
            self._liveness.tell_again()
            raise
        return len(signs)

    def _meet(self, pid: int) -> None:
        if pid not in self._pids:
            self._liveness.tell_again()
            if len(self._pids) >= PIDS_MAX:
                self._pids.clear()
            self._pids.add(pid)

    async def run(self) -> None:
        """Report every second what is due, until cancelled."""

        async def once() -> float:
            await self.report()
            return LOOK_EVERY_MS / 1000

        await _forever("proofs", once, asyncio.Event())


def call_event(event: MeterEvent) -> Event | None:
    """Return what a meter's event means for its call, or None when it means nothing."""
    match event.kind:
        case "low_balance":
            return LowBalance(event.ends_at_ms, event.threshold_ms or 0)
        case "extended":
            return Extended(event.ends_at_ms)
        case "exhausted":
            return MeterEnded(Reason.EXHAUSTED, event.at_ms)
        case "lost":
            return MeterEnded(Reason.LOST, event.at_ms)
        case "suspended":
            return Suspended()
        case "resumed":
            return Resumed(event.funded_until_ms)
        case "late_waived":
            return None  # the pulse that begins now is told by its own charge; the receipt shows the gap
        case "charged":
            return Charged(
                period=event.period,
                price_coins=event.price_coins,
                spent_coins=event.spent_coins,
                earned_coins=event.earned_coins,
                funded_until_ms=event.funded_until_ms,
            )


async def _forever(name: str, once: Callable[[], Awaitable[float]], wake: asyncio.Event) -> None:
    """Run `once` again and again; it returns how many seconds to wait, which `wake` cuts short. Failures back off."""
    failures = 0
    while True:
        try:
            wait_s = await once()
            failures = 0
        except Exception as exc:
            # The database is away or restarting: what is due stays due, and any node takes it up again.
            failures += 1
            wait_s = min(BACKOFF_S_MIN * 2**failures, BACKOFF_S_MAX)
            log.warning("worker_failed", worker=name, error=repr(exc), failures=failures)
        try:
            async with asyncio.timeout(wait_s):
                await wake.wait()
        except TimeoutError:
            pass
        wake.clear()
