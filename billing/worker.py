"""The meter worker: claims due meters in batches and charges them; keeps house.

Owns the loop, not the connection pool. Must never import realtime or presence. Any number of workers may run, in any
number of processes, and be killed at any instruction: what they claim is locked by their transaction only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from uuid import UUID

import asyncpg

from billing import housekeeping, metering
from billing.errors import BillingError

logger = logging.getLogger(__name__)

POLL_MS = 100  # lateness is half of it on average; a round costs a millisecond or two, with work or without
BATCH = 500  # 2,000 is a fifth cheaper a tick, and holds its locks four times as long
SWEEP_MS = 5_000  # how soon meters are found that no slot points to: after a stall, a crash, a jump of the clock
HOUSEKEEPING_MS = 10_000
RETRY_MS = 200  # PostgreSQL restarts, or a deadlock was resolved against us
RETRY_MS_MAX = 2_000
FAULTS_MAX = 10  # set aside in one round; more are not single meters' faults
ROUND_TIMEOUT_S = 30.0


class MeterWorker:
    """Ticks due meters until cancelled.

    Args:
        pool: asyncpg pool; the worker holds one connection.
        wake: called, without arguments, after events were written (committed).
        poll_ms: pause between rounds when there is nothing more to do.
        batch: meters in one statement.
        on_fault: told of a meter that was set aside, with the error.
    """

    __slots__ = (
        "_batch",
        "_housekeeping_at_ms",
        "_on_fault",
        "_poll_ms",
        "_pool",
        "_since_ms",
        "_sweep_at_ms",
        "_wake",
    )

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        wake: Callable[[], None],
        poll_ms: int = POLL_MS,
        batch: int = BATCH,
        on_fault: Callable[[UUID, str], None] | None = None,
    ) -> None:
        self._pool = pool
        self._wake = wake
        self._poll_ms = poll_ms
        self._batch = batch
        self._on_fault = on_fault
        self._since_ms: int | None = None
        self._sweep_at_ms = 0
        self._housekeeping_at_ms = 0

    async def run(self) -> None:
        """Work until cancelled. Lost connections and database restarts are waited out."""
        retry_ms = RETRY_MS
        while True:
            try:
                # Kept from round to round: handing a connection back costs the server a reset each time.
                async with self._pool.acquire() as conn:
                    while True:
                        async with asyncio.timeout(ROUND_TIMEOUT_S):
                            handled = await self.round(conn)
                        retry_ms = RETRY_MS
                        if handled < self._batch:
                            await asyncio.sleep(self._poll_ms / 1000)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, BillingError, OSError, TimeoutError) as exc:
                logger.warning("meter round failed, again in %d ms: %s: %s", retry_ms, type(exc).__name__, exc)
                self._since_ms = None
                await asyncio.sleep(retry_ms / 1000)
                retry_ms = min(retry_ms * 2, RETRY_MS_MAX)

    async def round(self, conn: asyncpg.Connection) -> int:
        """Handle one batch and return its size; a full one means that there may be more."""
        if self._since_ms is not None and self._since_ms >= self._sweep_at_ms:
            self._since_ms = None
        try:
            handled, now_ms = await metering.tick_since(conn, self._since_ms, limit=self._batch)
        except BillingError as exc:
            if exc.retryable:
                raise
            handled, now_ms = await self._isolate(conn)
        except asyncpg.PostgresConnectionError:
            raise
        except asyncpg.PostgresError:
            handled, now_ms = await self._isolate(conn)
        if handled:
            self._wake()
        if handled < self._batch:
            if self._since_ms is None:
                self._sweep_at_ms = now_ms + SWEEP_MS
            self._since_ms = now_ms
        if now_ms >= self._housekeeping_at_ms:
            self._housekeeping_at_ms = now_ms + HOUSEKEEPING_MS
            await housekeeping.keep(conn)
        return handled

    async def _isolate(self, conn: asyncpg.Connection) -> tuple[int, int]:
        """A batch failed as a whole: find the meters that fail alone and set them aside; handle the others."""
        now_ms: int = await conn.fetchval("select billing.clock_ms()")
        due = [row[0] for row in await conn.fetch("select billing.due_meters($1, $2)", now_ms, self._batch)]
        faults: list[tuple[UUID, str]] = []
        handled = await self._bisect(conn, due, now_ms, faults)
        if not handled and len(faults) > 1 and len(faults) == len(due):
            raise BillingError(f"every due meter fails: {faults[0][1]}")
        for meter_id, error in faults:
            await conn.execute("select billing.set_aside($1, $2, $3)", now_ms, meter_id, error)
            logger.error("meter %s is set aside: %s", meter_id, error)
            if self._on_fault is not None:
                self._on_fault(meter_id, error)
        return handled, now_ms

    async def _bisect(
        self, conn: asyncpg.Connection, meters: Sequence[UUID], now_ms: int, faults: list[tuple[UUID, str]]
    ) -> int:
        if not meters or len(faults) >= FAULTS_MAX:
            return 0
        try:
            return await metering.tick(conn, limit=len(meters), now_ms=now_ms, only=meters)
        except asyncpg.PostgresConnectionError:
            raise
        except (asyncpg.PostgresError, BillingError) as exc:
            if len(meters) == 1:
                faults.append((meters[0], f"{type(exc).__name__}: {exc}"))
                return 0
        half = len(meters) // 2
        first = await self._bisect(conn, meters[:half], now_ms, faults)
        return first + await self._bisect(conn, meters[half:], now_ms, faults)
