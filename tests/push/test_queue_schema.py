"""The queue's tables in our migration are those that the installed pgqueuer wants."""

from __future__ import annotations

from pathlib import Path

import asyncpg
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.adapters.persistence.queries import Queries

import realtime.push
from realtime.push.queue import queue_settings

MIGRATION = Path(realtime.push.__file__ or "").with_name("migrations") / "0001_queue.sql"


def statements(sql: str) -> list[str]:
    return [line for line in sql.splitlines() if line.strip() and not line.startswith("-- ")]


def test_the_migration_is_what_pgqueuer_would_install() -> None:
    wanted = QueryBuilderEnvironment(queue_settings()).build_install_query(create_schema=False)
    assert statements(MIGRATION.read_text()) == statements(wanted)


async def test_pgqueuer_would_change_nothing_in_a_migrated_database(owner: asyncpg.Connection) -> None:
    queries = Queries(AsyncpgDriver(owner), qbe=QueryBuilderEnvironment(queue_settings()))
    plan = await queries.plan_upgrade()
    assert plan.statements == ()
