"""Closed months leave the database: checked, exported with a checksum, and only then dropped.

Owns the archive's files. Must never import realtime or presence. A month's charges are written as lines of text, in
order of meter and period, compressed; the meters with their totals stay in the database, so that wallets, statements
and audit go on without the file. Pulses of an archived call are read from it; what has to be given back of them is an
adjustment. Needs the owner's rights.

A file is `charges_YYYYMM.csv.gz`: one header line, then meter_id, period, at_ms, price, promo, share, fee, tax.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg

from billing.errors import WrongState
from billing.queries import sql
from billing.receipts import Pulse

EXPORT_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Archived:
    """A month that was written to a file."""

    partition: str
    path: Path
    sha256: str
    charges: int
    coins: int


async def archive_month(
    conn: asyncpg.Connection, partition: str, folder: Path, *, now_ms: int | None = None
) -> Archived:
    """Check a partition of charges against its meters, export it and record it; drop nothing.

    Raises:
        WrongState: no such partition, a meter of it still runs, the sums differ, or it was archived before.
    """
    async with conn.transaction(isolation="repeatable_read"):
        sums = await conn.fetchrow(sql("archive_sums"), partition)
        if sums is None:
            raise WrongState(f"{partition} is no partition of charges")
        if sums["live"]:
            raise WrongState(f"{sums['live']} meters of {partition} have not ended")
        if (sums["coins"], sums["share"], sums["fee"], sums["tax"]) != (
            sums["meter_coins"],
            sums["meter_share"],
            sums["meter_fee"],
            sums["meter_tax"],
        ):
            raise WrongState(f"the charges of {partition} differ from its meters: audit first")
        path = folder / f"{partition}.csv.gz"
        sha256, charges = await _export(conn, partition, path)
        if charges != sums["charges"]:
            raise WrongState(f"{partition}: {charges} rows exported of {sums['charges']}")
        await conn.execute(
            sql("archive_record"),
            partition,
            now_ms,
            sums["from_id"],
            sums["to_id"],
            sums["meters"],
            charges,
            sums["coins"],
            sums["promo"],
            sums["share"],
            sums["fee"],
            sums["tax"],
            str(path),
            sha256,
        )
    return Archived(partition, path, sha256, charges, int(sums["coins"]))


async def drop_month(conn: asyncpg.Connection, partition: str, *, now_ms: int | None = None) -> None:
    """Drop an archived partition after reading its file once more.

    Raises:
        WrongState: it was not archived, or the file is not what was written.
    """
    row = await conn.fetchrow("select file, sha256, dropped_ms from billing.archives where partition = $1", partition)
    if row is None:
        raise WrongState(f"{partition} was not archived")
    if row["dropped_ms"] is not None:
        return
    if await asyncio.to_thread(_checksum, Path(row["file"])) != row["sha256"]:
        raise WrongState(f"{row['file']} is not what was written: {partition} stays")
    async with conn.transaction():
        await conn.execute("select billing.drop_partition($1, $2)", now_ms, partition)


def read_archive(path: Path, *, meter_id: UUID | None = None) -> Iterator[tuple[UUID, Pulse]]:
    """Yield the charges of an archive file, of one meter when asked: what its receipt needs."""
    with gzip.open(path, "rt", newline="", encoding="ascii") as lines:
        for row in csv.DictReader(lines):
            meter = UUID(row["meter_id"])
            if meter_id is None or meter == meter_id:
                yield (
                    meter,
                    Pulse(
                        period=int(row["period"]),
                        begins_ms=int(row["at_ms"]),
                        coins=int(row["price"]),
                        promo=int(row["promo"]),
                        share=int(row["share"]),
                        fee=int(row["fee"]),
                        tax=int(row["tax"]),
                        refunded=0,
                    ),
                )


async def _export(conn: asyncpg.Connection, partition: str, path: Path) -> tuple[str, int]:
    """Write the partition's rows to a file that takes its name when it is whole; return checksum and rows."""
    partial = path.with_suffix(".partial")
    # mtime 0: the same rows give the same file.
    with partial.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed:

        async def write(data: bytes) -> None:
            await asyncio.to_thread(packed.write, data)

        status = await conn.copy_from_query(
            sql("archive_rows").replace(":partition", await _quoted(conn, partition)),
            output=write,
            format="csv",
            header=True,
            timeout=EXPORT_TIMEOUT_S,
        )
    sha256 = await asyncio.to_thread(_checksum, partial)
    partial.replace(path)
    return sha256, int(status.split()[-1])


async def _quoted(conn: asyncpg.Connection, partition: str) -> str:
    quoted: str = await conn.fetchval("select format('billing.%I', $1::text)", partition)
    return quoted


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
