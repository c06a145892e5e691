"""Holds, purchases, payouts, adjustments, tariffs, statements: coins move once and can be traced."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from billing import catalogue, gifts, holds, housekeeping, payments, staff, wallets
from billing.errors import (
    InsufficientFunds,
    InvalidAmount,
    Restricted,
    TransferConflict,
    UnknownAccount,
    WrongState,
)
from billing.tariffs import Tariff
from tests.billing.conftest import CALLER, HOST, OTHER, TENANT, Desk

MINUTE = Tariff(price_coins=10, commission_bp=3000)


async def account(owner: asyncpg.Connection, name: str) -> int:
    return int(
        await owner.fetchval("select coalesce(sum(coins), 0) from billing.entries where account = $1", name) or 0
    )


async def test_hold_is_posted_once_and_the_rest_returns_to_its_buckets(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk.grant(30, promo=True)
    await desk.grant(70)
    hold_id = uuid4()
    terms = {"hold_id": hold_id, "user_id": CALLER, "coins": 50, "expires_ms": desk.now_ms + 60_000}
    for _ in range(2):
        await holds.hold(desk.conn, **terms, now_ms=desk.now_ms)  # type: ignore[arg-type]
    assert await desk.coins(CALLER) == (50, 0, 0)
    assert await account(owner, "escrow") == 50
    for _ in range(2):
        state = await holds.post_hold(
            desk.conn, hold_id, payee_id=HOST, coins=40, commission_bp=2500, now_ms=desk.now_ms
        )
        assert state == "posted"
    assert await desk.coins(CALLER) == (60, 0, 0)
    assert await desk.coins(HOST) == (0, 0, 30)
    assert await account(owner, "escrow") == 0
    assert await holds.void_hold(desk.conn, hold_id, now_ms=desk.now_ms) == "posted"


async def test_hold_is_voided_or_expires_once(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk.grant(30, promo=True)
    await desk.grant(70)
    first, second = uuid4(), uuid4()
    for hold_id in (first, second):
        await holds.hold(
            desk.conn, hold_id=hold_id, user_id=CALLER, coins=40, expires_ms=desk.now_ms + 1_000, now_ms=desk.now_ms
        )
    assert await desk.coins(CALLER) == (20, 0, 0)
    assert await holds.void_hold(desk.conn, first, now_ms=desk.now_ms) == "voided"
    assert await desk.coins(CALLER) == (30, 30, 0)
    await housekeeping.keep(desk.conn, now_ms=desk.now_ms + 1_000)
    await housekeeping.keep(desk.conn, now_ms=desk.now_ms + 1_000)
    assert await desk.coins(CALLER) == (70, 30, 0)
    late = await holds.post_hold(
        desk.conn, second, payee_id=HOST, coins=40, commission_bp=0, now_ms=desk.now_ms + 1_000
    )
    assert late == "expired"
    assert await account(owner, "escrow") == 0


async def test_bad_holds_are_refused(desk: Desk) -> None:
    await desk.grant(10)
    with pytest.raises(InsufficientFunds):
        await holds.hold(desk.conn, hold_id=uuid4(), user_id=CALLER, coins=11, expires_ms=desk.now_ms + 1)
    with pytest.raises(UnknownAccount):
        await holds.hold(desk.conn, hold_id=uuid4(), user_id=999, coins=1, expires_ms=desk.now_ms + 1)
    with pytest.raises(WrongState):
        await holds.void_hold(desk.conn, uuid4())
    hold_id = uuid4()
    await holds.hold(desk.conn, hold_id=hold_id, user_id=CALLER, coins=5, expires_ms=2**52)
    with pytest.raises(WrongState):
        await holds.post_hold(desk.conn, hold_id, payee_id=HOST, coins=6, commission_bp=0)
    with pytest.raises(UnknownAccount):
        await holds.post_hold(desk.conn, hold_id, payee_id=999, coins=5, commission_bp=0)
    assert await desk.coins(CALLER) == (5, 0, 0)


async def buy(desk: Desk, coins: int, payment_id: str = "pay_1") -> bool:
    return await payments.credit_purchase(
        desk.conn,
        tenant_id=TENANT,
        payment_id=payment_id,
        user_id=CALLER,
        coins=coins,
        amount_minor=coins * 100,
        currency="INR",
        now_ms=desk.now_ms,
    )


async def test_purchase_is_credited_once_by_its_payment_id(desk: Desk) -> None:
    assert await buy(desk, 100) is True
    assert await buy(desk, 100) is False
    assert await desk.coins(CALLER) == (100, 0, 0)
    with pytest.raises(TransferConflict):
        await buy(desk, 101)


async def test_chargeback_of_spent_coins_is_receivable_and_restricts_the_user(
    desk: Desk, owner: asyncpg.Connection
) -> None:
    await buy(desk, 100)
    await desk.grant(5, promo=True)
    meter = await desk.call(Tariff(price_coins=35))
    await desk.talk(5_000, meter)
    await desk.stop(meter)
    assert await desk.coins(CALLER) == (70, 0, 0)
    back = {"tenant_id": TENANT, "payment_id": "pay_1", "reason": "dispute lost"}
    assert await payments.charge_back(desk.conn, **back, now_ms=desk.now_ms) is True  # type: ignore[arg-type]
    assert await payments.charge_back(desk.conn, **back, now_ms=desk.now_ms) is False  # type: ignore[arg-type]
    assert await desk.coins(CALLER) == (0, 0, 0)
    assert await account(owner, "receivable") == -30
    await buy(desk, 50, "pay_2")
    with pytest.raises(Restricted):
        await gifts.send_gift(
            desk.conn, transfer_id=uuid4(), payer_id=CALLER, payee_id=HOST, price_coins=1, commission_bp=0, memo=""
        )
    assert (await desk.start(await desk.open(MINUTE))).state == "insufficient_funds"
    await staff.restrict(desk.conn, CALLER, restricted=False, actor="ann", reason="paid his debt")
    assert (await desk.start(await desk.open(MINUTE))).state == "running"


async def test_payout_clears_to_zero_whether_paid_or_failed(desk: Desk, owner: asyncpg.Connection) -> None:
    await staff.adjust(
        desk.conn, transfer_id=uuid4(), user_id=HOST, bucket="earned", coins=500, actor="ann", reason="bonus"
    )
    paid, failed = uuid4(), uuid4()
    for payout_id in (paid, paid, failed):
        await payments.request_payout(desk.conn, payout_id=payout_id, user_id=HOST, coins=200, tax_coins=20)
    assert await desk.coins(HOST) == (0, 0, 100)
    with pytest.raises(InsufficientFunds):
        await payments.request_payout(desk.conn, payout_id=uuid4(), user_id=HOST, coins=101, tax_coins=0)
    assert (await account(owner, "payouts"), await account(owner, "payout_tax")) == (360, 40)
    assert await payments.resolve_payout(desk.conn, paid, paid=True) == "settled"
    assert await payments.resolve_payout(desk.conn, paid, paid=False) == "settled"
    assert await payments.resolve_payout(desk.conn, failed, paid=False) == "reversed"
    assert await desk.coins(HOST) == (0, 0, 300)
    assert (await account(owner, "payouts"), await account(owner, "payout_tax")) == (0, 0)
    assert await account(owner, "bank") == 200
    with pytest.raises(WrongState):
        await payments.resolve_payout(desk.conn, uuid4(), paid=True)


async def test_shares_of_a_running_call_are_earned_but_not_yet_to_be_withdrawn(desk: Desk) -> None:
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    assert await desk.coins(HOST) == (0, 0, 7)
    with pytest.raises(InsufficientFunds):
        await payments.request_payout(desk.conn, payout_id=uuid4(), user_id=HOST, coins=7, tax_coins=0)
    desk.now_ms += 1_000
    await desk.stop(meter)
    await payments.request_payout(desk.conn, payout_id=uuid4(), user_id=HOST, coins=7, tax_coins=0)


async def test_adjustment_leaves_an_audit_trail(desk: Desk) -> None:
    terms = {"user_id": CALLER, "bucket": "promo", "actor": "ann", "reason": "apology"}
    transfer_id = uuid4()
    for _ in range(2):
        await staff.adjust(desk.conn, transfer_id=transfer_id, coins=25, **terms)  # type: ignore[arg-type]
    await staff.adjust(desk.conn, transfer_id=uuid4(), coins=-5, **terms)  # type: ignore[arg-type]
    with pytest.raises(InsufficientFunds):
        await staff.adjust(desk.conn, transfer_id=uuid4(), coins=-21, **terms)  # type: ignore[arg-type]
    with pytest.raises(InvalidAmount):
        await staff.adjust(desk.conn, transfer_id=uuid4(), coins=0, **terms)  # type: ignore[arg-type]
    with pytest.raises(InvalidAmount):
        await staff.adjust(desk.conn, transfer_id=uuid4(), coins=1, **{**terms, "reason": ""})  # type: ignore[arg-type]
    assert await desk.coins(CALLER) == (0, 20, 0)
    trail = await desk.conn.fetch(
        "select actor, action, coins, (before ->> 'promo')::int as before, (after ->> 'promo')::int as after "
        "from billing.audit_trail order by entry_id"
    )
    assert [tuple(row) for row in trail] == [("ann", "adjust_promo", 25, 0, 25), ("ann", "adjust_promo", -5, 25, 20)]


async def test_correction_names_the_gift_and_returns_each_coin_to_its_bucket(
    desk: Desk, owner: asyncpg.Connection
) -> None:
    await desk.grant(4, promo=True)
    await desk.grant(20)
    gift_id = uuid4()
    await gifts.send_gift(
        desk.conn, transfer_id=gift_id, payer_id=CALLER, payee_id=HOST, price_coins=12, commission_bp=2500, memo="rose"
    )
    await staff.adjust(desk.conn, transfer_id=uuid4(), user_id=HOST, bucket="earned", coins=-3, actor="a", reason="b")
    for _ in range(2):
        await staff.correct_payment(desk.conn, gift_id, actor="ann", reason="sent by mistake")
    assert await desk.coins(CALLER) == (20, 4, 0)
    assert await desk.coins(HOST) == (0, 0, 0)
    assert (await account(owner, "commission"), await account(owner, "loss")) == (0, -3)
    corrections = await owner.fetch("select sum(coins) as coins from billing.transfers where corrects = $1", gift_id)
    assert corrections[0]["coins"] == 12
    with pytest.raises(WrongState):
        await staff.correct_payment(desk.conn, uuid4(), actor="ann", reason="no such gift")


async def test_priced_message_is_paid_like_a_gift(desk: Desk) -> None:
    await desk.grant(10)
    desk.now_ms += 1
    paid = await gifts.pay_message(
        desk.conn,
        transfer_id=uuid4(),
        payer_id=CALLER,
        payee_id=HOST,
        price_coins=2,
        commission_bp=5000,
        memo="msg",
        now_ms=desk.now_ms,
    )
    assert (paid.earned_coins, paid.payer.coins, paid.payee.earned) == (1, 8, 1)
    assert (await wallets.statement(desk.conn, CALLER)).entries[0].kind == "chat"


async def test_statement_pages_by_cursor_and_adds_up_to_the_balance(desk: Desk) -> None:
    await desk.grant(500)
    await desk.grant(40, promo=True)
    for n in range(5):
        desk.now_ms += 1_000
        await gifts.send_gift(
            desk.conn,
            transfer_id=uuid4(),
            payer_id=CALLER,
            payee_id=OTHER if n % 2 else HOST,
            price_coins=10 + n,
            commission_bp=1000,
            memo="rose",
            now_ms=desk.now_ms,
        )
        meter = await desk.call(MINUTE)
        await desk.talk(61_000, meter, step_ms=5_000)
        await desk.stop(meter)
    for user_id in (CALLER, HOST, OTHER):
        entries: list[wallets.Entry] = []
        cursor: str | None = None
        while True:
            page = await wallets.statement(desk.conn, user_id, before=cursor, limit=3)
            entries += page.entries
            cursor = page.cursor
            if cursor is None:
                break
        assert len({e.entry_id for e in entries}) == len(entries)
        assert [e.at_ms for e in entries] == sorted((e.at_ms for e in entries), reverse=True)
        sums = tuple(sum(getattr(e, name) for e in entries) for name in ("paid", "promo", "earned"))
        assert sums == await desk.coins(user_id)
    with pytest.raises(InvalidAmount):
        await wallets.statement(desk.conn, CALLER, before="nonsense")


async def test_balance_at_a_past_moment_is_what_it_was(desk: Desk) -> None:
    seen = []
    await desk.grant(100)
    meter = await desk.call(MINUTE)
    for _ in range(5):
        await desk.talk(30_000, meter, step_ms=10_000)
        seen.append((desk.now_ms, await desk.coins(CALLER), await desk.coins(HOST)))
        desk.now_ms += 1
        await desk.grant(3, promo=True)
    await desk.stop(meter)
    for at_ms, caller, host in seen:
        past = await wallets.balance_at(desk.conn, CALLER, at_ms)
        assert (past.paid, past.promo, past.earned) == caller
        past = await wallets.balance_at(desk.conn, HOST, at_ms)
        assert (past.paid, past.promo, past.earned) == host


async def test_tariffs_are_versions_and_the_hosts_own_comes_first(desk: Desk, owner: asyncpg.Connection) -> None:
    tenants, hosts = Tariff(price_coins=10), Tariff(price_coins=25, commission_bp=3000)
    terms = {"tenant_id": TENANT, "subject": "voice", "actor": "ann"}
    assert await catalogue.publish(desk.conn, tariff=tenants, from_ms=1_000, **terms) == 1  # type: ignore[arg-type]
    assert await catalogue.publish(desk.conn, tariff=tenants, from_ms=1_000, **terms) == 1  # type: ignore[arg-type]
    assert await catalogue.publish(desk.conn, tariff=hosts, from_ms=5_000, **terms) == 2  # type: ignore[arg-type]
    await catalogue.publish(desk.conn, tariff=hosts, from_ms=2_000, host_id=HOST, **terms)  # type: ignore[arg-type]

    async def price(host_id: int, at_ms: int) -> int | None:
        found = await catalogue.in_force(desk.conn, tenant_id=TENANT, host_id=host_id, subject="voice", at_ms=at_ms)
        return found.tariff.price_coins if found else None

    assert await price(HOST, 999) is None
    assert await price(HOST, 1_500) == 10
    assert await price(HOST, 2_000) == 25
    assert await price(OTHER, 4_999) == 10
    assert await price(OTHER, 5_000) == 25
    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        await owner.execute("update billing.tariffs set actor = 'x'")
