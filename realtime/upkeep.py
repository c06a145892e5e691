"""Housekeeping of the jobs process: old rows go, and what audit and metering find is told.

Owns when and how much is purged; what is old is each part's own business.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from billing.audit import AuditReport
from realtime.idempotency import purge as purge_replies
from realtime.metrics import Metrics
from realtime.push.service import Pushes

log = structlog.get_logger()

PURGE_EVERY_S: Final = 300.0
PURGE_BATCHES_MAX: Final = 1_000  # what 5 minutes of the busiest node leave, with room to catch up


def observe_audit(metrics: Metrics, report: AuditReport) -> None:
    """Show what an audit round has found so far; log each fault of a whole round."""
    metrics.set("talkmeter_audit_faults", sum(check.faults for check in report.checks))
    if report.complete and report.ok:
        metrics.set("talkmeter_audit_clean_ms", time.time_ns() // 1_000_000)
    for fault in report.faults if report.complete else ():
        log.error("books_wrong", rule=fault.rule, key=fault.key, detail=fault.detail)


def observe_meter_fault(metrics: Metrics, meter_id: UUID, error: str) -> None:
    """Count and log a meter that was set aside; each needs a look."""
    metrics.add("talkmeter_meter_faults", 1)
    log.error("meter_set_aside", meter_id=str(meter_id), error=error)


async def purge(pool: asyncpg.Pool, pushes: Pushes) -> None:
    """Forget old replies and the push ledger's old rows, in small batches, until cancelled."""

    async def replies() -> int:
        async with pool.acquire() as conn:
            return await purge_replies(conn)

    async def ledger() -> int:
        return await pushes.purge(now_ms=time.time_ns() // 1_000_000)

    while True:
        await asyncio.sleep(PURGE_EVERY_S)
        for batch in (replies, ledger):
            try:
                for _ in range(PURGE_BATCHES_MAX):
                    if not await batch():
                        break
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as exc:
                log.warning("purge_failed", error=repr(exc))
