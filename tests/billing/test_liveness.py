"""Proof of life: silence is never charged, blindness ends no call, and nobody talks for nothing for long."""

from __future__ import annotations

import asyncpg
import pytest

from billing import metering
from billing.errors import InvalidTime
from billing.metering import Proof
from billing.tariffs import Tariff
from tests.billing.conftest import CALLER, HOST, Desk

MINUTE = Tariff(price_coins=10, commission_bp=3000)


async def test_silent_side_suspends_at_the_last_proof_and_the_rest_comes_back_as_time(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(20_000, meter)
    heard_ms = desk.now_ms
    desk.now_ms += 11_000
    await desk.hear(meter, payee_ago_ms=11_000)
    suspended = (await desk.events())[0]
    assert (suspended.kind, suspended.at_ms, suspended.side) == ("suspended", heard_ms, "payee")
    desk.now_ms += 4_000
    await desk.hear(meter)
    await desk.tick()
    resumed = (await desk.events())[0]
    assert (resumed.kind, resumed.funded_until_ms) == ("resumed", desk.now_ms + 40_000)
    await desk.talk(39_000, meter)
    assert await desk.coins(CALLER) == (90, 0, 0)
    await desk.talk(1_000, meter)
    assert await desk.coins(CALLER) == (80, 0, 0)


async def test_side_that_stays_silent_ends_the_call_at_its_last_proof(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(30_000, meter)
    heard_ms = desk.now_ms
    for _ in range(5):
        desk.now_ms += 5_000
        await desk.hear(meter, payer_ago_ms=desk.now_ms - heard_ms)
        await desk.tick()
    events = await desk.events()
    assert [(e.kind, e.at_ms, e.side) for e in events] == [
        ("suspended", heard_ms, "payer"),
        ("lost", heard_ms, "payer"),
    ]
    stopped = await desk.stop(meter)
    assert (stopped.reason, stopped.ended_ms, stopped.spent_coins) == ("lost", heard_ms, 10)


async def test_pulse_is_not_charged_without_proof_of_both_within_half_the_grace(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(49_000, meter)
    desk.now_ms += 11_000
    await desk.tick()
    assert await desk.kinds() == ["suspended"]
    assert await desk.coins(CALLER) == (90, 0, 0)


@pytest.mark.parametrize("silent", ["payer", "payee"])
async def test_proof_of_one_side_is_not_enough_for_a_pulse(desk: Desk, silent: str) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(45_000, meter)
    proved_ms = desk.now_ms
    for _ in range(3):
        desk.now_ms += 5_000
        if silent == "payer":
            await desk.hear(meter, payer_ago_ms=None)
        else:
            await desk.hear(meter, payee_ago_ms=None)
        await desk.tick()
    assert [(e.kind, e.at_ms) for e in await desk.events()] == [("suspended", proved_ms)]
    assert await desk.coins(CALLER) == (90, 0, 0)


async def test_pulse_that_began_in_silence_is_given_back(desk: Desk) -> None:
    """The payer fell silent 4 s before a pulse was due: it was charged in good faith."""
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(56_000, meter)
    heard_ms = desk.now_ms
    for _ in range(6):
        desk.now_ms += 4_000
        await desk.hear(meter, payer_ago_ms=desk.now_ms - heard_ms)
        await desk.tick()
    assert [e.kind for e in await desk.events()] == ["charged", "suspended", "lost"]
    stopped = await desk.stop(meter)
    assert (stopped.ended_ms, stopped.spent_coins, stopped.periods) == (heard_ms, 10, 2)
    assert await desk.coins(CALLER) == (90, 0, 0)


async def test_blindness_pauses_and_does_not_end_the_call(desk: Desk) -> None:
    """Nobody reports anything: Redis is gone, a hub restarts. 50 s later the reports are back."""
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(45_000, meter)
    proved_ms = desk.now_ms
    for _ in range(10):
        desk.now_ms += 5_000
        await desk.tick()
    suspended = (await desk.events())[0]
    assert (suspended.kind, suspended.at_ms, suspended.side) == ("suspended", proved_ms, None)
    await desk.hear(meter)
    await desk.tick()
    assert await desk.kinds() == ["resumed"]
    assert (await metering.totals(desk.conn, meter)).spent_coins == 10


async def test_call_that_is_paused_for_a_minute_ends(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(45_000, meter)
    proved_ms = desk.now_ms
    for _ in range(16):
        desk.now_ms += 5_000
        await desk.tick()
    assert [(e.kind, e.at_ms) for e in await desk.events()] == [("suspended", proved_ms), ("lost", proved_ms)]


async def test_fourth_pause_ends_the_call(desk: Desk) -> None:
    await desk.grant(1000)
    meter = await desk.call(MINUTE)
    for _ in range(4):
        await desk.talk(10_000, meter)
        heard_ms = desk.now_ms
        desk.now_ms += 12_000
        await desk.hear(meter, payee_ago_ms=12_000)
        desk.now_ms += 1_000
        await desk.hear(meter)
        await desk.tick()
    events = await desk.events()
    assert [e.kind for e in events] == ["suspended", "resumed"] * 3 + ["lost"]
    assert events[-1].at_ms == heard_ms


async def test_evidence_lost_in_a_crash_of_the_database_only_pauses(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(59_000, meter)
    await owner.execute("truncate billing.meter_proofs")
    desk.now_ms += 1_000
    await desk.tick()
    assert await desk.kinds() == ["suspended"]
    await desk.hear(meter, payee_ago_ms=None)
    await desk.tick()
    assert await desk.kinds() == []
    await desk.hear(meter, payer_ago_ms=None)
    await desk.tick()
    await desk.tick()
    assert await desk.kinds() == ["resumed", "charged"]


async def test_our_outage_is_waived(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(59_000, meter)
    due_ms = desk.now_ms + 1_000
    desk.now_ms = due_ms + 60_001
    await desk.hear(meter)
    await desk.tick()
    waived, charged = await desk.events()
    assert (waived.kind, waived.at_ms) == ("late_waived", desk.now_ms)
    assert (charged.kind, charged.period, charged.funded_until_ms) == ("charged", 2, desk.now_ms + 60_000)
    assert await desk.coins(CALLER) == (80, 0, 0)


async def test_a_minute_late_is_not_an_outage(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    due_ms = desk.now_ms + 60_000
    desk.now_ms = due_ms + 60_000
    await desk.hear(meter)
    await desk.tick()
    await desk.tick()
    assert [(e.kind, e.at_ms) for e in await desk.events()] == [("charged", due_ms), ("charged", due_ms + 60_000)]


async def test_hang_up_after_our_outage_pays_to_the_moment_that_was_funded(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    due_ms = desk.now_ms + 60_000
    desk.now_ms = due_ms + 90_000
    await desk.hear(meter)
    stopped = await desk.stop(meter)
    assert (stopped.ended_ms, stopped.spent_coins) == (due_ms, 10)


async def test_host_who_drops_out_gives_back_the_pulse(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(90_000, meter)
    heard_ms = desk.now_ms
    for _ in range(5):
        desk.now_ms += 5_000
        await desk.hear(meter, payee_ago_ms=desk.now_ms - heard_ms)
        await desk.tick()
    assert await desk.coins(CALLER) == (90, 0, 0)
    assert await desk.coins(HOST) == (0, 0, 7)


async def test_silent_host_costs_nothing(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(90_000, meter)
    assert (await desk.stop(meter, "silent_host")).spent_coins == 0


async def test_short_calls_are_waived_only_so_often_in_a_day(desk: Desk) -> None:
    await desk.grant(100)
    tariff = Tariff(price_coins=10, short_call_ms=15_000, short_waivers_per_day=2)
    spent = []
    for _ in range(3):
        meter = await desk.call(tariff)
        await desk.talk(5_000, meter)
        spent.append((await desk.stop(meter)).spent_coins)
    assert spent == [0, 0, 10]
    desk.now_ms += 86_400_000
    meter = await desk.call(tariff)
    assert (await desk.stop(meter)).spent_coins == 0


async def test_free_time_is_given_only_so_often_in_a_day(desk: Desk) -> None:
    await desk.grant(100)
    tariff = Tariff(price_coins=10, free_ms=30_000, free_ms_per_day=60_000)
    spent = []
    for _ in range(3):
        meter = await desk.call(tariff)
        await desk.talk(20_000, meter)
        spent.append((await desk.stop(meter)).spent_coins)
    assert spent == [0, 0, 10]


async def test_hang_up_while_suspended_counts_from_the_last_proof(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(Tariff(price_coins=60, rounding="second"))
    await desk.talk(20_000, meter)
    heard_ms = desk.now_ms
    desk.now_ms += 11_000
    await desk.hear(meter, payer_ago_ms=11_000)
    desk.now_ms += 3_000
    stopped = await desk.stop(meter)
    assert (stopped.ended_ms, stopped.spent_coins) == (heard_ms, 20)


async def test_clock_that_jumps_back_changes_nothing(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    await desk.talk(30_000, meter)
    before = await metering.totals(desk.conn, meter)
    desk.now_ms -= 3_600_000
    await desk.tick()
    await desk.hear(meter)
    assert await metering.totals(desk.conn, meter) == before
    stopped = await desk.stop(meter)
    assert stopped.ended_ms == stopped.started_ms
    assert stopped.spent_coins == 0


async def test_nobody_is_heard_in_the_future(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    with pytest.raises(InvalidTime):
        await metering.prove(desk.conn, [Proof(meter, "payer", -1)])
