"""The audit: finds every kind of planted fault, reads in slices, goes on where it stopped, and never ends by itself."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from billing import gifts, holds
from billing.audit import Auditor, AuditReport, audit
from billing.tariffs import Tariff
from tests.billing.conftest import CALLER, HOST, Desk

MINUTE = Tariff(price_coins=10, commission_bp=3000, tax_bp=1800)

FAULTS = {
    "wallet too rich": ("wallet_entries", "update billing.spending_wallets set paid = paid + 1 where user_id = 101"),
    "promotional coins from nowhere": (
        "wallet_entries",
        "update billing.spending_wallets set promo = 1 where user_id = 101",
    ),
    "earnings gone": ("wallet_entries", "update billing.earning_wallets set earned = earned - 1 where user_id = 202"),
    "transfer gone": ("wallet_entries", "delete from billing.transfers where kind = 'gift'"),
    "charge gone": ("periods", "delete from billing.charges where period = 2"),
    "first charge gone": ("periods", "delete from billing.charges where period = 1"),
    "charge too many": (
        "periods",
        "insert into billing.charges select meter_id, 9, at_ms, price, promo, share, fee, tax from billing.charges "
        "where period = 1",
    ),
    "charge of another price": ("price", "update billing.charges set price = 11, share = share + 1 where period = 2"),
    "charge that does not add up": ("parts", "update billing.charges set share = share + 1 where period = 2"),
    "charge after the end": ("after_end", "update billing.charges set at_ms = at_ms + 600000 where period = 3"),
    "charge before its time": ("early", "update billing.charges set at_ms = at_ms - 1 where period = 2"),
    "commission off": ("fee", "update billing.meters set fee_remainder = fee_remainder + 1"),
    "meter's sum off": ("totals", "update billing.meters set spent_paid = spent_paid + 1, fee = fee + 1"),
    "refund of more than the charge": (
        "refunds",
        "insert into billing.charge_refunds "
        "select gen_random_uuid(), meter_id, period, at_ms, 20, 0, 20, 0, 0, 0, 'x' from billing.charges "
        "where period = 2",
    ),
    "gift's commission off": ("commission", "update billing.transfers set fee = fee + 1 where kind = 'gift'"),
    "gift corrected twice over": (
        "corrected",
        "insert into billing.transfers "
        "select gen_random_uuid(), at_ms, credit_owner, debit_owner, coins + 1, 0, 0, tenant_id, 0, 'correction', "
        "'earnings', 'wallet', 'paid', null, '', transfer_id from billing.transfers where kind = 'gift'",
    ),
    "hold without its escrow": ("hold", "update billing.holds set coins = coins + 1"),
}


async def busy_day(desk: Desk) -> None:
    """A call of three pulses, a gift, a hold."""
    await desk.grant(500)
    meter = await desk.call(MINUTE)
    await desk.talk(130_000, meter, step_ms=5_000)
    await desk.stop(meter)
    await gifts.send_gift(
        desk.conn, transfer_id=uuid4(), payer_id=CALLER, payee_id=HOST, price_coins=10, commission_bp=2500, memo=""
    )
    await holds.hold(desk.conn, hold_id=uuid4(), user_id=CALLER, coins=20, expires_ms=2**52)


@pytest.mark.parametrize("name", FAULTS)
async def test_planted_fault_is_found(desk: Desk, owner: asyncpg.Connection, name: str) -> None:
    rule, statement = FAULTS[name]
    await busy_day(desk)
    assert (await audit(desk.conn)).ok
    transaction = owner.transaction()
    await transaction.start()
    # As somebody with the owner's rights would do it: triggers off, constraints gone.
    await owner.execute("set local session_replication_role = replica")
    await owner.execute("alter table billing.charges drop constraint charges_check1")
    await owner.execute("alter table billing.meters drop constraint meters_check")
    assert await owner.execute(statement) != "UPDATE 0"
    report = await audit(owner)
    assert not report.ok
    assert rule in {fault.rule for fault in report.faults}
    await transaction.rollback()


async def test_audit_reads_in_slices_and_goes_on_where_it_stopped(desk: Desk) -> None:
    await busy_day(desk)
    whole = await audit(desk.conn)
    examined = {check.name: 0 for check in whole.checks}
    position, steps = (await audit(desk.conn, budget_ms=0, slice_rows=1)).position, 0
    while any(key is not None for key in position.values()):
        report = await audit(desk.conn, budget_ms=1, slice_rows=1, position=position)
        position = report.position
        steps += 1
        for check in report.checks:
            examined[check.name] += check.examined
    assert steps > 1
    assert examined == {check.name: check.examined for check in whole.checks}


async def test_auditor_reports_for_ever_and_tells_a_metric(
    desk: Desk, pool: asyncpg.Pool, owner: asyncpg.Connection
) -> None:
    await busy_day(desk)
    reports: asyncio.Queue[AuditReport] = asyncio.Queue()
    auditor = Auditor(pool, observe=reports.put_nowait, pause_ms=1, round_pause_ms=1)
    task = asyncio.create_task(auditor.run())
    try:
        async with asyncio.timeout(20):
            while not (await reports.get()).complete:
                pass
            await owner.execute("update billing.spending_wallets set paid = paid + 1 where user_id = $1", CALLER)
            while (await reports.get()).ok:
                pass
            await owner.execute("update billing.spending_wallets set paid = paid - 1 where user_id = $1", CALLER)
            while not (report := await reports.get()).ok or not report.complete:
                pass
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
