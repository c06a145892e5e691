"""Coins bought and earnings paid out, as the ledger sees them. Owns purchases, chargebacks and payouts.

Must never import realtime or presence; it talks to no provider. Purchases go by the payment's id (events come twice and
out of order), payouts by ours.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import asyncpg

from billing.errors import BY_CODE, BillingError, InvalidAmount, TransferConflict, WrongState, refusals
from billing.tariffs import require_coins


async def credit_purchase(
    conn: asyncpg.Connection,
    *,
    tenant_id: int,
    payment_id: str,
    user_id: int,
    coins: int,
    amount_minor: int,
    currency: str,
    now_ms: int | None = None,
) -> bool:
    """Credit a captured payment once; returns whether this call did it. `amount_minor` is in paise or cents.

    Raises:
        TransferConflict: the payment was credited with other contents.
        UnknownAccount, InvalidAmount: see errors.py.
    """
    require_coins("coins", coins)
    require_coins("amount_minor", amount_minor, least=0)
    if not 1 <= len(payment_id) <= 200 or len(currency) != 3:
        raise InvalidAmount("a payment has an id and a currency of three letters")
    with refusals():
        outcome = await conn.fetchval(
            "select billing.credit_purchase($1, $2, $3, $4, $5, $6, $7)",
            now_ms,
            tenant_id,
            payment_id,
            user_id,
            coins,
            amount_minor,
            currency,
        )
    if outcome == "conflict":
        raise TransferConflict(f"payment {payment_id} was credited with other contents")
    return bool(outcome == "done")


async def charge_back(
    conn: asyncpg.Connection, *, tenant_id: int, payment_id: str, reason: str, now_ms: int | None = None
) -> bool:
    """Take a payment's coins back as far as the wallet reaches; returns whether this call did it.

    What was spent already is booked as receivable and the user is restricted.

    Raises:
        WrongState: the payment was never credited.
    """
    with refusals():
        outcome = await conn.fetchval(
            "select billing.charge_back($1, $2, $3, $4)", now_ms, tenant_id, payment_id, reason
        )
    if outcome == "not_found":
        raise WrongState(f"payment {payment_id} was never credited")
    return bool(outcome == "done")


async def request_payout(
    conn: asyncpg.Connection,
    *,
    payout_id: UUID,
    user_id: int,
    coins: int,
    tax_coins: int,
    now_ms: int | None = None,
) -> None:
    """Move settled earnings to clearing, `tax_coins` of them to tax payable; the same call again does nothing.

    Raises:
        InsufficientFunds, UnknownAccount, InvalidAmount, TransferConflict: see errors.py.
    """
    require_coins("coins", coins)
    require_coins("tax_coins", tax_coins, least=0)
    if tax_coins >= coins:
        raise InvalidAmount("the tax is less than the payout")
    with refusals():
        outcome = await conn.fetchval(
            "select billing.request_payout($1, $2, $3, $4, $5)", now_ms, payout_id, user_id, coins, tax_coins
        )
    if outcome == "conflict":
        raise TransferConflict(f"payout {payout_id} was requested with other contents")
    if outcome not in ("done", "replayed"):
        raise BY_CODE.get(outcome, BillingError)(f"payout {payout_id} is refused: {outcome}")


async def resolve_payout(
    conn: asyncpg.Connection, payout_id: UUID, *, paid: bool, now_ms: int | None = None
) -> Literal["settled", "reversed"]:
    """Book that the bank has paid, or that it failed; the first call decides. Returns the state.

    Raises:
        WrongState: no such payout.
    """
    with refusals():
        state: Literal["settled", "reversed"] | None = await conn.fetchval(
            "select billing.resolve_payout($1, $2, $3)", now_ms, payout_id, paid
        )
    if state is None:
        raise WrongState(f"no payout {payout_id}")
    return state
