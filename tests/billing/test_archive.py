"""Partitions are made ahead; a closed month leaves the database only after it was checked and written."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from billing import housekeeping, metering, staff, wallets
from billing.archive import archive_month, drop_month, move_archive, read_archive
from billing.audit import audit
from billing.errors import ArchiveUnavailable, WrongState
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
    await desk.talk(max(minutes * 60_000 - 1_000, 0), meter_id, step_ms=5_000)
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
    exported = await archive_month(owner, name, tmp_path)
    again = await archive_month(owner, name, tmp_path)
    assert (exported.charges, exported.coins, again.sha256) == (4, 40, exported.sha256)
    pulses = [pulse for _, pulse in read_archive(exported.path, meter_id=meters[1])]
    receipt = await metering.receipt(desk.conn, meters[1])
    assert tuple(pulses) == receipt.pulses
    written = exported.path.read_bytes()
    exported.path.write_bytes(written[:-1])
    with pytest.raises(WrongState):
        await drop_month(owner, name)
    exported.path.write_bytes(written)
    await drop_month(owner, name)
    await drop_month(owner, name)
    assert name not in await partitions(owner)
    report = await audit(desk.conn)
    assert report.ok, report.faults
    assert await desk.coins(CALLER) == (960, 0, 0)


async def archived(owner: asyncpg.Connection, meter_id: UUID, folder: Path) -> Path:
    """Archive and drop the month of a meter; return the file."""
    month = await owner.fetchval("select tableoid::regclass::text from billing.charges where meter_id = $1", meter_id)
    name = month.removeprefix("billing.")
    path = (await archive_month(owner, name, folder)).path
    await drop_month(owner, name)
    return path


async def history(desk: Desk, moments_ms: Sequence[int]) -> list[Any]:
    """Everything that users may ask about their past."""
    pages: list[Any] = []
    for user_id in (CALLER, HOST):
        pages.append(await wallets.statement(desk.conn, user_id))
        pages += [await wallets.balance_at(desk.conn, user_id, at_ms) for at_ms in moments_ms]
    return pages


async def test_receipts_statements_and_past_balances_are_the_same_after_archiving(
    desk: Desk, owner: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.archive.BLOCK_CHARGES", 3)  # several blocks, some with one meter, some with two
    desk.now_ms = NOON_MS + 52 * MONTH_MS
    await housekeeping.keep(desk.conn, now_ms=desk.now_ms)
    await desk.grant(35, promo=True)
    await desk.grant(1000)
    began_ms = desk.now_ms
    meters = [await timed_call(desk, minutes) for minutes in (1, 4, 2, 1, 3, 5)]
    free = await timed_call(desk, 0)
    await staff.refund(
        desk.conn,
        refund_id=uuid4(),
        meter_id=meters[1],
        period=2,
        coins=4,
        actor="ann",
        reason="bad line",
        now_ms=desk.now_ms,
    )
    moments_ms = range(began_ms - 30_000, desk.now_ms + 60_000, 30_000)
    before = [await metering.receipt(desk.conn, meter_id) for meter_id in (*meters, free)]
    past = await history(desk, moments_ms)
    path = await archived(owner, meters[0], tmp_path)
    assert await owner.fetchval("select count(*) from billing.charges where meter_id = any ($1)", meters) == 0
    assert await owner.fetchval("select count(*) from billing.archive_blocks") > 2
    assert [await metering.receipt(desk.conn, meter_id) for meter_id in (*meters, free)] == before
    assert await history(desk, moments_ms) == past
    assert sum(1 for _ in read_archive(path)) == sum(len(receipt.pulses) for receipt in before)


@pytest.mark.parametrize("harm", ["missing", "cut short", "a byte changed", "another month's"])
async def test_damaged_archive_gives_an_error_and_no_receipt(
    desk: Desk, owner: asyncpg.Connection, tmp_path: Path, harm: str
) -> None:
    # Months of their own: the database is shared by the tests of this folder.
    desk.now_ms = (
        NOON_MS + (60 + 4 * ["missing", "cut short", "a byte changed", "another month's"].index(harm)) * MONTH_MS
    )
    await housekeeping.keep(desk.conn, now_ms=desk.now_ms)
    await desk.grant(1000)
    meter = await timed_call(desk, 3)
    began_ms = desk.now_ms - 100_000
    path = await archived(owner, meter, tmp_path)
    written = path.read_bytes()
    match harm:
        case "missing":
            path.unlink()
        case "cut short":
            path.write_bytes(written[:-9])
        case "a byte changed":
            path.write_bytes(written[:-9] + bytes([written[-9] ^ 1]) + written[-8:])
        case _:
            path.write_bytes(gzip.compress(b"not this"))
    with pytest.raises(ArchiveUnavailable):
        await metering.receipt(desk.conn, meter)
    with pytest.raises(ArchiveUnavailable):
        await wallets.balance_at(desk.conn, CALLER, began_ms)
    path.unlink(missing_ok=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(ArchiveUnavailable):
        await move_archive(owner, path.name.removesuffix(".csv.gz"), elsewhere)
    (elsewhere / path.name).write_bytes(written)
    await move_archive(owner, path.name.removesuffix(".csv.gz"), elsewhere)
    assert (await metering.receipt(desk.conn, meter)).spent_coins == 30


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
