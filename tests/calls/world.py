"""A small world to test calls and wallets in: real database, real accounts, real books; and what its users were told.

The outbox is not relayed here, so its table holds every event of the test: `told` reads it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from billing import metering
from billing.metering import Proof, Side
from billing.tariffs import Tariff
from realtime.accounts.models import HostChange
from realtime.accounts.service import Accounts
from realtime.broker import Outgoing
from realtime.calls.conductor import Conductor
from realtime.calls.liveness import Liveness
from realtime.calls.meters import Meters
from realtime.calls.model import Call, Limits, Media
from realtime.calls.service import Calls
from realtime.calls.store import CallStore
from realtime.calls.workers import Deadlines, MeterNews, Proofs
from realtime.idempotency import request_key
from realtime.media.webrtc import WebRtcProvider
from realtime.outbox import Outbox, OutboxRow, Tx
from realtime.protocol.principal import Principal
from realtime.wallet.gifts import SendOk
from realtime.wallet.handlers import SendData
from realtime.wallet.service import Wallets

SIDES: tuple[Side, ...] = ("payer", "payee")


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
        self.wallets = Wallets(pool=pool, outbox=self.outbox, people=self.accounts, calls=NoCalls(), commission_bp=3000)

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

    @asynccontextmanager
    async def desk(self) -> AsyncIterator[None]:
        """Book gifts for the length of the block."""
        task = asyncio.create_task(self.wallets.desk.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def gift(
        self, who: Principal, to: str, gift_id: str, *, call_id: UUID | None = None, key: str | None = None
    ) -> SendOk:
        """Send a gift, under a fresh key if none is given."""
        asked = SendData(to=to, gift_id=gift_id, call_id=call_id)
        stored = request_key(who.tenant_id, who.user_id, key or uuid4().hex, "gift.send", asked)
        return await self.wallets.send(who, stored, to=to, gift_id=gift_id, call_id=call_id)

    async def told(self, who: Principal | None = None) -> list[Told]:
        """Return the events so far, of one user or of all: by transaction, then by version."""
        rows = await self.pool.fetch("select * from realtime.outbox order by xmin::text::bigint, v, id")
        return [
            Told(row["event"], user_id, row["v"], str(row["id"]), row["push"], msgspec.json.decode(row["data"]))
            for row in rows
            for user_id in row["audience"]
            if who is None or user_id == who.user_id
        ]

    async def names(self, who: Principal) -> list[str]:
        """Return the names of the call and gift events that a user was told, in order."""
        return [told.event for told in await self.told(who) if told.event != "wallet.changed"]


class Clock:
    """The time of a test, in unix milliseconds; it stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = time.time_ns() // 1_000_000

    def __call__(self) -> int:
        return self.now_ms

    def forward(self, ms: int) -> None:
        self.now_ms += ms


class Online:
    """Presence in which everybody can be rung, but for those who are said to be away; it keeps who is busy."""

    def __init__(self) -> None:
        self.away: set[int] = set()
        self.in_call: set[int] = set()

    async def bookable(self, user_ids: Sequence[int], *, conn: asyncpg.Connection) -> Mapping[int, bool]:
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


class Phone:
    """A socket, as far as calls have to know: when it was heard last."""

    def __init__(self) -> None:
        self.ago_ms = 0

    def heard_ms_ago(self) -> int:
        return self.ago_ms


class World(People):
    """People who can call each other, a clock that tests move, and real meters."""

    def __init__(
        self, pool: asyncpg.Pool, tenant_id: int, *, limits: Limits | None = None, real_time: bool = False
    ) -> None:
        super().__init__(pool, tenant_id)
        self.clock = Clock()
        self.presence = Online()
        self.signals = Signalled()
        self.limits = limits or Limits()
        self.liveness = Liveness(clock_ms=self.clock)
        self.store = CallStore(clock_ms=None if real_time else self.clock)
        self.meters = Meters(
            lambda price_coins, pulse_ms: Tariff(
                price_coins=price_coins, pulse_ms=pulse_ms, commission_bp=3000, low_balance_ms=()
            )
        )
        self.conductor = Conductor(
            store=self.store,
            meters=self.meters,
            people=self.accounts,
            presence=self.presence,
            limits=self.limits,
            on_over=lambda call: self.liveness.forget(call.call_id, (call.caller_id, call.host_id)),
        )
        self.calls = Calls(
            pool=pool,
            outbox=self.outbox,
            people=self.accounts,
            presence=self.presence,
            signals=self.signals,
            media=WebRtcProvider(),
            meters=self.meters,
            conductor=self.conductor,
            store=self.store,
            liveness=self.liveness,
            limits=self.limits,
        )
        self.wallets = Wallets(
            pool=pool, outbox=self.outbox, people=self.accounts, calls=self.calls, commission_bp=3000
        )
        self.deadlines = Deadlines(outbox=self.outbox, pool=pool, store=self.store, conductor=self.conductor)
        self.news = MeterNews(
            outbox=self.outbox, pool=pool, store=self.store, meters=self.meters, conductor=self.conductor
        )
        self.proofs = Proofs(pool=pool, meters=self.meters, liveness=self.liveness)

    @classmethod
    async def make(cls, pool: asyncpg.Pool) -> World:
        return cls(pool, await Accounts(pool).ensure_tenant("main"))

    async def invite(self, caller: Principal, host: Principal, media: Media = "voice") -> UUID:
        async with self.tx() as tx:
            return (await self.calls.invite(tx, caller, host=host.user, media=media)).call.call_id

    async def ring(self, caller: Principal, host: Principal) -> UUID:
        call_id = await self.invite(caller, host)
        await self.calls.acknowledged(host, [str(call_id)])
        return call_id

    async def accept(self, host: Principal, call_id: UUID) -> Call:
        async with self.tx() as tx:
            return (await self.calls.accept(tx, host, call_id))[0]

    async def decline(self, host: Principal, call_id: UUID) -> Call:
        async with self.tx() as tx:
            return await self.calls.decline(tx, host, call_id)

    async def cancel(self, caller: Principal, call_id: UUID) -> Call:
        async with self.tx() as tx:
            return await self.calls.cancel(tx, caller, call_id)

    async def hang_up(self, who: Principal, call_id: UUID, *, sent_ms_ago: int = 0) -> Call:
        async with self.tx() as tx:
            return (await self.calls.hang_up(tx, who, call_id, sent_ms_ago=sent_ms_ago))[0]

    async def connect(self, caller: Principal, host: Principal) -> UUID:
        """Bring a call up to media on both sides."""
        call_id = await self.ring(caller, host)
        await self.accept(host, call_id)
        await self.calls.media_up(caller, call_id, Phone())
        await self.calls.media_up(host, call_id, Phone())
        return call_id

    async def call(self, call_id: UUID) -> Call:
        async with self.pool.acquire() as conn:
            call = await self.store.get(conn, call_id)
        assert call is not None
        return call

    async def tick(self) -> None:
        """Charge what is due now, and consume the news of it."""
        async with self.pool.acquire() as conn:
            await metering.tick(conn, now_ms=self.clock.now_ms)
        await self.news.consume()

    async def report(self) -> None:
        """Report what this node's liveness knows, at the test's time."""
        self.liveness.tell_again()
        async with self.pool.acquire() as conn:
            await self.meters.prove(conn, self.liveness.due(), now_ms=self.clock.now_ms)

    async def talk(self, *calls: UUID, ms: int) -> None:
        """Let time pass second by second, with both sides heard and meters ticking."""
        proofs = [Proof(call_id, side, 0) for call_id in calls for side in SIDES]
        for _ in range(ms // 1000):
            self.clock.forward(1000)
            async with self.pool.acquire() as conn:
                await metering.prove(conn, proofs, now_ms=self.clock.now_ms)
            await self.tick()

    async def busy(self) -> set[int]:
        rows = await self.pool.fetch("select user_id from realtime.busy")
        return {row["user_id"] for row in rows}

    async def coins(self, who: Principal) -> int:
        return (await self.wallets.get(who.user_id)).coins
