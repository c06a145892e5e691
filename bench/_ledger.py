"""What the ledger's scenarios share: a durable PostgreSQL of their own, its books, its CPU time, and pgbench beside it.

They measure billing's statements and Python face directly, without a server in between.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from bench.harness import Figures, cpu_seconds
from billing.audit import audit
from realtime.embedded import Engines, find_postgres
from realtime.migrate import ensure_database, migrate

# Durable: fsync and synchronous_commit are on, as PostgreSQL has them. The rest is what any server would be given.
SETTINGS = {
    "shared_buffers": "2GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "30min",
    "max_connections": "100",
    "fsync": "on",
    "synchronous_commit": "on",
}
PGBENCH_SCALE = 50
PGBENCH_CLIENTS = 8
COINS_EACH = 1_000_000_000
SQL = Path(__file__).parent / "sql"


@contextmanager
def durable_postgres(bin_folder: str = "") -> Iterator[Engines]:
    """Run an embedded PostgreSQL on a temporary folder for the length of the block."""
    folder = Path(tempfile.mkdtemp(prefix="tm-bench-"))
    folder.chmod(0o755)  # PostgreSQL runs as another account when we are root
    try:
        engines = Engines.start(folder / "data", valkey=False, postgres_bin=bin_folder, postgres_options=SETTINGS)
        try:
            yield engines
        finally:
            engines.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_cpu_s(engines: Engines) -> float:
    """Return the CPU seconds that the server and all its backends have used."""
    return cpu_seconds(engines.pids()["postgres"]).postgres


async def make_books(engines: Engines, *, wallets: int, now_ms: int) -> str:
    """Make the database with funded wallets and return its URL."""
    url = engines.database_url
    await ensure_database(url)
    await migrate(url, ("billing",))
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("alter table billing.transfers set (autovacuum_enabled = off)")
        await conn.execute((SQL / "seed_wallets.sql").read_text(), wallets, COINS_EACH, now_ms)
    finally:
        await conn.close()
    return url


async def settle(url: str) -> None:
    """Vacuum, analyze and checkpoint, so that every measurement begins alike."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("vacuum (analyze)")
        await conn.execute("checkpoint")
    finally:
        await conn.close()


async def proved_books(url: str) -> Figures:
    """Audit the books after a run and return how much was examined in what time.

    Raises:
        RuntimeError: a fault was found; the figures would be worth nothing.
    """
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("analyze")
        report = await audit(conn)
    finally:
        await conn.close()
    if not report.ok:
        raise RuntimeError(f"the books are wrong: {report.faults[:3]}")
    return {"audit_rows": sum(check.examined for check in report.checks), "audit_ms": report.took_ms}


class Pgbench:
    """pgbench's TPC-B-like load without the hot rows (-N): what a durable transaction costs on this server."""

    def __init__(self, engines: Engines, bin_folder: str = "") -> None:
        self._program = str((Path(bin_folder) if bin_folder else find_postgres()) / "pgbench")
        self._socket = engines.database_url.split("host=")[1]

    def prepare(self) -> None:
        """Make and fill its database."""
        asyncio.run(self._create())
        self._run("-i", "-q", "-s", str(PGBENCH_SCALE))

    def tps(self, seconds: int) -> float:
        """Return transactions a second of `pgbench -N -s 50 -c 8 -j 2 -M simple`."""
        output = self._run(
            "-N", "-s", str(PGBENCH_SCALE), "-c", str(PGBENCH_CLIENTS), "-j", "2", "-M", "simple", "-T", str(seconds)
        )
        found = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"pgbench said no figure:\n{output}")
        return float(found[1])

    async def _create(self) -> None:
        await ensure_database(f"postgresql://postgres@/pgbench?host={self._socket}")

    def _run(self, *arguments: str) -> str:
        command = [self._program, "-h", self._socket, "-U", "postgres", *arguments, "pgbench"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"pgbench failed:\n{done.stderr}")
        return done.stdout


async def every(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    """Run `work` by the clock until cancelled; turns that were missed are made up for at once."""
    turn = time.monotonic()
    while True:
        await work()
        turn += seconds
        await asyncio.sleep(max(0.0, turn - time.monotonic()))
