"""Receipts: every second of a call explained. Pure: no I/O, no clock. Must never import realtime or presence.

`explain` walks the meter's time from the invitation to the end. Time between is cut into segments without gap or
overlap; each charged one names its period. The sums are taken from the journal's rows, and the tests compare them with
the meter's totals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

SegmentKind = Literal["ringing", "connecting", "free", "charged", "paused", "waived", "unexplained"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time. charged: paid by `period`. paused: a side was silent, or we were blind (`note`). waived: we
    were late. unexplained never occurs in sound books."""

    kind: SegmentKind
    from_ms: int
    until_ms: int
    period: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pulse:
    """One charge as journaled. `refunded` of its coins went back."""

    period: int
    begins_ms: int
    coins: int
    promo: int
    share: int
    fee: int
    tax: int
    refunded: int


@dataclass(frozen=True, slots=True)
class Refund:
    """Coins of a charge that went back, and why; `share` was taken back from the host, `loss` the platform bore."""

    refund_id: UUID
    period: int
    at_ms: int
    coins: int
    promo: int
    share: int
    fee: int
    tax: int
    loss: int
    reason: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A meter explained. spent = paid + promo; spent + loss = earned + fee + tax."""

    meter_id: UUID
    payer_id: int
    payee_id: int
    state: str
    reason: str
    price_coins: int
    pulse_ms: int
    invited_ms: int
    opened_ms: int
    started_ms: int | None
    ended_ms: int | None
    segments: tuple[Segment, ...]
    pulses: tuple[Pulse, ...]
    refunds: tuple[Refund, ...]
    spent_coins: int
    paid_coins: int
    promo_coins: int
    earned_coins: int
    fee_coins: int
    tax_coins: int
    loss_coins: int

    def time_ms(self, kind: SegmentKind) -> int:
        """Return how long the call was in segments of a kind."""
        return sum(s.until_ms - s.from_ms for s in self.segments if s.kind == kind)

    @property
    def talked_ms(self) -> int:
        """The time from media to the end, without pauses and waived gaps."""
        return self.time_ms("free") + self.time_ms("charged")


def explain(rows: Mapping[str, Any]) -> Receipt:
    """Return the receipt of a meter from its rows (billing/sql/receipt.sql).

    A meter that has not ended is explained up to the moment until which it is funded.
    """
    meter = rows["meter"]
    charges, refunds = rows["charges"] or [], rows["refunds"] or []
    pulses = tuple(_pulse(row, refunds) for row in charges)
    given_back = tuple(_refund(row) for row in refunds)
    coins = sum(p.coins for p in pulses) - sum(r.coins for r in given_back)
    promo = sum(p.promo for p in pulses) - sum(r.promo for r in given_back)
    return Receipt(
        meter_id=UUID(meter["meter_id"]),
        payer_id=meter["payer_id"],
        payee_id=meter["payee_id"],
        state=meter["state"],
        reason=meter["reason"] or "",
        price_coins=meter["price"],
        pulse_ms=meter["pulse_ms"],
        invited_ms=meter["invited_ms"],
        opened_ms=meter["opened_ms"],
        started_ms=meter["started_ms"],
        ended_ms=meter["ended_ms"],
        segments=_segments(meter, rows["rates"] or [], charges, rows["pauses"] or []),
        pulses=pulses,
        refunds=given_back,
        spent_coins=coins,
        paid_coins=coins - promo,
        promo_coins=promo,
        earned_coins=sum(p.share for p in pulses) - sum(r.share for r in given_back),
        fee_coins=sum(p.fee for p in pulses) - sum(r.fee for r in given_back),
        tax_coins=sum(p.tax for p in pulses) - sum(r.tax for r in given_back),
        loss_coins=sum(r.loss for r in given_back),
    )


def _pulse(row: Mapping[str, Any], refunds: Sequence[Mapping[str, Any]]) -> Pulse:
    return Pulse(
        period=row["period"],
        begins_ms=row["at_ms"],
        coins=row["price"],
        promo=row["promo"],
        share=row["share"],
        fee=row["fee"],
        tax=row["tax"],
        refunded=sum(refund["coins"] for refund in refunds if refund["period"] == row["period"]),
    )


def _refund(row: Mapping[str, Any]) -> Refund:
    return Refund(
        refund_id=UUID(row["refund_id"]),
        period=row["period"],
        at_ms=row["at_ms"],
        coins=row["coins"],
        promo=row["promo"],
        share=row["share"],
        fee=row["fee"],
        tax=row["tax"],
        loss=row["loss"],
        reason=row["reason"],
    )


def _segments(
    meter: Mapping[str, Any],
    rates: Sequence[Mapping[str, Any]],
    charges: Sequence[Mapping[str, Any]],
    pauses: Sequence[Mapping[str, Any]],
) -> tuple[Segment, ...]:
    ended_ms = meter["ended_ms"]
    connected_ms = meter["started_ms"] or ended_ms or meter["opened_ms"]
    walk = _Walk(meter["invited_ms"])
    walk.pass_until("ringing", meter["opened_ms"])
    walk.pass_until("connecting", connected_ms)
    if meter["started_ms"] is None:
        return tuple(walk.segments)
    end_ms = ended_ms if ended_ms is not None else meter["suspended_ms"] or meter["due_ms"]
    lengths = {charge["period"]: _length_ms(rates, charge["period"]) for charge in charges}
    new_terms = {rate["from_period"] for rate in rates}
    walk.pauses = [p for p in pauses if p["until_ms"] is not None and p["until_ms"] > p["from_ms"]]
    begins = {charge["period"]: charge["at_ms"] for charge in charges}
    if charges:
        walk.consume("free", None, begins[charges[0]["period"]] - meter["started_ms"], end_ms)
    for period, length_ms in lengths.items():
        # New terms cut the running pulse short where they begin.
        cut_ms = begins[period + 1] if period + 1 in new_terms and period + 1 in begins else end_ms
        walk.consume("charged", period, length_ms, min(cut_ms, end_ms))
    walk.pass_until("unexplained", end_ms)
    return tuple(walk.segments)


def _length_ms(rates: Sequence[Mapping[str, Any]], period: int) -> int:
    rate = next(rate for rate in reversed(rates) if rate["from_period"] <= period)
    return int(rate["first_ms"] if rate["from_period"] == period else rate["pulse_ms"])


class _Walk:
    """A cursor over a meter's time that leaves segments behind; pauses in the way are passed without using funds."""

    __slots__ = ("at_ms", "pauses", "segments")

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms
        self.segments: list[Segment] = []
        self.pauses: list[Mapping[str, Any]] = []

    def pass_until(self, kind: SegmentKind, until_ms: int, period: int | None = None, note: str = "") -> None:
        if until_ms > self.at_ms:
            self.segments.append(Segment(kind, self.at_ms, until_ms, period, note))
            self.at_ms = until_ms

    def consume(self, kind: SegmentKind, period: int | None, length_ms: int, end_ms: int) -> None:
        """Pass `length_ms` of running time, at most to `end_ms`."""
        while length_ms > 0 and self.at_ms < end_ms:
            self._pass_pauses(end_ms)
            pause = self.pauses[0]["from_ms"] if self.pauses else end_ms
            until_ms = min(self.at_ms + length_ms, pause, end_ms)
            length_ms -= until_ms - self.at_ms
            self.pass_until(kind, until_ms, period)
        self._pass_pauses(end_ms)

    def _pass_pauses(self, end_ms: int) -> None:
        while self.pauses and self.pauses[0]["from_ms"] <= self.at_ms:
            pause = self.pauses.pop(0)
            kind: SegmentKind = "waived" if pause["cause"] == "late" else "paused"
            self.pass_until(kind, min(pause["until_ms"], end_ms), None, pause["cause"])
