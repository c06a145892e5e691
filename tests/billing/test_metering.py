"""The meter's life: start, tick, end, and who pays what."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from uuid import uuid4

import pytest

from billing import metering
from billing.errors import InvalidAmount, InvalidTime, MeterConflict, UnknownAccount, UnknownMeter, WrongState
from billing.examples import EXAMPLES, Example
from billing.tariffs import Tariff, bill
from tests.billing.conftest import CALLER, HOST, TENANT, Desk

MINUTE = Tariff(price_coins=10, commission_bp=3000)


async def test_first_pulse_is_charged_at_the_start(desk: Desk) -> None:
    await desk.grant(25)
    meter = await desk.open(MINUTE)
    assert await desk.coins(CALLER) == (25, 0, 0)
    started = await desk.start(meter)
    assert (started.state, started.funded_until_ms, started.charged_coins) == ("running", desk.now_ms + 60_000, 10)
    assert await desk.coins(CALLER) == (15, 0, 0)
    assert await desk.coins(HOST) == (0, 0, 7)


async def test_start_without_funds_ends_without_a_charge(desk: Desk) -> None:
    await desk.grant(9)
    started = await desk.start(await desk.open(MINUTE))
    assert (started.state, started.charged_coins, started.payer.coins) == ("insufficient_funds", 0, 9)


async def test_start_again_charges_nothing(desk: Desk) -> None:
    await desk.grant(25)
    meter = await desk.call(MINUTE)
    desk.now_ms += 5_000
    again = await desk.start(meter)
    assert (again.state, again.charged_coins, again.payer.coins) == ("running", 10, 15)


@pytest.mark.parametrize("pulse_ms", [60_000, 7_000])
async def test_pulse_is_charged_at_the_moment_it_falls_due(desk: Desk, pulse_ms: int) -> None:
    await desk.grant(100)
    meter = await desk.call(replace(MINUTE, pulse_ms=pulse_ms))
    desk.now_ms += pulse_ms - 1
    await desk.hear(meter)
    assert await desk.tick() == 0
    desk.now_ms += 1
    assert await desk.tick() == 1
    assert await desk.tick() == 0
    charged = [event for event in await desk.events() if event.kind == "charged"]
    assert [(e.period, e.price_coins, e.payer.paid, e.funded_until_ms) for e in charged] == [
        (2, 10, 80, desk.now_ms + pulse_ms)
    ]


async def test_call_ends_at_the_funded_moment(desk: Desk) -> None:
    await desk.grant(20)
    meter = await desk.call(MINUTE)
    start_ms = desk.now_ms
    await desk.talk(119_000, meter)
    desk.now_ms += 1_300
    await desk.hear(meter)
    await desk.tick()
    events = await desk.events()
    assert [e.kind for e in events] == ["charged", "low_balance", "exhausted"]
    assert events[1].final
    assert events[1].ends_at_ms == events[2].at_ms == start_ms + 120_000
    stopped = await desk.stop(meter)
    assert (stopped.reason, stopped.ended_ms, stopped.spent_coins) == ("exhausted", start_ms + 120_000, 20)


async def test_top_up_lifts_a_pending_end(desk: Desk) -> None:
    await desk.grant(10)
    meter = await desk.call(MINUTE)
    assert await desk.kinds() == ["low_balance"]
    await desk.talk(30_000, meter)
    await desk.grant(10)
    await desk.talk(31_000, meter)
    assert await desk.kinds() == ["extended", "charged", "low_balance"]


async def test_promotional_coins_are_spent_first(desk: Desk) -> None:
    await desk.grant(15)
    await desk.grant(15, promo=True)
    meter = await desk.call(MINUTE)
    assert await desk.coins(CALLER) == (15, 5, 0)
    await desk.talk(60_000, meter)
    assert await desk.coins(CALLER) == (10, 0, 0)


async def test_stop_is_idempotent(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(61_000, meter)
    first = await desk.stop(meter)
    desk.now_ms += 90_000
    assert await desk.stop(meter, "again") == first
    assert (first.spent_coins, first.earned_coins, first.fee_coins, first.periods) == (20, 14, 6, 2)
    assert await desk.coins(CALLER) == (80, 0, 0)
    assert await desk.coins(HOST) == (0, 0, 14)
    assert await desk.tick() == 0


async def test_hang_up_counts_from_when_it_was_sent(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(62_000, meter)
    stopped = await desk.stop(meter, ago_ms=3_000)
    assert (stopped.spent_coins, stopped.periods) == (10, 2)
    assert await desk.coins(CALLER) == (90, 0, 0)


async def test_hang_up_reaches_back_five_seconds_at_most(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(66_000, meter)
    stopped = await desk.stop(meter, ago_ms=3_600_000)
    assert (stopped.spent_coins, stopped.ended_ms) == (20, desk.now_ms - 5_000)


async def test_hang_up_bills_the_same_whether_the_worker_was_late_or_not(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(Tariff(price_coins=1, pulse_ms=1_000))
    desk.now_ms += 7_500
    await desk.hear(meter)
    stopped = await desk.stop(meter)
    assert (stopped.spent_coins, stopped.ended_ms) == (8, desk.now_ms)


async def test_meter_that_never_started_costs_nothing(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.open(MINUTE)
    assert (await desk.stop(meter, "declined")).spent_coins == 0
    with pytest.raises(WrongState):
        await desk.start(meter)


async def test_open_meter_again_does_nothing_and_other_contents_are_refused(desk: Desk) -> None:
    again = partial(metering.open_meter, desk.conn, meter_id=uuid4(), tenant_id=TENANT, payer_id=CALLER, payee_id=HOST)
    await again(tariff=MINUTE)
    await again(tariff=MINUTE)
    with pytest.raises(MeterConflict):
        await again(tariff=Tariff(price_coins=11, commission_bp=3000))


async def test_bad_meters_are_refused(desk: Desk) -> None:
    with pytest.raises(UnknownAccount):
        await desk.open(MINUTE, payer_id=999)
    with pytest.raises(InvalidAmount):
        await desk.open(MINUTE, payer_id=HOST)
    with pytest.raises(UnknownMeter):
        await desk.start(uuid4())
    with pytest.raises(UnknownMeter):
        await desk.stop(uuid4())
    with pytest.raises(InvalidTime):
        await metering.tick(desk.conn, now_ms=-1)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.rule)
async def test_worked_example_holds_in_the_rules_and_in_a_real_meter(desk: Desk, example: Example) -> None:
    assert bill(example.tariff, example.talked_ms) == example.bill
    await desk.grant(1000)
    meter = await desk.call(example.tariff)
    await desk.talk(example.talked_ms, meter, step_ms=4_000)
    stopped = await desk.stop(meter)
    assert (stopped.spent_coins, stopped.earned_coins, stopped.fee_coins, stopped.tax_coins) == (
        example.bill.coins,
        example.bill.share,
        example.bill.fee,
        example.bill.tax,
    )
    assert await desk.coins(HOST) == (0, 0, example.bill.share)
