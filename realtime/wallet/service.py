"""Wallets and gifts: what users see of their coins, and the gifts they send.

Owns the catalogue and who may send what to whom. All money moves through billing: grants in the caller's transaction,
gifts in one that they share (gifts.py). Never imports another feature's store.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, Protocol
from uuid import UUID

import asyncpg

from billing.gifts import payment
from billing.ledger import grant
from billing.wallets import balance, statement
from realtime.accounts.models import HostProfile, UserCard
from realtime.idempotency import RequestKey
from realtime.ids import new_id
from realtime.outbox import Outbox, Tx
from realtime.protocol.errors import NotFound, SelfCall
from realtime.protocol.principal import Principal
from realtime.wallet.events import changed
from realtime.wallet.gifts import GiftDesk, Order, SendOk
from realtime.wallet.store import Gift, GiftStore
from realtime.wallet.views import EntryView, GiftView, Person, WalletView, entry_view, wallet_view

HISTORY_PAGE_MAX: Final = 100


class People(Protocol):
    """Users and hosts; realtime.accounts.service.Accounts is one."""

    async def resolve_one(self, tenant_id: int, external_id: str, *, conn: asyncpg.Connection | None = None) -> int:
        """Return the internal id; raises NotFound."""
        ...

    async def host_profile(self, user_id: int, *, conn: asyncpg.Connection | None = None) -> HostProfile:
        """Return a host; raises NotFound for a user who is none."""
        ...

    async def user_cards(
        self, user_ids: Collection[int], *, conn: asyncpg.Connection | None = None
    ) -> dict[int, UserCard]: ...


class CallsBetween(Protocol):
    """Calls, as far as gifts have to know; realtime.calls.service.Calls is one."""

    async def between(self, conn: asyncpg.Connection, call_id: UUID, users: tuple[int, int]) -> bool:
        """Return whether these two are the sides of that call."""
        ...


class Wallets:
    """The service. Methods that take `tx` belong to the caller's transaction.

    Attributes:
        desk: books the gifts; its `run` is the owner's task, without which they wait.
    """

    def __init__(
        self, *, pool: asyncpg.Pool, outbox: Outbox, people: People, calls: CallsBetween, commission_bp: int
    ) -> None:
        """Args: commission_bp: the platform's part of a gift, in basis points."""
        self.desk = GiftDesk(outbox)
        self._pool = pool
        self._people = people
        self._calls = calls
        self._commission_bp = commission_bp
        self._gifts = GiftStore()

    async def get(self, user_id: int) -> WalletView:
        """Return the user's wallet. Raises billing's UnknownAccount."""
        async with self._pool.acquire() as conn:
            return wallet_view(await balance(conn, user_id))

    async def snapshot(self, who: Principal) -> WalletView:
        """Return the wallet of a sign-in's snapshot."""
        return await self.get(who.user_id)

    async def history(self, user_id: int, *, cursor: str | None, limit: int) -> tuple[list[EntryView], str | None]:
        """Return a page of the user's statement, newest first, and the cursor of the next.

        Raises:
            billing.errors.InvalidAmount: the cursor is not one of ours.
        """
        async with self._pool.acquire() as conn:
            page = await statement(conn, user_id, before=cursor, limit=limit)
            peers = {entry.peer_id for entry in page.entries if entry.peer_id is not None}
            cards = await self._people.user_cards(peers, conn=conn)
        return [entry_view(entry, cards) for entry in page.entries], page.cursor

    async def gifts(self, tenant_id: int) -> list[GiftView]:
        """Return the catalogue, cheapest first."""
        async with self._pool.acquire() as conn:
            return [_gift_view(gift) for gift in await self._gifts.offered(conn, tenant_id)]

    async def send(self, who: Principal, key: RequestKey, *, to: str, gift_id: str, call_id: UUID | None) -> SendOk:
        """Pay a gift to a host, in a call with her or out of one, and store the answer under `key`.

        Raises:
            NotFound: no such host, gift, or call of these two.
            SelfCall: to oneself.
            Repeated: the key has an answer already; nothing moved now.
            billing.errors.InsufficientFunds, Restricted, Busy: it cannot be paid, or not now; nothing moved.
        """
        async with self._pool.acquire() as conn:
            order = await self._order(conn, who, key, to=to, gift_id=gift_id, call_id=call_id)
        return await self.desk.send(order)

    async def _order(
        self,
        conn: asyncpg.Connection,
        who: Principal,
        key: RequestKey,
        *,
        to: str,
        gift_id: str,
        call_id: UUID | None,
    ) -> Order:
        """Look up what a gift is and who it is for."""
        host_id = await self._people.resolve_one(who.tenant_id, to, conn=conn)
        if host_id == who.user_id:
            raise SelfCall
        await self._people.host_profile(host_id, conn=conn)
        gift = await self._gifts.get(conn, who.tenant_id, gift_id)
        if gift is None:
            raise NotFound("there is no such gift", gift_id=gift_id)
        if call_id is not None and not await self._calls.between(conn, call_id, (who.user_id, host_id)):
            raise NotFound("you are not in that call with this host")
        cards = await self._people.user_cards((who.user_id,), conn=conn)
        name = cards[who.user_id].name if who.user_id in cards else ""
        transfer = payment(
            "gift",
            transfer_id=new_id(),
            payer_id=who.user_id,
            payee_id=host_id,
            price_coins=gift.price_coins,
            commission_bp=self._commission_bp,
            memo=f"{gift.gift_id} in call {call_id}" if call_id else gift.gift_id,
        )
        return Order(transfer, key, Person(who.user, name), _gift_view(gift), call_id)

    async def grant(
        self, tx: Tx, user_id: int, *, coins: int, bucket: Literal["paid", "promo"], reason: str
    ) -> WalletView:
        """Give a user coins (development, promotions, staff), and tell his devices."""
        after = await grant(tx.conn, transfer_id=new_id(), user_id=user_id, coins=coins, bucket=bucket, reason=reason)
        changed(tx, after, reason="grant")
        return wallet_view(after)


def _gift_view(gift: Gift) -> GiftView:
    return GiftView(gift.gift_id, gift.name, gift.emoji, gift.price_coins)
