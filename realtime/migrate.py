"""Brings a database to the present schema: numbered SQL files of each part, in order, once each.

Owns the order of the parts and the record of what was applied. Imports nothing else of the project; see
docs/decisions/0003-migrations.md for why this is not alembic or yoyo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

ROOT = Path(__file__).resolve().parent.parent
COMPONENTS = (
    "realtime",
    "realtime/accounts",
    "billing",
    "realtime/calls",
    "realtime/wallet",
    "realtime/chat",
    "realtime/push",
)
LOCK_KEY = 0x7461_6C6B  # "talk": one migrator at a time over all nodes
RECORD_SQL = """
create table if not exists public.talkmeter_migrations (
    component text not null,
    file text not null,
    checksum text not null,
    applied_at timestamptz not null default now(),
    primary key (component, file)
)
"""


class MigrationError(Exception):
    """A file that was applied has changed, the database is newer than this code, or a file failed."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file: `component/migrations/file`, applied in a transaction of its own."""

    component: str
    file: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def discover(components: Sequence[str] = COMPONENTS) -> list[Migration]:
    """Return all migrations in the order in which they are applied."""
    return [
        Migration(component, path.name, path.read_text())
        for component in components
        for path in sorted((ROOT / component / "migrations").glob("[0-9]*.sql"))
    ]


async def migrate(url: str, components: Sequence[str] = COMPONENTS) -> list[str]:
    """Apply what is missing, as the owner; return the names of the files applied now.

    Raises:
        MigrationError: see the class; what was applied before the failing file stays applied.
    """
    conn = await asyncpg.connect(url, timeout=30)
    try:
        await conn.execute("select pg_advisory_lock($1)", LOCK_KEY)
        await conn.execute(RECORD_SQL)
        rows = await conn.fetch("select component, file, checksum from public.talkmeter_migrations")
        applied = {(row["component"], row["file"]): row["checksum"] for row in rows}
        migrations = discover(components)
        _refuse_surprises(migrations, applied)
        done = []
        for migration in migrations:
            if (migration.component, migration.file) not in applied:
                await _apply(conn, migration)
                done.append(f"{migration.component}/{migration.file}")
        return done
    finally:
        await conn.close()


async def ensure_database(url: str) -> None:
    """Create the database that `url` names when the server does not have it (embedded engines, tests)."""
    name = urlsplit(url).path.lstrip("/")
    server = await asyncpg.connect(url, database="postgres", timeout=30)
    try:
        if not await server.fetchval("select 1 from pg_database where datname = $1", name):
            quoted = name.replace('"', '""')
            await server.execute(f'create database "{quoted}"')
    finally:
        await server.close()


def _refuse_surprises(migrations: Sequence[Migration], applied: dict[tuple[str, str], str]) -> None:
    known = {(m.component, m.file): m.checksum for m in migrations}
    for (component, file), checksum in applied.items():
        if component not in {m.component for m in migrations}:
            continue
        if (component, file) not in known:
            raise MigrationError(f"the database has {component}/{file}, which this version does not know: upgrade it")
        if known[component, file] != checksum:
            raise MigrationError(f"{component}/{file} was changed after it had been applied; add a new file instead")


async def _apply(conn: asyncpg.Connection, migration: Migration) -> None:
    name = f"{migration.component}/{migration.file}"
    try:
        async with conn.transaction():
            await conn.execute(migration.sql)
            await conn.execute(
                "insert into public.talkmeter_migrations (component, file, checksum) values ($1, $2, $3)",
                migration.component,
                migration.file,
                migration.checksum,
            )
    except asyncpg.PostgresError as exc:
        raise MigrationError(f"{name}: {exc}") from exc
