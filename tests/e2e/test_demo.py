"""Two people in two browsers: ring, video, coins that tick away, chat, a gift, the end at the funded second.

What both pages show is compared with what the database's books say after it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from playwright.async_api import expect

from tests.e2e.conftest import Open, Window
from tests.integration.node import ROOT, Node

pytestmark = pytest.mark.browser

PRICE_COINS = 3
PULSE_MS = 1_000
COINS = 78  # 24 pulses beside a gift of 5, and a coin over: long enough for all that happens before the end
ROSE_COINS = 5
CALL_TIMEOUT_MS = 60_000
EARLY_MS = 50  # how far the end may lie from the funded second: it is computed, not timed


async def both(open_window: Open, *, coins: int = COINS) -> tuple[Window, Window]:
    """Asha, a host, and Ravi, a caller, each in the lobby."""
    host = await open_window()
    await host.come_in("Asha", "host", price=str(PRICE_COINS), pulse=str(PULSE_MS), tags="Career, Music")
    caller = await open_window()
    await caller.come_in("Ravi", "caller", coins=str(coins))
    return caller, host


async def connected(caller: Window, host: Window, media: str = "video") -> None:
    """Ring, accept, and wait until the meter runs."""
    await caller.page.locator('[data-user="asha"]').get_by_test_id(f"call-{media}").click()
    await expect(caller.part("call-status")).to_have_text("Ringing…")
    await host.part("accept").click()
    for window in (caller, host):
        await window.page.locator('#stage[data-state="connected"]').wait_for()


async def say(window: Window, text: str) -> None:
    await window.in_call("message-input").fill(text)
    await window.in_call("message-send").click()


async def test_two_people_talk_until_the_coins_are_used_up(open_window: Open, node: Node, pg_url: str) -> None:
    caller, host = await both(open_window)
    card = caller.page.locator('[data-user="asha"]')
    await expect(card).to_contain_text("Free to talk")
    await expect(card).to_contain_text("3 coins a second")
    await caller.picture("1-lobby-caller")
    await host.picture("1-lobby-host")
    await card.get_by_test_id("call-video").click()
    await expect(host.part("ring-name")).to_have_text("Ravi")
    await expect(caller.part("call-status")).to_have_text("Ringing…")
    await host.picture("2-ring")
    await caller.picture("2-ringing")
    await host.part("accept").click()
    for window in (caller, host):
        await window.page.locator('#stage[data-state="connected"]').wait_for()

    warned = asyncio.create_task(_see_warning(caller))

    # Real media, in both directions.
    await caller.wait_frames(5)
    await host.wait_frames(5)

    # Coins tick away: three different balances at least, each lower than the one before.
    for _ in range(3):
        before = int(await caller.part("wallet-coins").inner_text())
        await expect(caller.part("wallet-coins")).not_to_have_text(str(before))
        assert int(await caller.part("wallet-coins").inner_text()) < before

    # Chat and a gift meanwhile.
    await say(caller, "Hello Asha, can you hear me?")
    await expect(host.in_call("message").first).to_have_text("Hello Asha, can you hear me?")
    await say(host, "Loud and clear. How was your interview?")
    await expect(caller.in_call("message").nth(1)).to_have_text("Loud and clear. How was your interview?")
    await caller.part("gift").click()
    await caller.part("gift-rose").click()
    await expect(host.page.locator("#call .thread__list")).to_contain_text("Ravi sent you 🌹 Rose")
    await caller.picture("3-call-caller")
    await host.picture("3-call-host")

    # The warning, and the end.
    await warned
    await expect(caller.part("receipt-title")).to_have_text("Your coins are used up", timeout=CALL_TIMEOUT_MS)
    await expect(host.part("receipt-title")).to_have_text("The coins are used up")
    await caller.picture("5-receipt-caller")
    await host.picture("5-receipt-host")

    row = await _call_row(pg_url)
    pulses = (COINS - ROSE_COINS) // PRICE_COINS
    assert row["reason"] == "exhausted"
    assert row["spent_coins"] == pulses * PRICE_COINS
    assert abs(row["ended_ms"] - row["connected_ms"] - pulses * PULSE_MS) <= EARLY_MS
    await expect(caller.part("receipt-lines")).to_contain_text(f"{pulses} × {PRICE_COINS} coins")
    await expect(caller.part("receipt-total")).to_have_text(f"{pulses * PRICE_COINS + ROSE_COINS} coins")
    await expect(caller.part("wallet-coins")).to_have_text(str((COINS - ROSE_COINS) % PRICE_COINS))
    await caller.part("receipt-close").click()
    await expect(caller.part("history")).to_contain_text("Asha")
    assert (caller.complaints, host.complaints) == ([], [])
    assert (await _audit(pg_url))["ok"]


async def test_a_top_up_during_the_warning_goes_on_without_a_drop(open_window: Open, node: Node) -> None:
    caller, host = await both(open_window, coins=15)
    await connected(caller, host, media="voice")
    await caller.part("top-up").click()
    await expect(caller.part("low-balance")).to_be_hidden()
    await expect(caller.part("wallet-coins")).to_have_text(re.compile(r"^[3-9]\d$"))
    await host.part("hang-up").click()
    await expect(caller.part("receipt-text")).to_have_text("Asha hung up.")
    await expect(host.part("receipt-text")).to_have_text("You hung up.")


async def test_a_declined_call_costs_nothing_and_says_so(open_window: Open, node: Node) -> None:
    caller, host = await both(open_window)
    await caller.page.locator('[data-user="asha"]').get_by_test_id("call-voice").click()
    await host.part("decline").click()
    await expect(caller.part("receipt-title")).to_have_text("Declined")
    await expect(caller.part("wallet-coins")).to_have_text(str(COINS))
    await expect(host.part("ring")).to_be_hidden()


async def test_a_caller_without_coins_is_told_so_and_nobody_rings(open_window: Open, node: Node) -> None:
    caller, host = await both(open_window, coins=PRICE_COINS - 1)
    await caller.page.locator('[data-user="asha"]').get_by_test_id("call-voice").click()
    await expect(caller.part("toasts")).to_contain_text("You do not have enough coins for that.")
    await expect(caller.page.locator("#lobby")).to_be_visible()
    await expect(host.part("ring")).to_be_hidden()


async def test_a_cancelled_call_stops_ringing(open_window: Open, node: Node) -> None:
    caller, host = await both(open_window)
    await caller.page.locator('[data-user="asha"]').get_by_test_id("call-voice").click()
    await host.part("ring").wait_for()
    await caller.part("hang-up").click()
    await expect(host.part("ring")).to_be_hidden()
    await expect(host.part("toasts")).to_contain_text("You missed a call of Ravi.")


async def test_a_reload_in_the_middle_comes_back_into_the_call(open_window: Open, node: Node) -> None:
    caller, host = await both(open_window, coins=900)
    await connected(caller, host)
    await caller.wait_frames(3)
    for window in (caller, host):
        await window.page.reload()
        await window.page.locator('#stage[data-state="connected"]').wait_for()
        await caller.wait_frames(3)
        await host.wait_frames(3)
    await caller.part("hang-up").click()
    await expect(host.part("receipt-text")).to_have_text("Ravi hung up.")


async def test_a_lost_socket_does_not_end_the_call(open_window: Open, node: Node) -> None:
    caller, host = await both(open_window, coins=900)
    await connected(caller, host)
    for window in (caller, host):
        signed_in = await window.page.evaluate("() => talkmeterDemo.client.connections")
        await window.page.evaluate("() => talkmeterDemo.client.drop()")
        await window.page.wait_for_function("(before) => talkmeterDemo.client.connections > before", arg=signed_in)
    spent = await caller.part("meter-total").inner_text()
    await expect(caller.part("meter-total")).not_to_have_text(spent)
    await say(host, "Still there?")
    await expect(caller.in_call("message")).to_have_text("Still there?")
    await host.part("hang-up").click()
    await expect(caller.part("receipt-text")).to_have_text("Asha hung up.")


async def test_a_host_who_goes_away_cannot_be_rung_and_one_who_leaves_is_gone(open_window: Open, node: Node) -> None:
    caller, host = await both(open_window)
    card = caller.page.locator('[data-user="asha"]')
    await expect(card.get_by_test_id("call-voice")).to_be_enabled()
    await host.part("status-dnd").click()
    await expect(card.get_by_test_id("call-voice")).to_be_disabled()
    await host.part("status-online").click()
    await expect(card.get_by_test_id("call-voice")).to_be_enabled()
    await host.part("sign-out").click()
    await caller.part("no-hosts").wait_for()


async def test_a_message_to_a_host_is_in_the_inbox_of_both(open_window: Open, node: Node) -> None:
    caller, host = await both(open_window)
    await caller.page.locator('[data-user="asha"]').get_by_test_id("message-host").click()
    await caller.page.locator("#lobby").get_by_test_id("message-input").fill("Are you free tonight?")
    await caller.page.keyboard.press("Enter")
    await expect(host.part("conversations")).to_contain_text("Are you free tonight?")
    await expect(host.part("conversations").locator(".badge")).to_have_text("1")


async def test_the_page_says_when_the_server_is_gone_and_heals_when_it_is_back(open_window: Open, node: Node) -> None:
    caller = await open_window()
    await caller.come_in("Ravi", "caller", coins="10")
    await caller.page.context.set_offline(True)
    await caller.page.evaluate("() => talkmeterDemo.client.drop()")
    await caller.part("reconnect-banner").wait_for()
    await caller.picture("6-reconnecting")
    await caller.page.context.set_offline(False)
    await expect(caller.part("reconnect-banner")).to_be_hidden()


@pytest.mark.parametrize("dark", [False, True])
async def test_the_welcome_page_fits_a_phone(open_window: Open, dark: bool) -> None:
    window = await open_window(width=390, height=844, dark=dark)
    await window.part("name").wait_for()
    await window.picture(f"0-welcome-phone-{'dark' if dark else 'light'}")
    overflow = await window.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0


async def _see_warning(caller: Window) -> None:
    """Wait for the warning beside whatever else is done, so that a slow machine does not miss it."""
    await caller.part("low-balance").wait_for(timeout=CALL_TIMEOUT_MS)
    await caller.picture("4-low-balance")


async def _call_row(pg_url: str) -> dict[str, Any]:
    conn = await asyncpg.connect(pg_url)
    try:
        row = await conn.fetchrow("select * from realtime.calls")
        return dict(row)
    finally:
        await conn.close()


async def _audit(pg_url: str) -> dict[str, object]:
    """Run `talkmeter audit --json` as an operator would."""
    command = [sys.executable, "-m", "realtime", "audit", "--json", "--database-url", pg_url]
    process = await asyncio.create_subprocess_exec(*command, cwd=Path(ROOT), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    report: dict[str, object] = json.loads(out)
    return report
