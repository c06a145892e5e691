"""Meters: open, start, tick, prove, stop; and the events that come of it.

Owns the Python face of the metering functions. Must never import realtime or presence; it knows payers and payees,
not calls. Every function takes the caller's connection and works in its transaction. `now_ms` is the database's clock
unless given. After a typed refusal that the database raised the transaction is aborted: use a savepoint to go on.

What consumers may rely on: an event is written by the transaction that caused it, is taken once, and is back when the
taker rolls back. Events of one meter are numbered in order; takers that run side by side may see them out of order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import asyncpg

from billing.archive import Block, archived_charges
from billing.errors import InsufficientFunds, InvalidAmount, InvalidTime, UnknownMeter, WrongState, refusals
from billing.queries import sql
from billing.receipts import Receipt, explain
from billing.tariffs import Tariff
from billing.wallets import Balance

TICK_LIMIT_MAX = 5_000  # a statement's worth: locks are held while it runs
SLOTS = 600  # tenths of a second in a minute
SLOT_MS = 100
ALL_SLOTS = tuple(range(SLOTS))
PROOFS_MAX = 10_000  # a bulk report's worth
AGO_MS_MAX = 86_400_000  # older than a day is silence all the same

Side = Literal["payer", "payee"]
EventKind = Literal["charged", "low_balance", "extended", "exhausted", "suspended", "resumed", "lost", "late_waived"]
MeterState = Literal["open", "running", "suspended", "faulted", "ended"]


@dataclass(frozen=True, slots=True)
class Started:
    """A meter after `start`. `charged_coins` is the first charge; funds last until `funded_until_ms`."""

    state: Literal["running", "insufficient_funds"]
    funded_until_ms: int
    charged_coins: int
    payer: Balance
    payee: Balance


@dataclass(frozen=True, slots=True)
class Stopped:
    """A meter's totals: spent + loss = earned + fee + tax. `ended_ms` is when the end took effect, which may be earlier
    than the call of `stop`."""

    meter_id: UUID
    state: MeterState
    reason: str
    started_ms: int | None
    ended_ms: int
    periods: int
    spent_coins: int
    promo_coins: int
    earned_coins: int
    fee_coins: int
    tax_coins: int
    loss_coins: int
    payer: Balance
    payee: Balance


@dataclass(frozen=True, slots=True)
class Proof:
    """How long ago a side was heard, said now.

    Report silence too: that a side was *not* heard for 30 s is evidence, which starts the grace; that nobody reports
    is none, and only pauses the meter.
    """

    meter_id: UUID
    side: Side
    heard_ago_ms: int


@dataclass(frozen=True, slots=True)
class MeterEvent:
    """What happened to a meter.

    charged: `period` was charged at `price_coins`, funded until `funded_until_ms`.
    low_balance: the coins last until `ends_at_ms`. `threshold_ms` is the lowest of the tariff's thresholds that this
        fell to; 0: the next pulse cannot be paid. The same one again: the end that it told has moved since.
    extended: coins came in while the meter ran; they last until `ends_at_ms` now.
    exhausted: it ended at `at_ms`, the funded moment.
    suspended: since `at_ms`, the last proof of life; `side` was silent, or None when nobody reported.
    resumed: it goes on from `at_ms`, the rest of the pulse moved along.
    lost: it ended at `at_ms`, the last proof of life of `side`.
    late_waived: we were late; the pulse began at `at_ms`, the time since it was due costs nothing.

    Balances are those of the moment of taking, never older than the event. `spent_coins` and `earned_coins` are the
    meter's totals at that moment.
    """

    id: int
    kind: EventKind
    meter_id: UUID
    tenant_id: int
    payer_id: int
    payee_id: int
    period: int
    price_coins: int
    payer: Balance
    payee: Balance
    funded_until_ms: int
    ends_at_ms: int
    at_ms: int
    side: str | None
    threshold_ms: int | None
    spent_coins: int
    earned_coins: int

    @property
    def final(self) -> bool:
        """Whether the money ends with the pulse that is funded."""
        return self.ends_at_ms <= self.funded_until_ms


async def open_meter(
    conn: asyncpg.Connection,
    *,
    meter_id: UUID,
    tenant_id: int,
    payer_id: int,
    payee_id: int,
    tariff: Tariff,
    invited_ms: int | None = None,
    now_ms: int | None = None,
) -> None:
    """Lock the tariff into a new meter; nothing is charged before `start`. The same call again does nothing.

    `invited_ms` is when the phone began to ring: the receipt shows the time from then as unpaid.

    Raises:
        UnknownAccount: payer or payee has no wallet in this tenant.
        MeterConflict: the id is used by another meter.
        InvalidAmount: payer and payee are the same.
    """
    if payer_id == payee_id:
        raise InvalidAmount("a meter needs two users")
    with refusals():
        await conn.execute(
            "select billing.open_meter($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::text::jsonb, $14)",
            now_ms,
            meter_id,
            tenant_id,
            payer_id,
            payee_id,
            tariff.price_coins,
            tariff.pulse_ms,
            tariff.first_coins,
            tariff.first_ms,
            tariff.commission_bp,
            tariff.tax_bp,
            tariff.grace_ms,
            tariff.to_json(),
            invited_ms,
        )


async def start(conn: asyncpg.Connection, meter_id: UUID, *, now_ms: int | None = None) -> Started:
    """Charge the first pulse and let the meter run, once both sides proved media. Later calls change nothing.

    When the wallet does not reach the meter ends without a charge, state "insufficient_funds".

    Raises:
        UnknownMeter, InvalidTime: see errors.py.
        WrongState: the meter has ended otherwise.
    """
    with refusals():
        await conn.execute("select billing.start_meter($1, $2)", now_ms, meter_id)
    row = await _meter(conn, meter_id)
    if row["state"] == "ended" and row["reason"] != "insufficient_funds":
        raise WrongState(f"meter {meter_id} has ended: {row['reason']}")
    running = row["state"] != "ended"
    return Started(
        state="running" if running else "insufficient_funds",
        funded_until_ms=row["due_ms"] if running else row["ended_ms"],
        charged_coins=row["spent_paid"] + row["spent_promo"],
        payer=_payer(row),
        payee=_payee(row),
    )


async def stop(
    conn: asyncpg.Connection, meter_id: UUID, *, reason: str, ago_ms: int = 0, now_ms: int | None = None
) -> Stopped:
    """End the meter as of `ago_ms` ago (at most 5 s count) and return its totals. Again: the same totals.

    Pulses that began after that moment are given back whole; the tariff's rounding and waivers apply.

    Raises:
        UnknownMeter, InvalidTime: see errors.py.
    """
    if type(ago_ms) is not int or ago_ms < 0:
        raise InvalidTime(f"ago_ms must be 0 or more, not {ago_ms!r}")
    ago_ms = min(ago_ms, AGO_MS_MAX)  # the database counts 5 s of it at most
    with refusals():
        await conn.execute("select billing.stop_meter($1, $2, $3, $4)", now_ms, meter_id, reason, ago_ms)
    return await totals(conn, meter_id)


async def totals(conn: asyncpg.Connection, meter_id: UUID) -> Stopped:
    """Return the meter's totals as they stand; `ended_ms` is 0 while it has not ended.

    Raises:
        UnknownMeter: no such meter.
    """
    row = await _meter(conn, meter_id)
    return Stopped(
        meter_id=meter_id,
        state=row["state"],
        reason=row["reason"] or "",
        started_ms=row["started_ms"],
        ended_ms=row["ended_ms"] or 0,
        periods=row["period"],
        spent_coins=row["spent_paid"] + row["spent_promo"],
        promo_coins=row["spent_promo"],
        earned_coins=row["share"],
        fee_coins=row["fee"],
        tax_coins=row["tax"],
        loss_coins=row["loss"],
        payer=_payer(row),
        payee=_payee(row),
    )


async def rerate(conn: asyncpg.Connection, meter_id: UUID, tariff: Tariff, *, now_ms: int | None = None) -> Started:
    """Give the running meter new terms from now: voice to video. The unused part of the pulse is given back by time.

    Free time, short calls and minimum of the new tariff do not count again.

    Raises:
        InsufficientFunds: the first pulse of the new terms cannot be paid; the old ones go on.
        WrongState: the meter does not run.
        UnknownMeter, Restricted: see errors.py.
    """
    with refusals():
        state = await conn.fetchval(
            "select billing.rerate_meter($1, $2, $3, $4, $5, $6, $7::text::jsonb)",
            now_ms,
            meter_id,
            tariff.price_coins,
            tariff.pulse_ms,
            tariff.commission_bp,
            tariff.tax_bp,
            tariff.to_json(),
        )
    if state == "insufficient_funds":
        raise InsufficientFunds(f"the payer of meter {meter_id} cannot pay a pulse of the new terms")
    if state != "running":
        raise WrongState(f"meter {meter_id} is {state}")
    row = await _meter(conn, meter_id)
    return Started(
        state="running",
        funded_until_ms=row["due_ms"],
        charged_coins=tariff.price_coins,
        payer=_payer(row),
        payee=_payee(row),
    )


async def prove(conn: asyncpg.Connection, proofs: Sequence[Proof], *, now_ms: int | None = None) -> None:
    """Write down in bulk when each side was last heard. The last report of a side within the call counts.

    Raises:
        InvalidTime: a negative age.
        InvalidAmount: more than 10,000 reports.
    """
    if len(proofs) > PROOFS_MAX:
        raise InvalidAmount(f"at most {PROOFS_MAX} reports in one call")
    heard: dict[UUID, list[int | None]] = {}
    for proof in proofs:
        if proof.heard_ago_ms < 0:
            raise InvalidTime("nobody is heard in the future")
        heard.setdefault(proof.meter_id, [None, None])[proof.side == "payee"] = min(proof.heard_ago_ms, AGO_MS_MAX)
    if not heard:
        return
    with refusals():
        await conn.execute(
            "select billing.prove($1, $2, $3, $4)",
            now_ms,
            list(heard),
            [ages[0] for ages in heard.values()],
            [ages[1] for ages in heard.values()],
        )


async def tick(
    conn: asyncpg.Connection,
    *,
    limit: int = 500,
    now_ms: int | None = None,
    slots: Sequence[int] | None = None,
    only: Sequence[UUID] | None = None,
) -> int:
    """Charge due meters, suspend those without proof of life, end those that cannot pay; return how many it handled.

    Any number of workers may call it side by side. `slots` narrows the search to meters of whole-minute pulses that
    fall due in these tenths of a second of the minute (`slots_between`); without it every meter is looked at. `only`
    narrows it to some meters.

    Raises:
        InvalidTime, InvalidAmount: see errors.py. Any other database error: nothing was done for any meter.
    """
    if not 1 <= limit <= TICK_LIMIT_MAX:
        raise InvalidAmount(f"limit must be 1 to {TICK_LIMIT_MAX}, not {limit}")
    with refusals():
        handled = await conn.fetchval(
            "select billing.tick($1, $2, $3::smallint[], $4::uuid[])",
            now_ms,
            limit,
            ALL_SLOTS if slots is None else slots,
            only,
        )
    return int(handled)


def slots_between(from_ms: int, until_ms: int) -> tuple[int, ...]:
    """Return the slots of the moments from `from_ms` to `until_ms`, both included; all of them for a minute or more."""
    first, last = from_ms // SLOT_MS, until_ms // SLOT_MS
    if last - first >= SLOTS:
        return ALL_SLOTS
    return tuple(n % SLOTS for n in range(first, last + 1))


async def tick_since(
    conn: asyncpg.Connection, since_ms: int | None, *, limit: int = 500, now_ms: int | None = None
) -> tuple[int, int]:
    """As `tick`, looking only where whole-minute pulses fell due since the caller's last round.

    Returns how many meters were handled and the time to hand in with the next call; None looks everywhere. A round
    that was cut short by its limit is asked again with the same `since_ms`.
    """
    with refusals():
        row = await conn.fetchrow("select * from billing.tick_since($1, $2, $3)", now_ms, limit, since_ms)
    return row["handled"], row["now_ms"]


async def receipt(conn: asyncpg.Connection, meter_id: UUID) -> Receipt:
    """Return the meter's receipt, of one moment: every second explained, the journal's own figures.

    Charges of an archived month are read from its file, and are the same.

    Raises:
        UnknownMeter: no such meter.
        ArchiveUnavailable: the file is missing or damaged.
    """
    text = await conn.fetchval(sql("receipt"), meter_id)
    if text is None:
        raise UnknownMeter(f"no meter {meter_id}")
    rows = json.loads(text)
    if rows["archived"] is not None:
        rows["charges"] = await archived_charges(Block.of(rows["archived"]), meter_id, periods=rows["meter"]["period"])
    return explain(rows)


async def any_events(conn: asyncpg.Connection) -> bool:
    """Return whether there is something for `take_events`: a look is cheaper than a transaction that takes nothing."""
    found: bool = await conn.fetchval(sql("any_events"))
    return found


async def take_events(conn: asyncpg.Connection, *, limit: int = 500) -> list[MeterEvent]:
    """Delete and return the oldest events in the caller's transaction; passes over those that another taker holds."""
    rows = await conn.fetch(sql("take_events"), limit)
    return [_event(row) for row in rows]


def _event(row: Any) -> MeterEvent:
    return MeterEvent(
        id=row["event_id"],
        kind=row["kind"],
        meter_id=row["meter_id"],
        tenant_id=row["tenant_id"],
        payer_id=row["payer_id"],
        payee_id=row["payee_id"],
        period=row["period"],
        price_coins=row["price"],
        payer=_payer(row),
        payee=_payee(row),
        funded_until_ms=row["funded_until_ms"],
        ends_at_ms=row["ends_at_ms"],
        at_ms=row["at_ms"],
        side=row["side"],
        threshold_ms=row["threshold_ms"],
        spent_coins=row["spent"],
        earned_coins=row["share"],
    )


def _payer(row: Any) -> Balance:
    return Balance(row["payer_id"], row["payer_paid"], row["payer_promo"], row["payer_earned"], row["payer_v"])


def _payee(row: Any) -> Balance:
    return Balance(row["payee_id"], row["payee_paid"], row["payee_promo"], row["payee_earned"], row["payee_v"])


async def _meter(conn: asyncpg.Connection, meter_id: UUID) -> Any:
    row = await conn.fetchrow(sql("meter"), meter_id)
    if row is None:
        raise UnknownMeter(f"no meter {meter_id}")
    return row
