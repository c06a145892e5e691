"""Partitions are made ahead; a closed month leaves the database only after it was checked and written."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from billing import housekeeping, metering
from billing.archive import archive_month, drop_month, read_archive
from billing.audit import audit
from billing.errors import WrongState
from billing.tariffs import Tariff
from realtime.ids import new_id
from tests.billing.conftest import CALLER, HOST, NOON_MS, TENANT, Desk

MONTH_MS = 31 * 86_400_000
MINUTE = Tariff(price_coins=10, commission_bp=3000)


async def partitions(owner: asyncpg.Connection) -> set[str]:
    rows = await owner.fetch(
        "select c.relname::text as name from pg_inherits i join pg_class c on c.oid = i.inhrelid "
        "where i.inhparent = 'billing.charges'::regclass"
    )
    return {row["name"] for row in rows}


async def timed_call(desk: Desk, minutes: int) -> UUID:
    """A finished call whose id carries its time, as the ids of calls do."""
    meter_id = new_id(now_ms=desk.now_ms)
    await metering.open_meter(
        desk.conn,
        meter_id=meter_id,
        tenant_id=TENANT,
        payer_id=CALLER,
        payee_id=HOST,
        tariff=MINUTE,
        now_ms=desk.now_ms,
    )
    await desk.start(meter_id)
    await desk.talk(minutes * 60_000 - 1_000, meter_id, step_ms=5_000)
    await desk.stop(meter_id)
    return meter_id


async def test_worker_makes_partitions_ahead(desk: Desk, owner: asyncpg.Connection) -> None:
    await housekeeping.keep(desk.conn, now_ms=NOON_MS)
    assert {"charges_202701", "charges_202702", "charges_202703", "charges_202704"} <= await partitions(owner)
    await housekeeping.keep(desk.conn, now_ms=NOON_MS)


async def test_closed_month_is_written_and_dropped_and_the_audit_goes_on(
    desk: Desk, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    # A month of its own: the database is shared by the tests of this folder.
    desk.now_ms = NOON_MS + 36 * MONTH_MS
    await housekeeping.keep(desk.conn, now_ms=desk.now_ms)
    await desk.grant(1000)
    meters = [await timed_call(desk, minutes) for minutes in (1, 3)]
    month = await owner.fetchval("select tableoid::regclass::text from billing.charges where meter_id = $1", meters[0])
    name = month.removeprefix("billing.")
    with pytest.raises(WrongState):
        await drop_month(owner, name)
    archived = await archive_month(owner, name, tmp_path)
    again = await archive_month(owner, name, tmp_path)
    assert (archived.charges, archived.coins, again.sha256) == (4, 40, archived.sha256)
    pulses = [pulse for _, pulse in read_archive(archived.path, meter_id=meters[1])]
    receipt = await metering.receipt(desk.conn, meters[1])
    assert tuple(pulses) == receipt.pulses
    written = archived.path.read_bytes()
    archived.path.write_bytes(written[:-1])
    with pytest.raises(WrongState):
        await drop_month(owner, name)
    archived.path.write_bytes(written)
    await drop_month(owner, name)
    await drop_month(owner, name)
    assert name not in await partitions(owner)
    report = await audit(desk.conn)
    assert report.ok, report.faults
    assert await desk.coins(CALLER) == (960, 0, 0)


async def test_month_with_a_running_call_stays(desk: Desk, owner: asyncpg.Connection, tmp_path: Path) -> None:
    desk.now_ms = NOON_MS + 40 * MONTH_MS
    await housekeeping.keep(desk.conn, now_ms=desk.now_ms)
    await desk.grant(1000)
    meter = await timed_call(desk, 1)
    running = new_id(now_ms=desk.now_ms)
    await metering.open_meter(
        desk.conn, meter_id=running, tenant_id=TENANT, payer_id=CALLER, payee_id=HOST, tariff=MINUTE, now_ms=desk.now_ms
    )
    name = await owner.fetchval("select tableoid::regclass::text from billing.charges where meter_id = $1", meter)
    with pytest.raises(WrongState):
        await archive_month(owner, name.removeprefix("billing."), tmp_path)
    with pytest.raises(WrongState):
        await archive_month(owner, "charges_default", tmp_path)


async def test_archived_sums_are_audited(desk: Desk, owner: asyncpg.Connection, tmp_path: Path) -> None:
    desk.now_ms = NOON_MS + 44 * MONTH_MS
    await housekeeping.keep(desk.conn, now_ms=desk.now_ms)
    await desk.grant(1000)
    meter = await timed_call(desk, 2)
    name = await owner.fetchval("select tableoid::regclass::text from billing.charges where meter_id = $1", meter)
    await archive_month(owner, name.removeprefix("billing."), tmp_path)
    await drop_month(owner, name.removeprefix("billing."))
    transaction = owner.transaction()
    await transaction.start()
    await owner.execute("update billing.meters set spent_paid = spent_paid + 1, fee = fee + 1")
    assert "archive" in {fault.rule for fault in (await audit(owner)).faults}
    await transaction.rollback()
