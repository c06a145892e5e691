"""Who waits for whom at the database; for tests that hold a lock until somebody has come to it."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

WAIT_S: Final = 20.0
# Not pg_stat_activity: of that a transaction sees what there was when it first looked.
WAITING: Final = "select pid from pg_locks where not granted and pg_backend_pid() = any (pg_blocking_pids(pid)) limit 1"


async def blocked(holder: asyncpg.Connection) -> int:
    """Wait until another transaction waits for one of `holder`'s locks, and return its process.

    Raises:
        TimeoutError: nobody came in WAIT_S.
    """
    async with asyncio.timeout(WAIT_S):
        while (pid := await holder.fetchval(WAITING)) is None:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
    found: int = pid
    return found
