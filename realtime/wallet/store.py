"""The catalogue of gifts. Owns realtime.gifts; takes the caller's connection and knows no rules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import asyncpg

from realtime.sql import load_sql


@dataclass(frozen=True, slots=True)
class Gift:
    """One gift of the catalogue."""

    gift_id: str
    name: str
    emoji: str
    price_coins: int


class GiftStore:
    """Reads the catalogue."""

    def __init__(self) -> None:
        self._sql = load_sql(Path(__file__).with_name("gifts.sql"))

    async def offered(self, conn: asyncpg.Connection, tenant_id: int) -> list[Gift]:
        """Return the gifts that users of the tenant can send, cheapest first."""
        return [Gift(**row) for row in await conn.fetch(self._sql["gifts"], tenant_id)]

    async def get(self, conn: asyncpg.Connection, tenant_id: int, gift_id: str) -> Gift | None:
        row = await conn.fetchrow(self._sql["gift"], tenant_id, gift_id)
        return None if row is None else Gift(**row)
