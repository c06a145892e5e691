"""Rounds of the crash test: let players play, kill something, bring it back, compare what was told with the books."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from billing import wallets
from billing.audit import audit
from realtime.embedded import Engines
from realtime.migrate import ensure_database, migrate
from tests.crash.player import HOSTS, USERS

PLAYERS = 2
POSTGRES_BIN = os.environ.get("TEST_POSTGRES_BIN", "")  # as in tests/conftest.py
PLAY_S = (0.6, 2.0)
# Durable as in production; only the pace of checkpoints is quickened, so that crashes hit them too.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "checkpoint_timeout": "30s", "max_connections": "50"}
Told = dict[tuple[str, UUID], dict[str, object]]
ROOT = Path(__file__).resolve().parents[2]


class BooksWrong(AssertionError):
    """An acknowledged operation is missing, doubled or changed, or the audit found a fault."""


@dataclass(slots=True)
class Table:
    """The engines, the players at work, and what happened so far."""

    folder: Path
    dice: random.Random
    engines: Engines | None = None
    players: list[subprocess.Popen[bytes]] = field(default_factory=list)
    seats: int = 0
    killed: Counter[str] = field(default_factory=Counter)

    @property
    def log(self) -> Path:
        return self.folder / "told.jsonl"

    @property
    def url(self) -> str:
        assert self.engines is not None
        return self.engines.database_url

    def start_database(self) -> None:
        self.engines = Engines.start(
            self.folder / "data", valkey=False, postgres_bin=POSTGRES_BIN, postgres_options=DURABLE
        )

    def seat(self, players: int) -> None:
        """Start player processes; users who have called stay with the process that was killed, new ones come."""
        users = [range(100 + self.seats * USERS, 100 + (self.seats + n + 1) * USERS) for n in range(players)]
        asyncio.run(_open_wallets(self.url, [user for span in users for user in span]))
        for _ in range(players):
            command = [sys.executable, "-m", "tests.crash.player", self.url, str(self.log)]
            command += [str(100 + self.seats * USERS), str(self.dice.randrange(2**31))]
            self.players.append(subprocess.Popen(command, cwd=ROOT))
            self.seats += 1

    def kill_player(self) -> None:
        player = self.players.pop(self.dice.randrange(len(self.players)))
        player.kill()
        player.wait()

    def crash_database(self) -> None:
        """As `pg_ctl stop -m immediate`: no checkpoint, no goodbye; the next start recovers from the log."""
        assert self.engines is not None
        os.kill(self.engines.pids()["postgres"], signal.SIGQUIT)
        self.engines.stop()
        self.start_database()

    def clear(self) -> None:
        while self.players:
            self.kill_player()
        if self.engines is not None:
            self.engines.stop()


def play(folder: Path, rounds: int, *, seed: int) -> dict[str, int]:
    """Play and crash `rounds` times and return counts of what was acknowledged and killed.

    Raises:
        BooksWrong: see the class; the seed and round are in the message.
    """
    table = Table(folder, random.Random(seed))
    told: Counter[str] = Counter()
    try:
        table.start_database()
        asyncio.run(_prepare(table.url))
        table.seat(PLAYERS)
        for number in range(rounds):
            time.sleep(table.dice.uniform(*PLAY_S))
            victims = table.dice.choice(("player", "database", "database", "both"))
            table.killed[victims] += 1
            if victims in ("player", "both"):
                table.kill_player()
            if victims in ("database", "both"):
                table.crash_database()
            try:
                told = asyncio.run(_compare(table.url, _read(table.log)))
            except BooksWrong as exc:
                raise BooksWrong(f"seed {seed}, round {number + 1}, after {victims}: {exc}") from exc
            table.seat(PLAYERS - len(table.players))
    finally:
        table.clear()
    return {**{f"told_{op}": n for op, n in told.items()}, **{f"killed_{what}": n for what, n in table.killed.items()}}


async def _prepare(url: str) -> None:
    await ensure_database(url)
    await migrate(url, ("realtime", "billing"))
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("create table taken (event_id bigint primary key, meter_id uuid, kind text, period int)")
        await conn.execute("grant insert on taken to talkmeter_app")
    finally:
        await conn.close()
    await _open_wallets(url, HOSTS)


async def _open_wallets(url: str, users: list[int] | tuple[int, ...]) -> None:
    conn = await asyncpg.connect(url)
    try:
        for user in users:
            await wallets.open_wallet(conn, tenant_id=1, user_id=user)
    finally:
        await conn.close()


def _read(log: Path) -> Told:
    """Return what the players were told, by operation and id."""
    told: Told = {}
    for line in log.read_text().splitlines(keepends=True) if log.exists() else ():
        if line.endswith("\n"):  # a killed writer leaves half a line: nobody was told that
            row = json.loads(line)
            told[row["op"], UUID(row["id"])] = row
    return told


async def _compare(url: str, told: Told) -> Counter[str]:
    """Compare every acknowledged operation with the books, and audit them."""
    conn = await asyncpg.connect(url)
    try:
        await _compare_transfers(conn, told)
        await _compare_wired(conn, told)
        await _compare_meters(conn, told)
        doubled = await conn.fetchval(
            "select count(*) from (select 1 from taken where kind = 'charged' group by meter_id, period "
            "having count(*) > 1) x"
        )
        if doubled:
            raise BooksWrong(f"{doubled} charges were announced twice")
        report = await audit(conn)
        if not report.ok:
            raise BooksWrong(f"audit: {report.faults[:3]}")
    finally:
        await conn.close()
    return Counter(op for op, _ in told)


async def _compare_transfers(conn: asyncpg.Connection, told: Told) -> None:
    rows = await conn.fetch("select transfer_id, coins, refused from billing.transfers")
    booked = {row["transfer_id"]: row for row in rows}
    for (op, id_), answer in told.items():
        if op not in ("gift", "grant"):
            continue
        row = booked.get(id_)
        if row is None:
            raise BooksWrong(f"{op} {id_} was acknowledged ({answer['answer']}) and is gone")
        expected = None if answer["answer"] == "done" else answer["answer"]
        if (row["refused"], row["coins"]) != (expected, answer["coins"]):
            raise BooksWrong(f"{op} {id_}: told {answer}, booked {dict(row)}")


async def _compare_wired(conn: asyncpg.Connection, told: Told) -> None:
    """What was paid over the wire has one event and one stored answer each, acknowledged or not."""
    async with conn.transaction(isolation="repeatable_read"):  # other players go on
        paid = await _counts(
            conn, "select reason from billing.transfers where kind = 'gift' and refused is null and reason <> 'rose'"
        )
        answers = await _counts(conn, "select key from realtime.idempotency")
        events = await _counts(
            conn,
            "select convert_from(data, 'utf8')::jsonb -> 'from' ->> 'name' from realtime.outbox"
            " where event = 'gift.received'",
        )
    if not paid == answers == events or set(paid.values()) - {1}:
        raise BooksWrong(f"{len(paid)} gifts were paid, {len(answers)} answered, {len(events)} told")
    for (op, id_), answer in told.items():
        if op == "wired" and (str(id_) in paid) != (answer["answer"] == "done"):
            raise BooksWrong(f"wired {id_}: told {answer}, which is not what was booked")


async def _counts(conn: asyncpg.Connection, query: str) -> Counter[str]:
    return Counter(row[0] for row in await conn.fetch(query))


async def _compare_meters(conn: asyncpg.Connection, told: Told) -> None:
    rows = await conn.fetch(
        "select meter_id, state::text as state, spent_paid + spent_promo as spent from billing.meters"
    )
    meters = {row["meter_id"]: row for row in rows}
    for (op, id_), answer in told.items():
        if op not in ("start", "stop"):
            continue
        row = meters.get(id_)
        if row is None or row["state"] == "open":
            raise BooksWrong(f"meter {id_} was started and is gone")
        if op == "stop" and (row["state"], row["spent"]) != ("ended", answer["answer"]):
            raise BooksWrong(f"meter {id_}: told {answer}, booked {dict(row)}")
