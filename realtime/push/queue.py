"""The durable job queue (pgqueuer in schema realtime): putting jobs in, and running them. Knows nothing of pushes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg
import structlog
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job as QueuedJob
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import Channel
from pgqueuer.ports.driver import Driver

log = structlog.get_logger()

SCHEMA: Final = "realtime"
CHANNEL: Final = "ch_pgqueuer"
BATCH_SIZE = 10
RUNNING_MAX = 20  # jobs at a time; each waits for the push service nearly all of its time
POLL_S = 1.0  # new jobs are notified; a job that is put back for later is not, and a ring cannot wait long
STALE_AFTER_S = 30.0  # a dead worker's jobs are taken up by another after this
STOP_TIMEOUT_S = 30.0  # above the longest job: a token and a full batch, neither answered
FAILURES_MAX = 8  # of one job by an exception; the delays below add up to about four minutes
FAILED_DELAY_S = 1
RESTART_BACKOFF_S = (0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Job:
    """One job to put in. `priority`: higher goes first."""

    entrypoint: str
    payload: bytes
    priority: int = 0
    delay_ms: int = 0


Handler = Callable[[bytes, int], Awaitable[int | None]]
"""Takes the payload and how often the job has been tried before; returns None when it is done, else after how many
milliseconds to try it again."""


async def enqueue(conn: asyncpg.Connection, jobs: Sequence[Job]) -> None:
    """Put jobs in within the caller's transaction: they exist when, and only when, it commits."""
    await _queries(AsyncpgDriver(conn)).enqueue(
        [job.entrypoint for job in jobs],
        [job.payload for job in jobs],
        [job.priority for job in jobs],
        [timedelta(milliseconds=job.delay_ms) for job in jobs],
    )


class QueueWorker:
    """Runs jobs of the given entrypoints; any number of nodes may do so at once."""

    def __init__(self, pool: asyncpg.Pool, handlers: dict[str, Handler]) -> None:
        """Make a worker. `pool` must have room for its listening connection and a few more."""
        self._pool = pool
        self._handlers = handlers

    async def run(self) -> None:
        """Run jobs until cancelled; a lost database is waited for. Running jobs are ended before it returns."""
        failures = 0
        while True:
            manager = self._manager()
            running = asyncio.create_task(
                manager.run(
                    dequeue_timeout=timedelta(seconds=POLL_S),
                    batch_size=BATCH_SIZE,
                    max_concurrent_tasks=RUNNING_MAX,
                    heartbeat_timeout=timedelta(seconds=STALE_AFTER_S),
                    shutdown_on_listener_failure=True,
                )
            )
            try:
                await asyncio.shield(running)
            except asyncio.CancelledError:
                # Cancelling pgqueuer's jobs would record them as cancelled by somebody, and so lose them: let them end.
                manager.shutdown.set()
                await asyncio.wait([running], timeout=STOP_TIMEOUT_S)
                raise
            except Exception as exc:
                log.warning("queue_failed", error=repr(exc))
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            await asyncio.sleep(RESTART_BACKOFF_S[min(failures, len(RESTART_BACKOFF_S) - 1)])
            failures += 1

    def _manager(self) -> QueueManager:
        manager = QueueManager(_queries(AsyncpgPoolDriver(self._pool)), channel=Channel(CHANNEL))
        for name, handler in self._handlers.items():
            manager.entrypoint(name)(_entrypoint(handler))
        return manager


def _entrypoint(handler: Handler) -> Callable[[QueuedJob], Awaitable[None]]:
    async def run(job: QueuedJob) -> None:
        try:
            again_ms = await handler(job.payload or b"", job.attempts)
        except Exception as exc:
            # The queue drops a job that fails. A database that is away, or a defect, is no reason to lose one.
            if job.attempts + 1 >= FAILURES_MAX:
                raise
            log.warning("job_failed", entrypoint=job.entrypoint, attempts=job.attempts + 1, error=repr(exc))
            raise RetryRequested(delay=timedelta(seconds=FAILED_DELAY_S << job.attempts), reason=repr(exc)) from exc
        if again_ms is not None:
            raise RetryRequested(delay=timedelta(milliseconds=again_ms), reason="not all could be sent")

    return run


def queue_settings() -> DBSettings:
    """Return where the tables are: all said here, so that no variable of the environment moves them."""
    return DBSettings(
        prefix="",
        db_schema=SCHEMA,
        channel=Channel(CHANNEL),
        function="fn_pgqueuer_changed",
        trigger="tg_pgqueuer_changed",
        queue_status_type="pgqueuer_status",
        queue_table="pgqueuer",
        queue_table_log="pgqueuer_log",
        statistics_table="pgqueuer_statistics",
        schedules_table="pgqueuer_schedules",
        durability=Durability.durable,
    )


def _queries(driver: Driver) -> Queries:
    settings = queue_settings()
    return Queries(
        driver,
        qbe=QueryBuilderEnvironment(settings),
        qbq=QueryQueueBuilder(settings),
        qbs=QuerySchedulerBuilder(settings),
    )
