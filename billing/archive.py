"""Closed months leave the database: checked, exported with a checksum, and only then dropped.

Owns the archive's files. Must never import realtime or presence. A month's charges are written as lines of text, in
order of meter and period, compressed; the meters with their totals stay in the database, so that wallets, statements
and audit go on without the file. Receipts, and balances at a moment within an archived call, read it; what has to be
given back of an archived charge is an adjustment. Writing needs the owner's rights.

A file is `charges_YYYYMM.csv.gz`: one header line, then meter_id, period, at_ms, price, promo, share, fee, tax. It is
made of gzip members that each hold whole meters; the database knows where they are (billing.archive_blocks).
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import asyncpg

from billing.errors import ArchiveUnavailable, WrongState
from billing.queries import sql
from billing.receipts import Pulse

EXPORT_TIMEOUT_S = 3600.0
BLOCK_CHARGES = 5_000  # about 400 KB of text: what is read and unpacked for one receipt, and held while one is written
HEADER = b"meter_id,period,at_ms,price,promo,share,fee,tax\n"
COLUMNS = tuple(HEADER.decode().strip().split(","))


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of an archive file that can be read by itself."""

    file: Path
    at_byte: int
    size: int
    sha256: str

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Block:
        """Read what billing.archived_at returns."""
        return cls(Path(found["file"]), found["at_byte"], found["bytes"], found["sha256"])


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
        path = _path(folder, partition)
        sha256, charges, blocks = await _export(conn, partition, sums["from_id"], sums["to_id"], path)
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
        await conn.execute(
            sql("archive_blocks"),
            partition,
            list(blocks),
            [block.at_byte for block in blocks.values()],
            [block.size for block in blocks.values()],
            [block.sha256 for block in blocks.values()],
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


async def move_archive(conn: asyncpg.Connection, partition: str, folder: Path) -> Path:
    """Record that the partition's file lies in another folder now, once it is read there as it was written.

    Raises:
        WrongState: it was not archived.
        ArchiveUnavailable: there is no such file, or it is another one.
    """
    path = _path(folder, partition)
    sha256 = await conn.fetchval("select sha256 from billing.archives where partition = $1", partition)
    if sha256 is None:
        raise WrongState(f"{partition} was not archived")
    try:
        found = await asyncio.to_thread(_checksum, path)
    except OSError as exc:
        raise ArchiveUnavailable(f"{path} cannot be read: {exc}") from exc
    if found != sha256:
        raise ArchiveUnavailable(f"{path} is not what was written")
    await conn.execute("update billing.archives set file = $2 where partition = $1", partition, str(path))
    return path


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


async def archived_charges(block: Block, meter_id: UUID, *, periods: int) -> list[dict[str, int]]:
    """Return the charges of a meter that have left the database, as rows of billing.charges, in order.

    Raises:
        ArchiveUnavailable: the file is missing or damaged, or has not all periods from 1 to `periods`.
    """
    rows = await asyncio.to_thread(_read_block, block, str(meter_id))
    if [row["period"] for row in rows] != list(range(1, periods + 1)):
        raise ArchiveUnavailable(f"{block.file} has {len(rows)} of {periods} charges of meter {meter_id}")
    return rows


def _read_block(block: Block, meter_id: str) -> list[dict[str, int]]:
    try:
        with block.file.open("rb") as file:
            file.seek(block.at_byte)
            packed = file.read(block.size)
        if hashlib.sha256(packed).hexdigest() != block.sha256:
            raise ArchiveUnavailable(f"{block.file} is not what was written: damaged at byte {block.at_byte}")
        lines = gzip.decompress(packed).decode("ascii").splitlines()
    except (OSError, EOFError, zlib.error) as exc:
        raise ArchiveUnavailable(f"{block.file} cannot be read: {exc}") from exc
    rows = (zip(COLUMNS[1:], map(int, line.split(",")[1:]), strict=True) for line in lines if line.startswith(meter_id))
    return [dict(row) for row in rows]


async def _export(
    conn: asyncpg.Connection, partition: str, from_id: UUID, to_id: UUID, path: Path
) -> tuple[str, int, dict[UUID, Block]]:
    """Write the partition's rows to a file that takes its name when it is whole; return checksum, rows and blocks."""
    partial = path.with_suffix(".partial")
    firsts = [row["meter_id"] for row in await conn.fetch(sql("archive_firsts"), from_id, to_id, BLOCK_CHARGES)]
    blocks: dict[UUID, Block] = {}
    charges = 0
    with partial.open("wb") as file:
        await asyncio.to_thread(_append, file, path, HEADER)
        for first, after in pairwise([*firsts, to_id]):
            text = io.BytesIO()
            status = await conn.copy_from_query(
                await _rows_query(conn, partition, first, after), output=text, format="csv", timeout=EXPORT_TIMEOUT_S
            )
            charges += int(status.split()[-1])
            blocks[first] = await asyncio.to_thread(_append, file, path, text.getvalue())
    sha256 = await asyncio.to_thread(_checksum, partial)
    partial.replace(path)
    return sha256, charges, blocks


def _append(file: BinaryIO, path: Path, text: bytes) -> Block:
    """Write a block at the end of the file and return where it is. Time 0: the same rows give the same file."""
    packed = gzip.compress(text, mtime=0)
    block = Block(path, file.tell(), len(packed), hashlib.sha256(packed).hexdigest())
    file.write(packed)
    return block


async def _rows_query(conn: asyncpg.Connection, partition: str, first: UUID, after: UUID) -> str:
    quoted: str = await conn.fetchval("select format('billing.%I', $1::text)", partition)
    query = sql("archive_rows")
    for name, value in ((":partition", quoted), (":first", f"'{first}'"), (":after", f"'{after}'")):
        query = query.replace(name, value)
    return query


def _path(folder: Path, partition: str) -> Path:
    """Return where the file is, absolute: other processes read it, from wherever they run."""
    return folder.resolve() / f"{partition}.csv.gz"


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
