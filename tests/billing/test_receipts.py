"""Receipts explain every second and carry the journal's figures; re-rating loses no coin."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest

from billing import metering, staff
from billing.errors import InsufficientFunds, RefundExceeds, TransferConflict, UnknownMeter, WrongState
from billing.receipts import Receipt
from billing.tariffs import Tariff
from tests.billing.conftest import CALLER, HOST, TENANT, Desk

MINUTE = Tariff(price_coins=10, commission_bp=3000)
VOICE = Tariff(price_coins=30, commission_bp=2500, tax_bp=1800)
VIDEO = Tariff(price_coins=90, commission_bp=1234, tax_bp=1800)


async def receipt_of(desk: Desk, meter: UUID) -> Receipt:
    """Return the receipt after checking that its segments tile the time and its sums are the meter's."""
    receipt = await metering.receipt(desk.conn, meter)
    totals = await metering.totals(desk.conn, meter)
    assert (receipt.spent_coins, receipt.promo_coins, receipt.earned_coins) == (
        totals.spent_coins,
        totals.promo_coins,
        totals.earned_coins,
    )
    assert (receipt.fee_coins, receipt.tax_coins, receipt.loss_coins) == (
        totals.fee_coins,
        totals.tax_coins,
        totals.loss_coins,
    )
    at_ms = receipt.invited_ms
    for segment in receipt.segments:
        assert segment.from_ms == at_ms < segment.until_ms
        at_ms = segment.until_ms
    if receipt.ended_ms is not None:
        assert at_ms == receipt.ended_ms
    assert receipt.time_ms("unexplained") == 0
    return receipt


async def test_receipt_explains_ringing_connecting_pulses_and_pauses(desk: Desk) -> None:
    await desk.grant(100)
    began_ms = desk.now_ms
    desk.now_ms += 7_000
    meter = uuid4()
    await metering.open_meter(
        desk.conn,
        meter_id=meter,
        tenant_id=TENANT,
        payer_id=CALLER,
        payee_id=HOST,
        tariff=MINUTE,
        invited_ms=began_ms,
        now_ms=desk.now_ms,
    )
    desk.now_ms += 2_000
    await desk.start(meter)
    await desk.talk(30_000, meter)
    desk.now_ms += 11_000
    await desk.hear(meter, payee_ago_ms=11_000)
    desk.now_ms += 1_000
    await desk.hear(meter)
    await desk.tick()
    await desk.talk(50_000, meter)
    await desk.stop(meter)
    receipt = await receipt_of(desk, meter)
    assert [(s.kind, s.until_ms - s.from_ms, s.period) for s in receipt.segments] == [
        ("ringing", 7_000, None),
        ("connecting", 2_000, None),
        ("charged", 30_000, 1),
        ("paused", 12_000, None),
        ("charged", 30_000, 1),
        ("charged", 20_000, 2),
    ]
    assert (receipt.talked_ms, receipt.spent_coins) == (80_000, 20)


async def test_receipt_shows_waived_time_and_refunds(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(replace(MINUTE, free_ms=10_000))
    await desk.talk(70_000 - 1_000, meter)
    desk.now_ms += 100_000
    await desk.hear(meter)
    await desk.tick()
    await desk.talk(30_000, meter)
    stopped = await desk.stop(meter)
    await staff.refund(
        desk.conn,
        refund_id=uuid4(),
        meter_id=meter,
        period=2,
        coins=4,
        actor="ann",
        reason="bad line",
        now_ms=desk.now_ms,
    )
    receipt = await receipt_of(desk, meter)
    assert [(s.kind, s.until_ms - s.from_ms, s.period) for s in receipt.segments] == [
        ("free", 10_000, None),
        ("charged", 60_000, 1),
        ("waived", 99_000, None),
        ("charged", 30_000, 2),
    ]
    assert (stopped.spent_coins, receipt.spent_coins, receipt.refunds[0].reason) == (20, 16, "bad line")


async def test_receipt_of_a_call_that_nobody_paid(desk: Desk) -> None:
    meter = await desk.open(MINUTE)
    desk.now_ms += 3_000
    await desk.stop(meter, "missed")
    receipt = await receipt_of(desk, meter)
    assert [(s.kind, s.until_ms - s.from_ms) for s in receipt.segments] == [("connecting", 3_000)]
    with pytest.raises(UnknownMeter):
        await metering.receipt(desk.conn, uuid4())


async def test_voice_to_video_gives_back_the_unused_part_and_carries_remainders(desk: Desk) -> None:
    await desk.grant(1000)
    meter = await desk.call(VOICE)
    await desk.talk(80_000, meter)
    assert await desk.coins(CALLER) == (940, 0, 0)
    rerated = await metering.rerate(desk.conn, meter, VIDEO, now_ms=desk.now_ms)
    assert rerated.funded_until_ms == desk.now_ms + 60_000
    assert await desk.coins(CALLER) == (940 + 20 - 90, 0, 0)
    await desk.talk(61_000, meter)
    await metering.rerate(desk.conn, meter, VOICE, now_ms=desk.now_ms)
    await desk.talk(10_000, meter)
    await desk.stop(meter)
    receipt = await receipt_of(desk, meter)
    # 30 + 30 - 20 + 90 + 90 - 90 * 59 / 60 + 30
    assert receipt.spent_coins == 30 + 10 + 90 + 2 + 30
    assert [(s.period, s.until_ms - s.from_ms) for s in receipt.segments] == [
        (1, 60_000),
        (2, 20_000),
        (3, 60_000),
        (4, 1_000),
        (5, 10_000),
    ]


async def test_hang_up_that_was_sent_before_the_call_began_costs_nothing_in_spite_of_new_terms(desk: Desk) -> None:
    await desk.grant(1000)
    meter = await desk.call(VOICE)
    await desk.talk(3_000, meter)
    await metering.rerate(desk.conn, meter, VIDEO, now_ms=desk.now_ms)
    desk.now_ms += 1_000
    assert (await desk.stop(meter, ago_ms=5_000)).spent_coins == 0
    await receipt_of(desk, meter)


async def test_remainders_lose_no_coin_however_often_it_is_re_rated(desk: Desk) -> None:
    await desk.grant(100_000)
    meter = await desk.call(replace(VOICE, price_coins=7))
    for turn in range(40):
        await desk.talk(7_000, meter, step_ms=7_000)
        await metering.rerate(
            desk.conn, meter, replace((VIDEO, VOICE)[turn % 2], price_coins=11 + turn), now_ms=desk.now_ms
        )
    await desk.stop(meter)
    receipt = await receipt_of(desk, meter)
    assert receipt.spent_coins == receipt.earned_coins + receipt.fee_coins + receipt.tax_coins


async def test_re_rating_that_cannot_be_paid_changes_nothing(desk: Desk) -> None:
    await desk.grant(40)
    meter = await desk.call(VOICE)
    await desk.talk(10_000, meter)
    before = await metering.totals(desk.conn, meter)
    with pytest.raises(InsufficientFunds):
        await metering.rerate(desk.conn, meter, VIDEO, now_ms=desk.now_ms)
    assert await metering.totals(desk.conn, meter) == before
    await desk.stop(meter)
    with pytest.raises(WrongState):
        await metering.rerate(desk.conn, meter, VOICE, now_ms=desk.now_ms)


async def refund(desk: Desk, meter: UUID, coins: int | None, refund_id: UUID | None = None) -> None:
    await staff.refund(
        desk.conn,
        refund_id=refund_id or uuid4(),
        meter_id=meter,
        period=1,
        coins=coins,
        actor="ann",
        reason="bad line",
        now_ms=desk.now_ms,
    )


async def test_refund_returns_paid_coins_first_and_never_more_than_charged(desk: Desk) -> None:
    await desk.grant(4, promo=True)
    await desk.grant(6)
    meter = await desk.call(MINUTE)
    await desk.stop(meter, ago_ms=0)
    assert await desk.coins(CALLER) == (6, 4, 0)
    meter = await desk.call(MINUTE)
    await desk.talk(5_000, meter)
    await desk.stop(meter)
    await refund(desk, meter, 5)
    assert await desk.coins(CALLER) == (5, 0, 0)
    await refund(desk, meter, 3)
    assert await desk.coins(CALLER) == (6, 2, 0)
    with pytest.raises(RefundExceeds):
        await refund(desk, meter, 3)
    await refund(desk, meter, None)
    assert await desk.coins(CALLER) == (6, 4, 0)
    with pytest.raises(RefundExceeds):
        await refund(desk, meter, None)


async def test_same_refund_is_booked_once(desk: Desk) -> None:
    await desk.grant(10)
    meter = await desk.call(MINUTE)
    await desk.talk(5_000, meter)
    await desk.stop(meter)
    refund_id = uuid4()
    await refund(desk, meter, 3, refund_id)
    await refund(desk, meter, 3, refund_id)
    assert await desk.coins(CALLER) == (3, 0, 0)
    with pytest.raises(TransferConflict):
        await refund(desk, meter, 4, refund_id)
    with pytest.raises(UnknownMeter):
        await staff.refund(
            desk.conn, refund_id=uuid4(), meter_id=meter, period=9, coins=1, actor="ann", reason="no such"
        )


async def test_share_that_the_host_no_longer_has_is_the_platforms_loss(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk.grant(10)
    meter = await desk.call(MINUTE)
    await desk.talk(5_000, meter)
    await desk.stop(meter)
    await staff.adjust(
        desk.conn, transfer_id=uuid4(), user_id=HOST, bucket="earned", coins=-5, actor="ann", reason="withdrawn"
    )
    await refund(desk, meter, None)
    assert await desk.coins(CALLER) == (10, 0, 0)
    assert await desk.coins(HOST) == (0, 0, 0)
    loss = await owner.fetchval("select sum(coins) from billing.entries where account = 'loss'")
    assert loss == -5
    assert (await metering.totals(desk.conn, meter)).loss_coins == 5


async def test_entries_of_everything_add_up_to_zero(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk.grant(100)
    meter = await desk.call(VOICE)
    await desk.talk(80_000, meter)
    await metering.rerate(desk.conn, meter, replace(VOICE, price_coins=40), now_ms=desk.now_ms)
    await desk.stop(meter)
    assert await owner.fetchval("select sum(coins) from billing.entries") == 0
    kept = await owner.fetch(
        "select owner, account, sum(coins) as coins from billing.entries "
        "where account in ('paid', 'earnings') group by owner, account"
    )
    by_account = {(row["owner"], row["account"]): row["coins"] for row in kept}
    assert by_account[CALLER, "paid"] == (await desk.coins(CALLER))[0]
    assert by_account[HOST, "earnings"] == (await desk.coins(HOST))[2]
