"""Gifts and priced messages: one user pays another, the platform keeps its commission.

Owns the two kinds of transfer. Must never import realtime or presence. The coins leave the payer's wallet
(promotional ones first) and reach the payee's earnings in the caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import asyncpg

from billing.errors import InvalidAmount
from billing.ledger import Transfer, post
from billing.tariffs import require_coins
from billing.wallets import Balance, balances


@dataclass(frozen=True, slots=True)
class GiftResult:
    """Both balances after the gift, and how it was divided."""

    payer: Balance
    payee: Balance
    earned_coins: int
    fee_coins: int
    promo_coins: int


async def send_gift(
    conn: asyncpg.Connection,
    *,
    transfer_id: UUID,
    payer_id: int,
    payee_id: int,
    price_coins: int,
    commission_bp: int,
    memo: str,
    now_ms: int | None = None,
) -> GiftResult:
    """Pay a gift; the same call again changes nothing and returns the balances of now.

    Raises:
        InsufficientFunds, Restricted, UnknownAccount, InvalidAmount, TransferConflict: see errors.py.
    """
    transfer = payment(
        "gift",
        transfer_id=transfer_id,
        payer_id=payer_id,
        payee_id=payee_id,
        price_coins=price_coins,
        commission_bp=commission_bp,
        memo=memo,
    )
    return await _pay(conn, transfer, now_ms)


async def pay_message(
    conn: asyncpg.Connection,
    *,
    transfer_id: UUID,
    payer_id: int,
    payee_id: int,
    price_coins: int,
    commission_bp: int,
    memo: str,
    now_ms: int | None = None,
) -> GiftResult:
    """Pay a priced chat message, in the transaction that stores it; as `send_gift`.

    Raises:
        InsufficientFunds, Restricted, UnknownAccount, InvalidAmount, TransferConflict: see errors.py.
    """
    transfer = payment(
        "chat",
        transfer_id=transfer_id,
        payer_id=payer_id,
        payee_id=payee_id,
        price_coins=price_coins,
        commission_bp=commission_bp,
        memo=memo,
    )
    return await _pay(conn, transfer, now_ms)


def payment(
    kind: Literal["gift", "chat"],
    *,
    transfer_id: UUID,
    payer_id: int,
    payee_id: int,
    price_coins: int,
    commission_bp: int,
    memo: str,
) -> Transfer:
    """Return the transfer for a gift or message, for `post`, `post_all` or the batcher."""
    require_coins("price_coins", price_coins)
    if payer_id == payee_id:
        raise InvalidAmount("nobody pays himself")
    return Transfer(
        transfer_id=transfer_id,
        kind=kind,
        debit="wallet",
        debit_owner=payer_id,
        credit="earnings",
        credit_owner=payee_id,
        coins=price_coins,
        fee_bp=commission_bp,
        reason=memo,
    )


async def _pay(conn: asyncpg.Connection, transfer: Transfer, now_ms: int | None) -> GiftResult:
    posted = await post(conn, transfer, now_ms=now_ms)
    after = await balances(conn, (transfer.debit_owner, transfer.credit_owner))
    return GiftResult(
        payer=after[transfer.debit_owner],
        payee=after[transfer.credit_owner],
        earned_coins=transfer.coins - posted.fee,
        fee_coins=posted.fee,
        promo_coins=posted.promo,
    )
