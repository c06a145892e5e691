"""Calls' view of billing's meters: a call's id is its meter's id, the caller is the payer, the host the payee.

Owns the translation between the two and nothing else; all money and time is decided in billing, in the caller's
transaction. `now_ms` is passed on so that a call and its meter agree on when things happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from billing import metering
from billing.errors import UnknownMeter
from billing.metering import MeterEvent, Proof
from billing.receipts import Receipt
from billing.tariffs import Tariff
from billing.wallets import Balance, balances
from realtime.calls.liveness import Sign
from realtime.calls.model import Call, Reason, Side

HUNG_UP: Final = "hung_up"
# What a meter that ended by itself says, in the words of calls.
REASONS: Final = {
    "exhausted": Reason.EXHAUSTED,
    "lost": Reason.LOST,
    "insufficient_funds": Reason.INSUFFICIENT_FUNDS,
}


@dataclass(frozen=True, slots=True)
class Started:
    """The first pulse is paid."""

    funded_until_ms: int
    charged_coins: int
    earned_coins: int
    payer: Balance
    payee: Balance


@dataclass(frozen=True, slots=True)
class Totals:
    """What a call has cost by now.

    Attributes:
        over: the meter has ended.
        reason: why, when it ended by itself; None when it was stopped or still runs.
        ended_ms: when that took effect; 0 while it runs.
    """

    over: bool
    reason: Reason | None
    ended_ms: int
    spent_coins: int
    earned_coins: int
    payer: Balance
    payee: Balance


class Meters:
    """The meters of calls."""

    def __init__(self, tariff_of: Callable[[int, int], Tariff]) -> None:
        """Args: tariff_of: the terms for a price in coins and a pulse in milliseconds."""
        self._tariff_of = tariff_of

    def first_coins(self, *, price_coins: int, pulse_ms: int) -> int:
        """Return what a caller must have to begin."""
        return self._tariff_of(price_coins, pulse_ms).first_coins

    async def coins(self, conn: asyncpg.Connection, user_id: int) -> int:
        """Return what the user can spend; 0 without a wallet."""
        found = (await balances(conn, (user_id,))).get(user_id)
        return found.coins if found else 0

    async def start(self, conn: asyncpg.Connection, call: Call, *, now_ms: int) -> Started | None:
        """Lock the terms and charge the first pulse; None when it cannot be paid."""
        await metering.open_meter(
            conn,
            meter_id=call.call_id,
            tenant_id=call.tenant_id,
            payer_id=call.caller_id,
            payee_id=call.host_id,
            tariff=self._tariff_of(call.price_coins, call.pulse_ms),
            invited_ms=call.created_ms,
            now_ms=now_ms,
        )
        started = await metering.start(conn, call.call_id, now_ms=now_ms)
        if started.state != "running":
            return None
        totals = await metering.totals(conn, call.call_id)
        return Started(
            funded_until_ms=started.funded_until_ms,
            charged_coins=started.charged_coins,
            earned_coins=totals.earned_coins,
            payer=started.payer,
            payee=started.payee,
        )

    async def stop(self, conn: asyncpg.Connection, call: Call, *, ago_ms: int, now_ms: int) -> Totals:
        """End the meter as of `ago_ms` ago. One that has ended by itself before stays as it is."""
        return _totals(await metering.stop(conn, call.call_id, reason=HUNG_UP, ago_ms=ago_ms, now_ms=now_ms))

    async def totals(self, conn: asyncpg.Connection, call_id: UUID) -> Totals | None:
        """Return how the meter stands; None when there is none."""
        try:
            return _totals(await metering.totals(conn, call_id))
        except UnknownMeter:
            return None

    async def receipt(self, conn: asyncpg.Connection, call_id: UUID) -> Receipt:
        """Return the meter explained. Raises billing's UnknownMeter."""
        return await metering.receipt(conn, call_id)

    async def any_events(self, conn: asyncpg.Connection) -> bool:
        """Return whether something has happened to meters."""
        return await metering.any_events(conn)

    async def take_events(self, conn: asyncpg.Connection, limit: int) -> list[MeterEvent]:
        """Take what has happened to meters, in the caller's transaction."""
        return await metering.take_events(conn, limit=limit)

    async def prove(self, conn: asyncpg.Connection, signs: Iterable[Sign], *, now_ms: int | None = None) -> None:
        """Write down when each side was heard; `now_ms` is the database's clock unless given."""
        proofs = [Proof(s.call_id, "payer" if s.side is Side.CALLER else "payee", s.heard_ago_ms) for s in signs]
        for chunk in _chunks(proofs, metering.PROOFS_MAX):
            await metering.prove(conn, chunk, now_ms=now_ms)


def _totals(stopped: metering.Stopped) -> Totals:
    return Totals(
        over=stopped.state == "ended",
        reason=REASONS.get(stopped.reason),
        ended_ms=stopped.ended_ms,
        spent_coins=stopped.spent_coins,
        earned_coins=stopped.earned_coins,
        payer=stopped.payer,
        payee=stopped.payee,
    )


def _chunks(proofs: Sequence[Proof], size: int) -> Iterable[Sequence[Proof]]:
    return (proofs[at : at + size] for at in range(0, len(proofs), size))
