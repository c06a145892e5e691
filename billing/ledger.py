"""The ledger: transfers between accounts, each once, each with its own outcome.

Owns the Python face of billing.post_transfers. Must never import realtime or presence. Functions take the caller's
connection; they refuse by typed errors (see errors.py) before or after asking the database, and a refusal for want of
funds is recorded: the same id stays refused. It is recorded in the caller's transaction, so a caller that wants it kept
commits although the error was raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import asyncpg

from billing.errors import BY_CODE, BillingError, Busy, InvalidAmount, TransferConflict, UnknownAccount, refusals
from billing.queries import sql
from billing.tariffs import BASIS_POINTS, require_coins
from billing.wallets import Balance, balance

REASON_CHARS_MAX = 500

Account = Literal[
    "wallet", "earnings", "grants", "sales", "commission", "tax", "loss", "receivable", "escrow", "payouts",
    "payout_tax", "bank", "adjustments",
]  # fmt: skip
Bucket = Literal["auto", "paid", "promo"]
Outcome = Literal["done", "replayed", "refused", "conflict", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Coins that go from one account to another.

    Attributes:
        transfer_id: used once, whatever becomes of it. Time-ordered ids are kinder to the index.
        kind: what it is for; one of billing.transfer_kind.
        debit, debit_owner: the account that gives: a user's wallet or earnings, or an account of a tenant.
        credit, credit_owner: the account that receives.
        coins: 1 to 2^53 - 1.
        bucket: which coins of a wallet; "auto" spends promotional coins first.
        fee_bp: the part, in basis points rounded down, that goes to the tenant's commission instead.
        reason: free text of at most 500 characters.
        corrects: the transfer that this one corrects.
    """

    transfer_id: UUID
    kind: str
    debit: Account
    debit_owner: int
    credit: Account
    credit_owner: int
    coins: int
    bucket: Bucket = "auto"
    fee_bp: int = 0
    reason: str = ""
    corrects: UUID | None = None

    def __post_init__(self) -> None:
        require_coins("coins", self.coins)
        if type(self.fee_bp) is not int or not 0 <= self.fee_bp <= BASIS_POINTS:
            raise InvalidAmount(f"fee_bp must be 0 to {BASIS_POINTS}, not {self.fee_bp!r}")
        if len(self.reason) > REASON_CHARS_MAX:
            raise InvalidAmount(f"a reason has at most {REASON_CHARS_MAX} characters")
        if (self.debit, self.debit_owner) == (self.credit, self.credit_owner):
            raise InvalidAmount("a transfer needs two accounts")


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of a transfer: its promotional part, the commission, and the code when it was refused."""

    transfer_id: UUID
    outcome: Outcome
    code: str | None
    promo: int
    fee: int

    def error(self) -> BillingError | None:
        """Return the typed refusal, or None when the transfer is booked (now or before)."""
        if self.outcome in ("done", "replayed"):
            return None
        if self.outcome == "conflict":
            return TransferConflict(f"transfer {self.transfer_id} was used for something else")
        if self.code is None:
            return Busy(f"transfer {self.transfer_id} has a twin in flight")
        return BY_CODE.get(self.code, BillingError)(f"transfer {self.transfer_id} is refused: {self.code}")


async def post_all(
    conn: asyncpg.Connection, transfers: Sequence[Transfer], *, now_ms: int | None = None
) -> list[Posted]:
    """Book transfers in one statement and return their outcomes in order.

    "undecided" comes back for an unknown account, for a second use of an id within the call, and for a second debit of
    one wallet: ask again; an account that is unknown stays undecided.

    Raises:
        InvalidAmount: a balance would leave its limits; nothing of the batch is booked.
        Busy: a twin is being booked in another transaction, or a deadlock; nothing of the batch is booked.
    """
    rows = await _ask(conn, transfers, now_ms)
    outcomes = []
    for transfer in transfers:
        row = rows.pop(transfer.transfer_id, None)
        if row is None:
            outcomes.append(Posted(transfer.transfer_id, "undecided", None, 0, 0))
        else:
            outcomes.append(Posted(transfer.transfer_id, row["outcome"], row["code"], row["promo"], row["fee"]))
    return outcomes


async def post(conn: asyncpg.Connection, transfer: Transfer, *, now_ms: int | None = None) -> Posted:
    """Book one transfer; a repeat of the same is booked once and returns the first outcome.

    Raises:
        InsufficientFunds, Restricted, UnknownAccount, TransferConflict: it is refused; nothing moved.
        Busy: its twin is being booked in another transaction.
    """
    posted = (await post_all(conn, (transfer,), now_ms=now_ms))[0]
    if posted.outcome == "undecided":
        # Either the account is unknown or a twin was faster; the second look sees what the twin committed.
        posted = (await post_all(conn, (transfer,), now_ms=now_ms))[0]
    if posted.outcome == "undecided":
        raise UnknownAccount(f"transfer {transfer.transfer_id}: no such account")
    error = posted.error()
    if error is not None:
        raise error
    return posted


async def grant(
    conn: asyncpg.Connection,
    *,
    transfer_id: UUID,
    user_id: int,
    coins: int,
    bucket: Literal["paid", "promo"],
    reason: str,
    now_ms: int | None = None,
) -> Balance:
    """Give a user coins out of the tenant's grants account (paid coins: out of sales) and return his balance.

    Raises:
        InvalidAmount, UnknownAccount, TransferConflict: see errors.py.
    """
    if bucket not in ("paid", "promo"):
        raise InvalidAmount(f"bucket must be paid or promo, not {bucket!r}")
    require_coins("coins", coins)
    transfer = Transfer(
        transfer_id=transfer_id,
        kind="grant",
        debit="grants" if bucket == "promo" else "sales",
        debit_owner=await tenant_of(conn, user_id),
        credit="wallet",
        credit_owner=user_id,
        coins=coins,
        bucket=bucket,
        reason=reason,
    )
    await post(conn, transfer, now_ms=now_ms)
    return await balance(conn, user_id)


async def tenant_of(conn: asyncpg.Connection, user_id: int) -> int:
    """Return the tenant in which the user's wallet is.

    Raises:
        UnknownAccount: he has none.
    """
    tenant_id = await conn.fetchval("select tenant_id from billing.spending_wallets where user_id = $1", user_id)
    if tenant_id is None:
        raise UnknownAccount(f"user {user_id} has no wallet")
    return int(tenant_id)


@contextmanager
def _twins() -> Iterator[None]:
    """An id that another transaction books at this moment: the caller asks again and is told what became of it."""
    try:
        yield
    except asyncpg.UniqueViolationError as exc:
        raise Busy(f"a transfer has a twin in flight: {exc}") from exc


def _is_payment(transfer: Transfer) -> bool:
    """Whether billing.post_payments may decide it: the faster way for gifts and messages."""
    return (
        transfer.debit == "wallet"
        and transfer.credit == "earnings"
        and transfer.bucket == "auto"
        and transfer.corrects is None
    )


async def _ask(
    conn: asyncpg.Connection, transfers: Sequence[Transfer], now_ms: int | None
) -> dict[UUID, asyncpg.Record]:
    with refusals(), _twins():
        if all(map(_is_payment, transfers)):
            rows = await conn.fetch(
                sql("post_payments"),
                now_ms,
                [t.transfer_id for t in transfers],
                [t.kind for t in transfers],
                [t.debit_owner for t in transfers],
                [t.credit_owner for t in transfers],
                [t.coins for t in transfers],
                [t.fee_bp for t in transfers],
                [t.reason for t in transfers],
            )
            return {row["transfer_id"]: row for row in rows}
        rows = await conn.fetch(
            sql("post_transfers"),
            now_ms,
            [t.transfer_id for t in transfers],
            [t.kind for t in transfers],
            [t.debit for t in transfers],
            [t.debit_owner for t in transfers],
            [t.credit for t in transfers],
            [t.credit_owner for t in transfers],
            [t.coins for t in transfers],
            [t.bucket for t in transfers],
            [t.fee_bp for t in transfers],
            [t.reason for t in transfers],
            [t.corrects for t in transfers],
        )
    return {row["transfer_id"]: row for row in rows}
