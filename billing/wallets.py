"""Wallets: balances, statements, balances at a past moment. Owns reading; writes go through the ledger and meters.

Must never import realtime or presence. Functions take the caller's connection.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from billing.archive import Block, archived_charges
from billing.errors import InvalidAmount, UnknownAccount, refusals
from billing.queries import sql
from billing.tariffs import COINS_MAX

STATEMENT_LIMIT_MAX = 500  # a page; more would only be scrolled past


@dataclass(frozen=True, slots=True)
class Balance:
    """A user's coins. `v` grows with every change, so that a reader can drop an older picture.

    `earned` contains the share of calls that still run; it can be withdrawn when they have ended.
    """

    user_id: int
    paid: int
    promo: int
    earned: int
    v: int

    @property
    def coins(self) -> int:
        """What can be spent."""
        return self.paid + self.promo


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a statement: signed coins by bucket.

    `entry_id` is the transfer's or meter's id; a call is one line, whose pulses are in its receipt. `relates_to` is the
    transfer that a correction corrects.
    """

    entry_id: UUID
    at_ms: int
    kind: str
    reason: str
    peer_id: int | None
    relates_to: UUID | None
    paid: int
    promo: int
    earned: int


@dataclass(frozen=True, slots=True)
class Statement:
    """A page of entries, newest first; `cursor` asks for the next page and is None at the end."""

    entries: tuple[Entry, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class PastBalance:
    """Coins at a moment, summed from the journal."""

    paid: int
    promo: int
    earned: int


async def open_wallet(conn: asyncpg.Connection, *, tenant_id: int, user_id: int) -> None:
    """Make the user's wallets; again does nothing.

    Raises:
        UnknownAccount: the user has a wallet in another tenant.
    """
    with refusals():
        await conn.execute("select billing.open_wallet($1, $2)", tenant_id, user_id)


async def balance(conn: asyncpg.Connection, user_id: int) -> Balance:
    """Return the user's balance.

    Raises:
        UnknownAccount: he has no wallet.
    """
    found = await balances(conn, (user_id,))
    if user_id not in found:
        raise UnknownAccount(f"user {user_id} has no wallet")
    return found[user_id]


async def balances(conn: asyncpg.Connection, user_ids: Iterable[int]) -> dict[int, Balance]:
    """Return balances by user id, as of one moment; users without a wallet are left out."""
    rows = await conn.fetch(sql("balances"), list(user_ids))
    return {row["user_id"]: Balance(*row) for row in rows}


async def balance_at(conn: asyncpg.Connection, user_id: int, at_ms: int) -> PastBalance:
    """Return the coins that the user had at a moment (unix ms), with everything booked up to it.

    Raises:
        ArchiveUnavailable: he was in a call whose month has been archived, and its file is missing or damaged.
    """
    paid, promo, earned, split = await conn.fetchrow(sql("balance_at"), user_id, at_ms)
    for meter in json.loads(split or "[]"):
        block = Block.of(meter["archived"])
        for charge in await archived_charges(block, UUID(meter["meter"]), periods=meter["period"]):
            if charge["at_ms"] > at_ms:
                break
            if meter["pays"]:
                paid -= charge["price"] - charge["promo"]
                promo -= charge["promo"]
            else:
                earned += charge["share"]
    return PastBalance(paid, promo, earned)


async def statement(conn: asyncpg.Connection, user_id: int, *, before: str | None = None, limit: int = 50) -> Statement:
    """Return the user's entries before a cursor, newest first.

    Raises:
        InvalidAmount: the cursor is not one of ours, or the limit is not 1 to 500.
    """
    if not 1 <= limit <= STATEMENT_LIMIT_MAX:
        raise InvalidAmount(f"limit must be 1 to {STATEMENT_LIMIT_MAX}, not {limit}")
    at_ms, entry_id = _read_cursor(before) if before else (COINS_MAX, UUID(int=0))
    rows = await conn.fetch(sql("statement"), user_id, at_ms, entry_id, limit + 1)
    entries = tuple(
        Entry(
            entry_id=row["entry_id"],
            at_ms=row["at_ms"],
            kind=row["kind"],
            reason=row["reason"],
            peer_id=row["peer_id"],
            relates_to=row["relates_to"],
            paid=row["paid"],
            promo=row["promo"],
            earned=row["earned"],
        )
        for row in rows[:limit]
    )
    return Statement(entries, _cursor(entries[-1]) if len(rows) > limit else None)


def _cursor(entry: Entry) -> str:
    packed = entry.at_ms.to_bytes(8) + entry.entry_id.bytes
    return base64.urlsafe_b64encode(packed).decode()


def _read_cursor(text: str) -> tuple[int, UUID]:
    try:
        packed = base64.urlsafe_b64decode(text)
        at_ms = int.from_bytes(packed[:8])
        if len(packed) != 24 or at_ms > COINS_MAX:
            raise ValueError
        return at_ms, UUID(bytes=packed[8:])
    except (ValueError, binascii.Error):
        raise InvalidAmount("not a statement's cursor") from None
