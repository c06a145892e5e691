"""Tariffs: what a call costs. Pure: no I/O, no clock, no floats. Must never import realtime or presence.

A tariff is data and is locked into a meter when that is opened. The database computes charges by the same rules
(billing/migrations); the tables in examples.py tie the two together.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Literal

from billing.errors import InvalidAmount, InvalidTariff

COINS_MAX = 2**53 - 1  # survives JSON in a browser
PRICE_COINS_MAX = 1_000_000_000  # times 10,000 basis points and a day of milliseconds still fits 63 bits
PULSE_MS_MIN = 1_000
DAY_MS = 86_400_000
THRESHOLDS_MAX = 4  # more would be noise to who talks, and each is looked at when a row is
BASIS_POINTS = 10_000

Rounding = Literal["pulse", "second"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """The terms of a meter.

    Attributes:
        price_coins: for each pulse, 1 to 10^9.
        pulse_ms: length of a pulse, paid in advance; one second to a day.
        minimum_coins: least cost of a call that started. It is charged with the first pulse and buys as many whole
            pulses as it pays; 0 for none.
        free_ms: time before the first pulse begins. A call that ends within costs nothing.
        free_ms_per_day: how much free time a payer gets in a day (UTC), over all his calls.
        commission_bp: the platform's part of the price in basis points; what a division leaves is carried on.
        tax_bp: the part of the commission that is tax, in basis points.
        rounding: "pulse": a begun pulse is paid whole. "second": the unused whole seconds of the last pulse are given
            back when the call ends.
        low_balance_ms: up to 4 thresholds, descending: warn when the time that the coins last falls to one of them, be
            it as a pulse begins, be it because coins are spent. The last warning, that the next pulse cannot be paid,
            needs none. Every warning tells the exact end.
        grace_ms: a side silent for half of it suspends the meter, for all of it ends the call at the last proof.
        short_call_ms: a call shorter than this costs nothing; 0 for none.
        short_waivers_per_day: how many such calls a payer gets in a day (UTC).
        waive_silent_host: a call stopped with reason "silent_host" costs nothing.
        waive_host_dropped: when the host's side is lost, the pulse that ran then is given back.
    """

    price_coins: int
    pulse_ms: int = 60_000
    minimum_coins: int = 0
    free_ms: int = 0
    free_ms_per_day: int = 60_000
    commission_bp: int = 0
    tax_bp: int = 0
    rounding: Rounding = "pulse"
    low_balance_ms: tuple[int, ...] = (60_000,)
    grace_ms: int = 20_000
    short_call_ms: int = 0
    short_waivers_per_day: int = 3
    waive_silent_host: bool = True
    waive_host_dropped: bool = True

    def __post_init__(self) -> None:
        _require_int("price_coins", self.price_coins, 1, PRICE_COINS_MAX)
        _require_int("pulse_ms", self.pulse_ms, PULSE_MS_MIN, DAY_MS)
        _require_int("minimum_coins", self.minimum_coins, 0, PRICE_COINS_MAX)
        _require_int("free_ms", self.free_ms, 0, DAY_MS)
        _require_int("free_ms_per_day", self.free_ms_per_day, 0, DAY_MS)
        _require_int("commission_bp", self.commission_bp, 0, BASIS_POINTS)
        _require_int("tax_bp", self.tax_bp, 0, BASIS_POINTS)
        _require_thresholds(self.low_balance_ms)
        _require_int("grace_ms", self.grace_ms, PULSE_MS_MIN, 3_600_000)
        _require_int("short_call_ms", self.short_call_ms, 0, DAY_MS)
        _require_int("short_waivers_per_day", self.short_waivers_per_day, 0, 1_000)
        if self.rounding not in ("pulse", "second"):
            raise InvalidTariff(f"rounding must be pulse or second, not {self.rounding!r}")
        if self.first_ms > DAY_MS:
            raise InvalidTariff("the minimum charge buys more than a day")

    @property
    def first_coins(self) -> int:
        """What the first pulse costs: the price, or the minimum charge when that is more."""
        return max(self.price_coins, self.minimum_coins)

    @property
    def first_ms(self) -> int:
        """How long the first charge funds."""
        return self.pulse_ms * max(1, self.minimum_coins // self.price_coins)

    def to_json(self) -> str:
        """Return the terms as canonical JSON: equal tariffs give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Tariff:
        """Read what `to_json` wrote, of this or an older version (fields that are missing take their defaults).

        Raises:
            InvalidTariff: a value is out of range.
        """
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in json.loads(text).items() if name in known}
        if isinstance(values.get("low_balance_ms"), list):
            values["low_balance_ms"] = tuple(values["low_balance_ms"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Split:
    """A price divided: share + fee + tax == price; the remainders go into the next division."""

    share: int
    fee: int
    tax: int
    fee_remainder: int
    tax_remainder: int


@dataclass(frozen=True, slots=True)
class LowWarning:
    """What a payer is told at `at_ms` of the call: that the money ends at `ends_ms`, having fallen to `threshold_ms`.

    Threshold 0: the next pulse cannot be paid.
    """

    at_ms: int
    threshold_ms: int
    ends_ms: int


@dataclass(frozen=True, slots=True)
class Bill:
    """What an uninterrupted call costs."""

    pulses: int
    coins: int
    share: int
    fee: int
    tax: int


def split(price_coins: int, tariff: Tariff, fee_remainder: int = 0, tax_remainder: int = 0) -> Split:
    """Divide a price: n = remainder + price * bp; fee = n div 10000, remainder = n mod 10000. The tax is a part of it.

    A negative price takes a charge back by the same rule, so that no coin is lost however often that happens.
    """
    gross, fee_remainder = divmod(fee_remainder + price_coins * tariff.commission_bp, BASIS_POINTS)
    tax, tax_remainder = divmod(tax_remainder + gross * tariff.tax_bp, BASIS_POINTS)
    return Split(price_coins - gross, gross - tax, tax, fee_remainder, tax_remainder)


def pulses_begun(tariff: Tariff, talked_ms: int) -> int:
    """Return how many charges a call of this length needs; a pulse that is not used at all is not paid."""
    used_ms = talked_ms - tariff.free_ms
    if used_ms <= 0:
        return 0
    return 1 + max(0, -(-(used_ms - tariff.first_ms) // tariff.pulse_ms))


def seconds_price(price_coins: int, length_ms: int, used_ms: int) -> int:
    """Return what a pulse costs of which `used_ms` were used: begun seconds count whole, begun coins too."""
    seconds_ms = min(-(-used_ms // 1000) * 1000, length_ms)
    return -(-price_coins * seconds_ms // length_ms)


def bill(tariff: Tariff, talked_ms: int) -> Bill:
    """Return what a call of `talked_ms` without any pause costs a payer who can pay it and has free time left."""
    if talked_ms < tariff.short_call_ms and tariff.short_waivers_per_day > 0:
        return Bill(0, 0, 0, 0, 0)
    pulses = pulses_begun(tariff, talked_ms)
    share = fee = tax = fee_remainder = tax_remainder = coins = 0
    for number in range(1, pulses + 1):
        price = tariff.first_coins if number == 1 else tariff.price_coins
        if tariff.rounding == "second" and number == pulses:
            length_ms = tariff.first_ms if number == 1 else tariff.pulse_ms
            begun_ms = 0 if number == 1 else tariff.first_ms + (number - 2) * tariff.pulse_ms
            used = seconds_price(price, length_ms, talked_ms - tariff.free_ms - begun_ms)
            price = min(price, max(used, tariff.minimum_coins - coins))
        part = split(price, tariff, fee_remainder, tax_remainder)
        fee_remainder, tax_remainder = part.fee_remainder, part.tax_remainder
        coins, share, fee, tax = coins + price, share + part.share, fee + part.fee, tax + part.tax
    return Bill(pulses, coins, share, fee, tax)


def fallen_to(tariff: Tariff, left_ms: int, *, final: bool) -> int | None:
    """Return the lowest threshold that the funded time has fallen to; 0 when `final`, None when there is none."""
    if final:
        return 0
    return min((ms for ms in tariff.low_balance_ms if left_ms <= ms), default=None)


def warnings(tariff: Tariff, coins: int) -> tuple[LowWarning, ...]:
    """Return what a payer with so many coins is told in a call without pauses, gifts and top-ups."""
    told: list[LowWarning] = []
    begins_ms, price, length_ms = 0, tariff.first_coins, tariff.free_ms + tariff.first_ms
    while coins >= price:
        coins -= price
        ends_ms = begins_ms + length_ms + coins // tariff.price_coins * tariff.pulse_ms
        fallen = fallen_to(tariff, ends_ms - begins_ms, final=coins < tariff.price_coins)
        if fallen is not None and (not told or fallen < told[-1].threshold_ms):
            told.append(LowWarning(begins_ms, fallen, ends_ms))
        begins_ms, price, length_ms = begins_ms + length_ms, tariff.price_coins, tariff.pulse_ms
    return tuple(told)


def require_coins(name: str, coins: int, *, least: int = 1) -> int:
    """Return `coins` when it is an integer from `least` to 2^53 - 1.

    Raises:
        InvalidAmount: it is not.
    """
    if type(coins) is not int or not least <= coins <= COINS_MAX:
        raise InvalidAmount(f"{name} must be an integer from {least} to 2^53 - 1, not {coins!r}")
    return coins


def _require_int(name: str, value: int, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise InvalidTariff(f"{name} must be an integer from {least} to {most}, not {value!r}")


def _require_thresholds(thresholds_ms: tuple[int, ...]) -> None:
    if type(thresholds_ms) is not tuple or len(thresholds_ms) > THRESHOLDS_MAX:
        raise InvalidTariff(f"low_balance_ms must be a tuple of at most {THRESHOLDS_MAX}, not {thresholds_ms!r}")
    for ms in thresholds_ms:
        _require_int("low_balance_ms", ms, 1, DAY_MS)
    if any(low >= high for high, low in pairwise(thresholds_ms)):
        raise InvalidTariff(f"low_balance_ms must descend, not {thresholds_ms!r}")
