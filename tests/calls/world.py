"""A small world to test calls and wallets in: real database, real accounts, real books; and what its users were told.

The outbox is not relayed here, so its table holds every event of the test: `told` reads it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from realtime.accounts.models import HostChange
from realtime.accounts.service import Accounts
from realtime.broker import Outgoing
from realtime.outbox import Outbox, OutboxRow, Tx
from realtime.protocol.principal import Principal
from realtime.wallet.service import Wallets


class NoRelay:
    """The outbox's publisher of a node that never gets to publish: events stay in the table."""

    async def publish_rows(self, rows: Sequence[OutboxRow]) -> None:
        raise ConnectionError("nothing is relayed in this test")


class NoCalls:
    """For tests of wallets without calls."""

    async def between(self, conn: asyncpg.Connection, call_id: object, users: tuple[int, int]) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Told:
    """One event as a user's devices would get it."""

    event: str
    user_id: int
    v: int
    event_id: str
    push: bool
    data: dict[str, Any]


class People:
    """Users of one tenant and their wallets."""

    def __init__(self, pool: asyncpg.Pool, tenant_id: int) -> None:
        self.pool = pool
        self.tenant_id = tenant_id
        self.outbox = Outbox(pool, NoRelay())
        self.accounts = Accounts(pool)
        self.wallets = Wallets(pool=pool, people=self.accounts, calls=NoCalls(), commission_bp=3000)

    @classmethod
    async def make(cls, pool: asyncpg.Pool) -> People:
        tenant_id = await Accounts(pool).ensure_tenant("main")
        return cls(pool, tenant_id)

    @asynccontextmanager
    async def tx(self) -> AsyncIterator[Tx]:
        async with self.outbox.transaction(self.tenant_id) as tx:
            yield tx

    async def user(self, name: str, *, coins: int = 0, device: str = "phone") -> Principal:
        """Make a user with promotional coins, signed in on one device."""
        async with self.tx() as tx:
            card = await self.accounts.ensure_user(tx.conn, self.tenant_id, name, name.title())
            if coins:
                await self.wallets.grant(tx, card.user_id, coins=coins, bucket="paid", reason="test")
        return Principal(self.tenant_id, "main", card.user_id, name, frozenset({"user"}), device, 2**53)

    async def host(
        self,
        name: str,
        *,
        price_coins: int = 10,
        pulse_ms: int = 60_000,
        media: tuple[str, ...] = ("voice", "video"),
        coins: int = 0,
        device: str = "desk",
    ) -> Principal:
        """Make a user who takes calls."""
        host = await self.user(name, coins=coins, device=device)
        change = HostChange(price_coins=price_coins, pulse_ms=pulse_ms, media=media)
        async with self.tx() as tx:
            await self.accounts.update_host(tx, host.user_id, change)
        return host

    async def told(self, who: Principal | None = None) -> list[Told]:
        """Return the events so far, of one user or of all, in the order in which they were told."""
        rows = await self.pool.fetch("select * from realtime.outbox order by ts_ms, id")
        return [
            Told(row["event"], user_id, row["v"], str(row["id"]), row["push"], msgspec.json.decode(row["data"]))
            for row in rows
            for user_id in row["audience"]
            if who is None or user_id == who.user_id
        ]

    async def names(self, who: Principal) -> list[str]:
        """Return the names of the call and gift events that a user was told, in order."""
        return [told.event for told in await self.told(who) if told.event != "wallet.changed"]


class Online:
    """Presence in which everybody can be rung, but for those who are said to be away; it keeps who is busy."""

    def __init__(self) -> None:
        self.away: set[int] = set()
        self.in_call: set[int] = set()

    async def bookable(self, user_ids: Sequence[int]) -> Mapping[int, bool]:
        return {user_id: user_id not in self.away for user_id in user_ids}

    def busy(self, user_ids: Sequence[int], busy: bool) -> None:
        if busy:
            self.in_call.update(user_ids)
        else:
            self.in_call.difference_update(user_ids)


class Signalled:
    """Keeps the signals that were passed on."""

    def __init__(self) -> None:
        self.events: list[Outgoing] = []

    async def publish(self, events: Sequence[Outgoing]) -> list[int]:
        self.events += events
        return [1] * len(events)
