"""What staff does to the books: adjustments, refunds, corrections, restrictions. Each leaves an audit trail.

Owns nothing but these; must never import realtime or presence. Every call names an actor and a reason; nothing is
changed in place, and the same id does it once.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import asyncpg

from billing.errors import InvalidAmount, RefundExceeds, TransferConflict, UnknownMeter, WrongState, refusals
from billing.ledger import REASON_CHARS_MAX, Posted
from billing.tariffs import COINS_MAX, require_coins

ACTOR_CHARS_MAX = 200


async def adjust(
    conn: asyncpg.Connection,
    *,
    transfer_id: UUID,
    user_id: int,
    bucket: Literal["paid", "promo", "earned"],
    coins: int,
    actor: str,
    reason: str,
    now_ms: int | None = None,
) -> None:
    """Add coins to a bucket, or take them when `coins` is negative.

    Raises:
        InsufficientFunds: there are fewer to take.
        InvalidAmount, UnknownAccount, TransferConflict: see errors.py.
    """
    if type(coins) is not int or coins == 0 or abs(coins) > COINS_MAX or bucket not in ("paid", "promo", "earned"):
        raise InvalidAmount(f"coins must be a non-zero integer, bucket paid, promo or earned: {coins!r} {bucket!r}")
    _require_words(actor, reason)
    with refusals():
        row = await conn.fetchrow(
            "select * from billing.adjust($1, $2, $3, $4, $5, $6, $7)",
            now_ms,
            transfer_id,
            user_id,
            bucket,
            coins,
            actor,
            reason,
        )
    error = Posted(transfer_id, row["outcome"], row["code"], 0, 0).error()
    if error is not None:
        raise error


async def refund(
    conn: asyncpg.Connection,
    *,
    refund_id: UUID,
    meter_id: UUID,
    period: int,
    coins: int | None,
    actor: str,
    reason: str,
    now_ms: int | None = None,
) -> None:
    """Give back a charge, or `coins` of it. Paid coins first; what the host no longer has is the platform's loss.

    Raises:
        UnknownMeter: no such charge.
        RefundExceeds: less is left of it.
        TransferConflict: the id was used for another refund.
    """
    if coins is not None:
        require_coins("coins", coins)
    _require_words(actor, reason)
    with refusals():
        outcome = await conn.fetchval(
            "select billing.refund_charge($1, $2, $3, $4, $5, $6, $7)",
            now_ms,
            refund_id,
            meter_id,
            period,
            coins,
            actor,
            reason,
        )
    if outcome == "no_charge":
        raise UnknownMeter(f"meter {meter_id} has no charge for period {period}")
    if outcome == "exceeds":
        raise RefundExceeds(f"less is left of period {period} of meter {meter_id}")
    if outcome == "conflict":
        raise TransferConflict(f"refund {refund_id} was used for something else")


async def correct_payment(
    conn: asyncpg.Connection, transfer_id: UUID, *, actor: str, reason: str, now_ms: int | None = None
) -> None:
    """Undo a gift or paid message by rows that name it; again does nothing.

    Raises:
        WrongState: there is no such payment.
    """
    _require_words(actor, reason)
    with refusals():
        outcome = await conn.fetchval(
            "select billing.correct_payment($1, $2, $3, $4)", now_ms, transfer_id, actor, reason
        )
    if outcome not in ("done", "replayed"):
        raise WrongState(f"transfer {transfer_id} cannot be corrected: {outcome}")


async def restrict(
    conn: asyncpg.Connection, user_id: int, *, restricted: bool, actor: str, reason: str, now_ms: int | None = None
) -> None:
    """Forbid a user to spend, or lift that.

    Raises:
        UnknownAccount: he has no wallet.
    """
    _require_words(actor, reason)
    with refusals():
        await conn.execute(
            "select billing.set_restricted($1, $2, $3, $4, $5)", now_ms, user_id, restricted, actor, reason
        )


def _require_words(actor: str, reason: str) -> None:
    if not 1 <= len(actor) <= ACTOR_CHARS_MAX or not 1 <= len(reason) <= REASON_CHARS_MAX:
        raise InvalidAmount("an actor and a reason are required")
