"""What wallets, statements and gifts look like on the wire. Schemas and their making only; imports no store."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from billing.wallets import Balance, Entry
from realtime.accounts.models import UserCard
from realtime.protocol.registry import EventType


class WalletView(Struct):
    """A user's coins. `v` grows with every change: ignore a view with a lower one than the last.

    Attributes:
        paid: bought coins.
        promo: promotional coins, which are spent first.
        coins: both together, what can be spent.
        earned: as a host, to be withdrawn.
    """

    paid: int
    promo: int
    coins: int
    earned: int
    v: int


class WalletChanged(Struct):
    """The wallet after a change, and what kind of change it was: call, gift, grant. More kinds may come."""

    wallet: WalletView
    reason: str


class Person(Struct):
    """A user by id and name."""

    id: str
    name: str


class EntryView(Struct, omit_defaults=True, kw_only=True):
    """One line of a statement, in signed coins by bucket; a whole call is one line.

    Attributes:
        relates_to: the entry that this one corrects.
    """

    entry_id: str
    ts_ms: int
    kind: str
    reason: str
    paid: int
    promo: int
    earned: int
    peer: Person | None = None
    relates_to: str | None = None


class GiftView(Struct):
    """A gift of the catalogue."""

    gift_id: str
    name: str
    emoji: str
    price_coins: int


class GiftReceived(Struct, omit_defaults=True, rename={"sender": "from"}, kw_only=True):
    """Somebody has sent a gift; `earned_coins` of its price are the receiver's."""

    sender: Person
    gift: GiftView
    earned_coins: int
    wallet: WalletView
    call_id: str | None = None


EVENTS = (
    EventType(
        name="wallet.changed",
        data=WalletChanged,
        durable=True,
        summary="Coins came or went otherwise than by a pulse, whose wallet is in call.charged.",
    ),
    EventType(name="gift.received", data=GiftReceived, durable=True, summary="A gift, in a call or out of one."),
)


def wallet_view(balance: Balance) -> WalletView:
    return WalletView(
        paid=balance.paid,
        promo=balance.promo,
        coins=balance.paid + balance.promo,
        earned=balance.earned,
        v=balance.v,
    )


def entry_view(entry: Entry, cards: Mapping[int, UserCard]) -> EntryView:
    """Return a line of a statement; `cards` may hold the other party's."""
    card = cards.get(entry.peer_id) if entry.peer_id is not None else None
    return EntryView(
        entry_id=str(entry.entry_id),
        ts_ms=entry.at_ms,
        kind=entry.kind,
        reason=entry.reason,
        paid=entry.paid,
        promo=entry.promo,
        earned=entry.earned,
        peer=Person(card.user, card.name) if card else None,
        relates_to=str(entry.relates_to) if entry.relates_to else None,
    )
