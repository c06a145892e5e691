"""Holds: coins set aside for a booking or a place in a queue. Owns the hold's three ends: posted, voided, expired.

Must never import realtime or presence. A hold is a real transfer to an escrow account; each end happens once.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import asyncpg

from billing.errors import InvalidAmount, WrongState, refusals
from billing.ledger import Posted
from billing.tariffs import require_coins

HoldState = Literal["posted", "voided", "expired"]


async def hold(
    conn: asyncpg.Connection,
    *,
    hold_id: UUID,
    user_id: int,
    coins: int,
    expires_ms: int,
    reason: str = "",
    now_ms: int | None = None,
) -> None:
    """Set coins aside until `expires_ms` (unix ms); the same call again does nothing.

    Raises:
        InsufficientFunds, Restricted, UnknownAccount, InvalidAmount, TransferConflict: see errors.py.
    """
    require_coins("coins", coins)
    with refusals():
        query = "select * from billing.make_hold($1, $2, $3, $4, $5, $6)"
        row = await conn.fetchrow(query, now_ms, hold_id, user_id, coins, expires_ms, reason)
    error = Posted(hold_id, row["outcome"], row["code"], 0, 0).error()
    if error is not None:
        raise error


async def post_hold(
    conn: asyncpg.Connection,
    hold_id: UUID,
    *,
    payee_id: int,
    coins: int,
    commission_bp: int,
    now_ms: int | None = None,
) -> HoldState:
    """Pay `coins` of the hold to the payee and return the rest to the user; again does nothing.

    Returns the hold's state: "expired" or "voided" when that came first, and then nothing is paid.

    Raises:
        WrongState: no such hold, or it has fewer coins.
        UnknownAccount: the payee has no wallet in this tenant.
    """
    require_coins("coins", coins)
    if not 0 <= commission_bp <= 10_000:
        raise InvalidAmount(f"commission_bp must be 0 to 10000, not {commission_bp}")
    return await _resolve(conn, hold_id, payee_id, coins, commission_bp, now_ms)


async def void_hold(conn: asyncpg.Connection, hold_id: UUID, *, now_ms: int | None = None) -> HoldState:
    """Return all coins to the user; again does nothing. Returns the hold's state, which may be "posted" or "expired".

    Raises:
        WrongState: no such hold.
    """
    return await _resolve(conn, hold_id, None, 0, 0, now_ms)


async def _resolve(
    conn: asyncpg.Connection, hold_id: UUID, payee_id: int | None, coins: int, fee_bp: int, now_ms: int | None
) -> HoldState:
    with refusals():
        state: HoldState | None = await conn.fetchval(
            "select billing.resolve_hold($1, $2, $3, $4, $5)", now_ms, hold_id, payee_id, coins, fee_bp
        )
    if state is None:
        raise WrongState(f"no hold {hold_id}")
    return state
