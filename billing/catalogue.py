"""The tariffs of tenants and hosts, as versioned data. Owns publishing and looking up; the rules are in tariffs.py.

Must never import realtime or presence. A meter keeps the terms that it was opened with, whatever is published later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import asyncpg

from billing.queries import sql
from billing.tariffs import Tariff

Subject = Literal["voice", "video", "chat", "gift"]


@dataclass(frozen=True, slots=True)
class Published:
    """A version in force; `own` when it is the host's, not the tenant's."""

    version: int
    own: bool
    tariff: Tariff


async def publish(
    conn: asyncpg.Connection,
    *,
    tenant_id: int,
    subject: Subject,
    tariff: Tariff,
    from_ms: int,
    actor: str,
    host_id: int | None = None,
) -> int:
    """Add a version that is in force from `from_ms` (unix ms) on and return its number; the same again adds none."""
    version: int = await conn.fetchval(
        "select billing.publish_tariff($1, $2, $3, $4, $5::text::jsonb, $6)",
        tenant_id,
        host_id or 0,
        subject,
        from_ms,
        tariff.to_json(),
        actor,
    )
    return version


async def in_force(
    conn: asyncpg.Connection, *, tenant_id: int, host_id: int, subject: Subject, at_ms: int
) -> Published | None:
    """Return the terms at a moment: the host's own, else the tenant's; None when neither has any."""
    row = await conn.fetchrow(sql("tariff_at"), tenant_id, host_id, subject, at_ms)
    if row is None:
        return None
    return Published(row["version"], row["host_id"] != 0, Tariff.from_json(row["tariff"]))
