"""What has to be done now and then: partitions made ahead, holds that ran out.

Owns when it is idempotent and cheap; every worker may call it. Must never import realtime or presence.
"""

from __future__ import annotations

import asyncpg

HOLDS_MAX = 200  # expired in one go; the next is ten seconds away
PARTITIONS_AHEAD = 3  # months


async def keep(conn: asyncpg.Connection, *, now_ms: int | None = None) -> None:
    """Make missing partitions and expire holds; both are no-ops most of the time."""
    await conn.execute("select billing.make_partitions($1, $2)", now_ms, PARTITIONS_AHEAD)
    await conn.execute("select billing.expire_holds($1, $2)", now_ms, HOLDS_MAX)
