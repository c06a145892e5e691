"""Worked examples of tariffs: the tables that tie the pure rules to the database. Owns docs/tariffs.md.

Must never import realtime or presence. Tests run every row through billing/tariffs.py and through a real meter, and
docs/tariffs.md is generated from them (`talkmeter docs`).
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, dataclass, fields

from billing.tariffs import Bill, LowWarning, Tariff


@dataclass(frozen=True, slots=True)
class Example:
    """A row of the table: a rule, a tariff, a call without pauses, and its bill."""

    rule: str
    tariff: Tariff
    talked_ms: int
    bill: Bill


EXAMPLES: tuple[Example, ...] = (
    Example(
        "A begun pulse is paid whole.",
        Tariff(price_coins=10, commission_bp=3000),
        61_000,
        Bill(pulses=2, coins=20, share=14, fee=6, tax=0),
    ),
    Example(
        "A call that ends as the pulse is used up has not begun the next.",
        Tariff(price_coins=10, commission_bp=3000),
        60_000,
        Bill(pulses=1, coins=10, share=7, fee=3, tax=0),
    ),
    Example(
        "One millisecond more begins the next pulse.",
        Tariff(price_coins=10, commission_bp=3000),
        60_001,
        Bill(pulses=2, coins=20, share=14, fee=6, tax=0),
    ),
    Example(
        "Pulses may be of any length from a second.",
        Tariff(price_coins=3, pulse_ms=10_000, commission_bp=5000),
        35_000,
        Bill(pulses=4, coins=12, share=6, fee=6, tax=0),
    ),
    Example(
        "Commission carries its remainder: 7 % of 10 coins is 0, 1, 1, 0, 1 ... and 7 of 100 in the end.",
        Tariff(price_coins=10, commission_bp=700),
        600_000,
        Bill(pulses=10, coins=100, share=93, fee=7, tax=0),
    ),
    Example(
        "Tax is a part of the commission: 18 % of 30 coins, the remainder carried.",
        Tariff(price_coins=10, commission_bp=3000, tax_bp=1800),
        600_000,
        Bill(pulses=10, coins=100, share=70, fee=25, tax=5),
    ),
    Example(
        "The minimum is charged at the start and buys whole pulses: 25 coins pay two minutes.",
        Tariff(price_coins=10, minimum_coins=25, commission_bp=2000),
        90_000,
        Bill(pulses=1, coins=25, share=20, fee=5, tax=0),
    ),
    Example(
        "After the minimum's time pulses go on at their price.",
        Tariff(price_coins=10, minimum_coins=25, commission_bp=2000),
        121_000,
        Bill(pulses=2, coins=35, share=28, fee=7, tax=0),
    ),
    Example(
        "A call within the free time costs nothing.",
        Tariff(price_coins=10, free_ms=30_000),
        30_000,
        Bill(pulses=0, coins=0, share=0, fee=0, tax=0),
    ),
    Example(
        "Free time comes before the first pulse.",
        Tariff(price_coins=10, free_ms=30_000),
        91_000,
        Bill(pulses=2, coins=20, share=20, fee=0, tax=0),
    ),
    Example(
        "Per second: 61.2 s at 60 coins a minute are 62 begun seconds.",
        Tariff(price_coins=60, rounding="second", commission_bp=5000),
        61_200,
        Bill(pulses=2, coins=62, share=31, fee=31, tax=0),
    ),
    Example(
        "Per second, begun coins count whole: 7 s of a minute of 10 coins are 2 coins.",
        Tariff(price_coins=10, rounding="second"),
        7_000,
        Bill(pulses=1, coins=2, share=2, fee=0, tax=0),
    ),
    Example(
        "Per second never goes below the minimum.",
        Tariff(price_coins=60, minimum_coins=20, rounding="second", commission_bp=1000),
        5_000,
        Bill(pulses=1, coins=20, share=18, fee=2, tax=0),
    ),
    Example(
        "A short call is waived.",
        Tariff(price_coins=10, short_call_ms=15_000),
        14_999,
        Bill(pulses=0, coins=0, share=0, fee=0, tax=0),
    ),
    Example(
        "A call that is not short is paid from its first second.",
        Tariff(price_coins=10, short_call_ms=15_000),
        15_000,
        Bill(pulses=1, coins=10, share=10, fee=0, tax=0),
    ),
    Example(
        "The host may get nothing: commission 100 %.",
        Tariff(price_coins=1, commission_bp=10_000, tax_bp=10_000),
        120_000,
        Bill(pulses=2, coins=2, share=0, fee=0, tax=2),
    ),
)


@dataclass(frozen=True, slots=True)
class WarningExample:
    """A row of the second table: a rule, a tariff, a payer's coins at the start, and what he is told."""

    rule: str
    tariff: Tariff
    coins: int
    warnings: tuple[LowWarning, ...]


WARNING_EXAMPLES: tuple[WarningExample, ...] = (
    WarningExample(
        "With the defaults there is one threshold of a minute; here the last warning says it already.",
        Tariff(price_coins=10),
        35,
        (LowWarning(120_000, 0, 180_000),),
    ),
    WarningExample(
        "Every threshold is told once, on the way to the last warning.",
        Tariff(price_coins=10, low_balance_ms=(300_000, 120_000)),
        70,
        (LowWarning(120_000, 300_000, 420_000), LowWarning(300_000, 120_000, 420_000), LowWarning(360_000, 0, 420_000)),
    ),
    WarningExample(
        "Who begins with little is told the lowest threshold that holds, not all above it.",
        Tariff(price_coins=10, low_balance_ms=(600_000, 300_000, 180_000)),
        30,
        (LowWarning(0, 180_000, 180_000), LowWarning(120_000, 0, 180_000)),
    ),
    WarningExample(
        "Between two pulses nothing is told: a threshold of 50 s is noticed as 45 s are left.",
        Tariff(price_coins=1, pulse_ms=15_000, low_balance_ms=(50_000,)),
        5,
        (LowWarning(30_000, 50_000, 75_000), LowWarning(60_000, 0, 75_000)),
    ),
    WarningExample(
        "A threshold below the pulse is covered by the last warning.",
        Tariff(price_coins=10, low_balance_ms=(30_000,)),
        20,
        (LowWarning(60_000, 0, 120_000),),
    ),
    WarningExample(
        "Without thresholds the last warning stays.",
        Tariff(price_coins=10, low_balance_ms=()),
        20,
        (LowWarning(60_000, 0, 120_000),),
    ),
    WarningExample(
        "Free time and the time that a minimum charge buys count as funded.",
        Tariff(price_coins=10, minimum_coins=20, free_ms=30_000, low_balance_ms=(150_000, 90_000)),
        25,
        (LowWarning(0, 0, 150_000),),
    ),
)


def document() -> str:
    """Return docs/tariffs.md."""
    rows = "\n".join(
        f"| {e.rule} | {_terms(e.tariff)} | {e.talked_ms / 1000:g} s | {e.bill.pulses} | {e.bill.coins} "
        f"| {e.bill.share} | {e.bill.fee} | {e.bill.tax} |"
        for e in EXAMPLES
    )
    warned = "\n".join(
        f"| {e.rule} | {_terms(e.tariff)} | {e.coins} | {'; '.join(map(_told, e.warnings))} |" for e in WARNING_EXAMPLES
    )
    notes = _notes()
    noted = "\n".join(
        f"| {f.name} | {'' if f.default is MISSING else _value(f.default)} | {notes[f.name]} |" for f in fields(Tariff)
    )
    return f"""# Tariffs by example

Generated by `talkmeter docs`; do not edit. Every row is checked twice by the tests: against the pure rules in
billing/tariffs.py and against a real meter in the database.

| rule | tariff (what differs from the defaults) | call | charges | coins | host | platform | tax |
|---|---|---|---|---|---|---|---|
{rows}

## Warnings

Each row is a call without pauses whose payer begins with these coins, and neither spends nor tops up on the way. A gift
or a message paid during the call is counted at once: it may bring a warning before the next pulse, and tells a warned
payer the new end. A top-up tells the new end too, and arms the thresholds that it lifts the end above.

| rule | tariff (what differs from the defaults) | coins | told |
|---|---|---|---|
{warned}

## Fields

A call of the product takes price and pulse from its host, and commission, thresholds and grace from the
[settings](settings.md); the other fields have no setting, and stay at their defaults.

| field | default | |
|---|---|---|
{noted}
"""


def _notes() -> dict[str, str]:
    """Return what Tariff's docstring says of each field, on one line each."""
    attributes = inspect.cleandoc(Tariff.__doc__ or "").partition("Attributes:")[2]
    found = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE)
    return {name: " ".join(note.split()) for name, note in found}


def _told(warning: LowWarning) -> str:
    what = f"{warning.threshold_ms / 1000:g} s" if warning.threshold_ms else "the last"
    return f"at {warning.at_ms / 1000:g} s: {what}, ends at {warning.ends_ms / 1000:g} s"


def _terms(tariff: Tariff) -> str:
    default = Tariff(price_coins=tariff.price_coins)
    changed = [name for name in (f.name for f in fields(Tariff)) if getattr(tariff, name) != getattr(default, name)]
    return ", ".join(f"{name} {_value(getattr(tariff, name))}" for name in ("price_coins", *changed))


def _value(value: object) -> object:
    return " > ".join(map(str, value)) or "none" if isinstance(value, tuple) else value
