"""Tariffs: terms that cannot be metered are refused; the document shows the examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from billing.errors import InvalidTariff
from billing.examples import document
from billing.tariffs import Tariff, bill, split

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "tariffs.md"


def test_document_is_generated_from_the_examples() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run make docs"


@pytest.mark.parametrize(
    "terms",
    [
        {"price_coins": 0},
        {"price_coins": -5},
        {"price_coins": 1.5},
        {"price_coins": True},
        {"price_coins": 2**53},
        {"pulse_ms": 999},
        {"pulse_ms": 86_400_001},
        {"commission_bp": 10_001},
        {"commission_bp": -1},
        {"tax_bp": 10_001},
        {"free_ms": -1},
        {"minimum_coins": -1},
        {"minimum_coins": 1_000_000, "price_coins": 1},
        {"grace_ms": 0},
        {"rounding": "hour"},
        {"low_balance_ms": 60_000},
        {"low_balance_ms": (60_000, 60_000)},
        {"low_balance_ms": (60_000, 120_000)},
        {"low_balance_ms": (60_000, 0)},
        {"low_balance_ms": (86_400_001,)},
        {"low_balance_ms": (5_000, 4_000, 3_000, 2_000, 1_000)},
    ],
)
def test_terms_that_cannot_be_metered_are_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(InvalidTariff):
        Tariff(**{"price_coins": 10, **terms})


def test_terms_survive_json_and_older_json_takes_defaults() -> None:
    tariff = Tariff(price_coins=7, rounding="second", commission_bp=1234, low_balance_ms=(120_000, 60_000))
    assert Tariff.from_json(tariff.to_json()) == tariff
    assert Tariff.from_json('{"price_coins": 7, "a_field_of_tomorrow": 1}') == Tariff(price_coins=7)


@given(
    prices=st.lists(st.integers(1, 10_000), min_size=1, max_size=30),
    commission_bp=st.integers(0, 10_000),
    tax_bp=st.integers(0, 10_000),
)
def test_no_division_loses_a_coin_and_giving_all_back_leaves_nothing(
    prices: list[int], commission_bp: int, tax_bp: int
) -> None:
    tariff = Tariff(price_coins=1, commission_bp=commission_bp, tax_bp=tax_bp)
    share = fee = tax = fee_remainder = tax_remainder = 0
    for price in [*prices, *(-price for price in reversed(prices))]:
        part = split(price, tariff, fee_remainder, tax_remainder)
        fee_remainder, tax_remainder = part.fee_remainder, part.tax_remainder
        assert part.share + part.fee + part.tax == price
        share, fee, tax = share + part.share, fee + part.fee, tax + part.tax
        assert min(share, fee, tax) >= 0
    assert (share, fee, tax, fee_remainder, tax_remainder) == (0, 0, 0, 0, 0)


@given(talked_ms=st.integers(0, 10_000_000), more_ms=st.integers(0, 100_000), price=st.integers(1, 1_000))
def test_longer_call_never_costs_less(talked_ms: int, more_ms: int, price: int) -> None:
    for tariff in (
        Tariff(price_coins=price),
        Tariff(price_coins=price, rounding="second", minimum_coins=30),
        Tariff(price_coins=price, free_ms=15_000, pulse_ms=7_000),
    ):
        assert bill(tariff, talked_ms).coins <= bill(tariff, talked_ms + more_ms).coins
