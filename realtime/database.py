"""How the application connects to PostgreSQL: one pool a process, with the settings that every part relies on.

Owns those settings, and which errors mean that PostgreSQL is away; the load tests use the settings too, so that they
measure what the product does. Imports nothing of the project.
"""

from __future__ import annotations

from typing import Final

import asyncpg

APP_ROLE: Final = "talkmeter_app"
COMMAND_TIMEOUT_S: Final = 20.0  # of one statement; above every lock wait that is healthy
SESSION: Final = {
    "role": APP_ROLE,
    "jit": "off",  # short statements never gain by it, and asyncpg's look at types costs 24 ms with it
}
# Errors by which the server or the way to it is to blame, and not what was asked.
UNREACHABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


async def open_pool(url: str, *, name: str, min_size: int, max_size: int) -> asyncpg.Pool:
    """Open a pool whose connections have the application's rights; `name` is what the server's lists show."""
    return await asyncpg.create_pool(
        url,
        min_size=min_size,
        max_size=max_size,
        command_timeout=COMMAND_TIMEOUT_S,
        reset=_keep_session,
        server_settings={**SESSION, "application_name": name},
    )


async def _keep_session(conn: asyncpg.Connection) -> None:
    """Nothing here changes a session (no SET, no LISTEN, no session locks), so a released one needs no reset query."""
