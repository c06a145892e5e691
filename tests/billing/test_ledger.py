"""Transfers: balanced, once, and refused without a trace in the balances."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from billing import gifts, ledger, wallets
from billing.errors import InsufficientFunds, InvalidAmount, TransferConflict, UnknownAccount
from billing.tariffs import COINS_MAX
from tests.billing.conftest import CALLER, HOST, OTHER, TENANT, Desk


async def gift(desk: Desk, coins: int, *, payer_id: int = CALLER, transfer_id: object = None) -> gifts.GiftResult:
    return await gifts.send_gift(
        desk.conn,
        transfer_id=transfer_id or uuid4(),  # type: ignore[arg-type]
        payer_id=payer_id,
        payee_id=HOST,
        price_coins=coins,
        commission_bp=2500,
        memo="rose",
        now_ms=desk.now_ms,
    )


async def test_gift_is_divided_between_host_and_platform(desk: Desk) -> None:
    await desk.grant(30)
    await desk.grant(5, promo=True)
    result = await gift(desk, 10)
    assert (result.earned_coins, result.fee_coins, result.promo_coins) == (8, 2, 5)
    assert await desk.coins(CALLER) == (25, 0, 0)
    assert await desk.coins(HOST) == (0, 0, 8)


async def test_gift_that_cannot_be_paid_moves_nothing_and_its_id_stays_refused(desk: Desk) -> None:
    await desk.grant(9)
    transfer_id = uuid4()
    with pytest.raises(InsufficientFunds):
        await gift(desk, 10, transfer_id=transfer_id)
    await desk.grant(100)
    with pytest.raises(InsufficientFunds):
        await gift(desk, 10, transfer_id=transfer_id)
    assert await desk.coins(CALLER) == (109, 0, 0)


async def test_same_id_with_same_contents_moves_coins_once(desk: Desk) -> None:
    await desk.grant(100)
    transfer_id = uuid4()
    first = await gift(desk, 10, transfer_id=transfer_id)
    assert await gift(desk, 10, transfer_id=transfer_id) == first
    assert await desk.coins(CALLER) == (90, 0, 0)


async def test_same_id_with_other_contents_is_refused(desk: Desk) -> None:
    await desk.grant(100)
    await desk.grant(100, user_id=OTHER)
    transfer_id = uuid4()
    await gift(desk, 10, transfer_id=transfer_id)
    with pytest.raises(TransferConflict):
        await gift(desk, 11, transfer_id=transfer_id)
    with pytest.raises(TransferConflict):
        await gift(desk, 10, payer_id=OTHER, transfer_id=transfer_id)
    assert await desk.coins(OTHER) == (100, 0, 0)


@pytest.mark.parametrize("coins", [0, -1, 2**53, 2**63, 1.5, True, "10"])
async def test_amounts_that_are_no_coins_are_refused(desk: Desk, coins: object) -> None:
    await desk.grant(100)
    with pytest.raises(InvalidAmount):
        await gift(desk, coins)  # type: ignore[arg-type]
    with pytest.raises(InvalidAmount):
        await desk.grant(coins)  # type: ignore[arg-type]
    assert await desk.coins(CALLER) == (100, 0, 0)


async def test_balance_cannot_grow_above_what_json_can_carry(desk: Desk) -> None:
    await desk.grant(COINS_MAX)
    with pytest.raises(InvalidAmount):
        await desk.grant(1)
    assert await desk.coins(CALLER) == (COINS_MAX, 0, 0)


async def test_unknown_accounts_are_refused(desk: Desk) -> None:
    await desk.grant(100)
    with pytest.raises(UnknownAccount):
        await gift(desk, 10, payer_id=999)
    with pytest.raises(UnknownAccount):
        await gifts.send_gift(
            desk.conn, transfer_id=uuid4(), payer_id=CALLER, payee_id=999, price_coins=1, commission_bp=0, memo=""
        )
    with pytest.raises(UnknownAccount):
        await wallets.balance(desk.conn, 999)
    await wallets.open_wallet(desk.conn, tenant_id=TENANT + 1, user_id=404)
    with pytest.raises(UnknownAccount):
        await gifts.send_gift(
            desk.conn, transfer_id=uuid4(), payer_id=CALLER, payee_id=404, price_coins=1, commission_bp=0, memo=""
        )
    with pytest.raises(UnknownAccount):
        await wallets.open_wallet(desk.conn, tenant_id=TENANT, user_id=404)
    assert await desk.coins(CALLER) == (100, 0, 0)


async def test_batch_gives_each_transfer_its_own_outcome(desk: Desk) -> None:
    await desk.grant(100)
    await desk.grant(3, user_id=OTHER)
    terms = {"payee_id": HOST, "commission_bp": 0, "memo": ""}
    batch = [
        gifts.payment("gift", transfer_id=uuid4(), payer_id=payer, price_coins=10, **terms)  # type: ignore[arg-type]
        for payer in (CALLER, OTHER, 999, CALLER)
    ]
    posted = await ledger.post_all(desk.conn, batch, now_ms=desk.now_ms)
    assert [p.outcome for p in posted] == ["done", "refused", "undecided", "done"]
    again = await ledger.post_all(desk.conn, batch, now_ms=desk.now_ms)
    assert [p.outcome for p in again] == ["replayed", "refused", "undecided", "replayed"]
    assert await desk.coins(CALLER) == (80, 0, 0)


async def test_version_grows_with_every_change(desk: Desk) -> None:
    versions = [(await wallets.balance(desk.conn, CALLER)).v]
    for _ in range(3):
        await desk.grant(10)
        versions.append((await wallets.balance(desk.conn, CALLER)).v)
    versions.append((await gift(desk, 1)).payer.v)
    assert versions == sorted(set(versions))


async def test_journal_is_append_only(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk.grant(100)
    for statement in (
        "update billing.transfers set coins = 1",
        "delete from billing.transfers",
        "truncate billing.transfers",
    ):
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await owner.execute(statement)


async def test_application_may_not_write_tables(desk: Desk) -> None:
    for statement in (
        "update billing.spending_wallets set paid = 1000000",
        "insert into billing.meter_events (meter_id, at_ms) values (gen_random_uuid(), 1)",
        "delete from billing.charges",
        "select billing.give_back(1, gen_random_uuid(), gen_random_uuid(), 1, 1, '')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await desk.conn.execute(statement)


async def test_database_itself_refuses_a_negative_wallet(desk: Desk, owner: asyncpg.Connection) -> None:
    for column in ("paid", "promo"):
        with pytest.raises(asyncpg.CheckViolationError):
            await owner.execute(f"update billing.spending_wallets set {column} = -1 where user_id = $1", CALLER)  # noqa: S608
