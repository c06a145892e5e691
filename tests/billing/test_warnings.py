"""What a payer is told before the money ends: each threshold once, at once when coins move, with the exact end."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest

from billing import gifts, ledger, metering, payments, staff
from billing.examples import WARNING_EXAMPLES, WarningExample
from billing.tariffs import COINS_MAX, LowWarning, Tariff, warnings
from tests.billing.conftest import CALLER, HOST, OTHER, TENANT, Desk

MINUTE = Tariff(price_coins=10, commission_bp=3000)
STAGED = Tariff(price_coins=10, low_balance_ms=(300_000, 180_000, 120_000))
WAIT_S = 10.0


async def told(desk: Desk) -> list[tuple[str, int | None, int]]:
    """Take the news: (kind, threshold, how long the coins last from now)."""
    return [
        (event.kind, event.threshold_ms, event.ends_at_ms - desk.now_ms)
        for event in await desk.events()
        if event.kind in ("low_balance", "extended")
    ]


async def send_gift(desk: Desk, coins: int, *, gift: UUID | None = None, payer_id: int = CALLER) -> None:
    await gifts.send_gift(
        desk.conn,
        transfer_id=gift or uuid4(),
        payer_id=payer_id,
        payee_id=HOST,
        price_coins=coins,
        commission_bp=3000,
        memo="rose",
        now_ms=desk.now_ms,
    )


@pytest.mark.parametrize("example", WARNING_EXAMPLES, ids=lambda e: e.rule)
async def test_worked_example_holds_in_the_rules_and_in_a_real_meter(desk: Desk, example: WarningExample) -> None:
    assert warnings(example.tariff, example.coins) == example.warnings
    await desk.grant(example.coins)
    began_ms, found = desk.now_ms, []
    meter = await desk.call(example.tariff)
    while (await metering.totals(desk.conn, meter)).state != "ended":
        for event in await desk.events():
            if event.kind == "low_balance":
                assert event.threshold_ms is not None
                assert event.final == (event.threshold_ms == 0)
                found.append(LowWarning(event.at_ms - began_ms, event.threshold_ms, event.ends_at_ms - began_ms))
        await desk.talk(5_000, meter, step_ms=5_000)
    assert tuple(found) == example.warnings


async def test_gift_in_a_call_tells_the_new_end_before_the_tick(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(STAGED)
    await desk.talk(10_000, meter)
    assert await told(desk) == []
    await send_gift(desk, 60)
    assert await told(desk) == [("low_balance", 300_000, 230_000)]
    await send_gift(desk, 15)
    assert await told(desk) == [("low_balance", 120_000, 110_000)]
    await send_gift(desk, 6)
    assert await told(desk) == [("low_balance", 0, 50_000)]
    await send_gift(desk, 9)
    assert await told(desk) == [], "the end that was told is right still"


async def test_gift_tells_a_warned_payer_the_new_end_though_it_crosses_no_threshold(desk: Desk) -> None:
    await desk.grant(60)
    await desk.call(Tariff(price_coins=10, low_balance_ms=(360_000,)))
    assert await told(desk) == [("low_balance", 360_000, 360_000)]
    await send_gift(desk, 10)
    assert await told(desk) == [("low_balance", 360_000, 300_000)]


async def test_gift_that_moves_no_told_end_tells_nothing(desk: Desk) -> None:
    await desk.grant(1_000)
    await desk.call(STAGED)
    await send_gift(desk, 100)
    assert await told(desk) == []


async def test_paid_message_tells_like_a_gift_and_a_repeat_tells_nothing(desk: Desk) -> None:
    await desk.grant(100)
    await desk.call(STAGED)
    message = uuid4()
    for _ in range(2):
        await gifts.pay_message(
            desk.conn,
            transfer_id=message,
            payer_id=CALLER,
            payee_id=HOST,
            price_coins=70,
            commission_bp=3000,
            memo="hello",
            now_ms=desk.now_ms,
        )
    assert await told(desk) == [("low_balance", 180_000, 180_000)]


async def test_gifts_of_a_batch_warn_each_payer_who_is_in_a_call(desk: Desk) -> None:
    for user_id in (CALLER, OTHER):
        await desk.grant(100, user_id=user_id)
    meter = await desk.call(STAGED)
    batch = [
        gifts.payment(
            "gift",
            transfer_id=uuid4(),
            payer_id=payer_id,
            payee_id=HOST,
            price_coins=80,
            commission_bp=0,
            memo="",
        )
        for payer_id in (CALLER, OTHER)
    ]
    await ledger.post_all(desk.conn, batch, now_ms=desk.now_ms)
    events = [event for event in await desk.events() if event.kind == "low_balance"]
    assert [(event.meter_id, event.threshold_ms) for event in events] == [(meter, 120_000)]


async def test_top_up_tells_the_new_end_and_arms_what_it_lifts_the_end_above(desk: Desk) -> None:
    await desk.grant(20)
    meter = await desk.call(STAGED)
    assert await told(desk) == [("low_balance", 120_000, 120_000)]
    await desk.grant(30)
    assert await told(desk) == [("extended", None, 300_000)]
    await desk.talk(181_000, meter)
    assert [(kind, threshold) for kind, threshold, _ in await told(desk)] == [
        ("low_balance", 180_000),
        ("low_balance", 120_000),
    ]


async def test_purchase_tells_the_new_end_too(desk: Desk) -> None:
    await desk.grant(10)
    await desk.call(MINUTE)
    assert await told(desk) == [("low_balance", 0, 60_000)]
    await payments.credit_purchase(
        desk.conn,
        tenant_id=TENANT,
        payment_id="pay_1",
        user_id=CALLER,
        coins=100,
        amount_minor=9900,
        currency="INR",
        now_ms=desk.now_ms,
    )
    assert await told(desk) == [("extended", None, 660_000)]


async def test_restricted_payer_is_told_that_the_call_ends_with_its_pulse(desk: Desk) -> None:
    await desk.grant(1_000)
    meter = await desk.call(MINUTE)
    await staff.restrict(desk.conn, CALLER, restricted=True, actor="ann", reason="chargeback", now_ms=desk.now_ms)
    assert await told(desk) == [("low_balance", 0, 60_000)]
    await desk.talk(61_000, meter)
    assert (await desk.stop(meter)).reason == "exhausted"


async def test_end_that_a_pause_moved_is_told_again(desk: Desk) -> None:
    await desk.grant(20)
    meter = await desk.call(STAGED)
    assert await told(desk) == [("low_balance", 120_000, 120_000)]
    await desk.talk(10_000, meter)
    desk.now_ms += 15_000
    await desk.hear(meter, payee_ago_ms=15_000)
    await send_gift(desk, 10)
    assert await told(desk) == [], "a paused meter has no end"
    await desk.hear(meter)
    await desk.tick()
    assert await told(desk) == [("low_balance", 0, 50_000)]


async def test_new_terms_bring_their_own_thresholds(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(STAGED)
    await metering.rerate(
        desk.conn, meter, Tariff(price_coins=30, low_balance_ms=(240_000, 200_000)), now_ms=desk.now_ms
    )
    assert await told(desk) == [("low_balance", 200_000, 180_000)]


async def test_new_terms_forget_what_was_told_of_the_old(desk: Desk) -> None:
    await desk.grant(20)
    meter = await desk.call(STAGED)
    assert await told(desk) == [("low_balance", 120_000, 120_000)]
    await metering.rerate(desk.conn, meter, Tariff(price_coins=5, low_balance_ms=(400_000,)), now_ms=desk.now_ms)
    assert await told(desk) == [("low_balance", 400_000, 240_000)]


async def test_coins_that_another_call_gives_back_arm_the_thresholds_at_the_next_pulse(desk: Desk) -> None:
    await desk.grant(110)
    meter = await desk.call(Tariff(price_coins=10, low_balance_ms=(120_000,)))
    other = await desk.call(Tariff(price_coins=80, pulse_ms=600_000, rounding="second"), payee_id=OTHER)
    await told(desk)
    await desk.talk(60_000, meter, other)
    assert [threshold for _, threshold, _ in await told(desk)] == [120_000]
    await desk.stop(other)
    await desk.talk(60_000, meter)
    assert await told(desk) == []
    await desk.talk(600_000, meter)
    assert [threshold for _, threshold, _ in await told(desk)] == [120_000, 0]


async def test_gift_does_not_wait_for_a_meter_that_somebody_holds(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk.grant(100)
    meter = await desk.call(STAGED)
    async with owner.transaction():
        await owner.execute("select from billing.meters where meter_id = $1 for no key update", meter)
        async with asyncio.timeout(WAIT_S):
            await send_gift(desk, 80)
    assert await told(desk) == []
    await desk.talk(60_000, meter)
    assert await told(desk) == [("low_balance", 0, 60_000)]


async def test_wallet_at_the_limit_is_metered_and_warned_of_nothing(desk: Desk) -> None:
    await desk.grant(COINS_MAX)
    meter = await desk.call(Tariff(price_coins=1, low_balance_ms=(86_400_000,)))
    await desk.talk(61_000, meter)
    await send_gift(desk, 1_000)
    assert await told(desk) == []
    assert (await desk.coins(CALLER))[0] == COINS_MAX - 1_002
