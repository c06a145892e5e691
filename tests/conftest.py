"""Fixtures on the real engines: one PostgreSQL and one Valkey for the session, a fresh database for each test.

TEST_POSTGRES_BIN names the folder of another PostgreSQL's binaries to run them all on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import redis.asyncio as aioredis

from realtime.embedded import Engines
from realtime.migrate import ensure_database, migrate

TEMPLATE = "talkmeter_template"
POSTGRES_BIN = os.environ.get("TEST_POSTGRES_BIN", "")  # empty: the embedded wheel's
# Tests prove durability with engines of their own; here speed is all that is lost.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300"}


@pytest.fixture
def engine_folder() -> Iterator[Path]:
    """An empty folder for a server's data, that the account of the engines may enter (pytest's own are closed)."""
    folder = Path(tempfile.mkdtemp(prefix="tm-data-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    """PostgreSQL and Valkey for the whole session, in a short-named folder that the engines' account may enter."""
    folder = Path(tempfile.mkdtemp(prefix="tm-test-"))
    folder.chmod(0o755)
    engines = Engines.start(folder / "data", postgres_bin=POSTGRES_BIN, postgres_options=FAST)
    try:
        yield engines
    finally:
        engines.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template_url(engines: Engines) -> str:
    """A migrated database that each test's own is copied from."""
    url = engines.database_url.replace("/talkmeter?", f"/{TEMPLATE}?")

    async def prepare() -> None:
        await ensure_database(url)
        await migrate(url)

    asyncio.run(prepare())
    return url


@pytest.fixture
async def pg_url(template_url: str) -> AsyncIterator[str]:
    """The owner's URL of a fresh migrated database."""
    name = f"t_{uuid4().hex[:12]}"
    server = await asyncpg.connect(template_url, database="postgres")
    try:
        await server.execute(f"create database {name} template {TEMPLATE}")
        yield template_url.replace(f"/{TEMPLATE}?", f"/{name}?")
        await server.execute(f"drop database {name} with (force)")
    finally:
        await server.close()


@pytest.fixture
async def owner(pg_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the database's owner, who may look at everything."""
    conn = await asyncpg.connect(pg_url)
    try:
        yield conn
    finally:
        await conn.close()


@pytest.fixture
async def pool(pg_url: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool as the application has it: its role may execute billing's functions, not write billing's tables."""
    pool = await asyncpg.create_pool(pg_url, min_size=1, max_size=8, server_settings={"role": "talkmeter_app"})
    try:
        yield pool
    finally:
        await pool.close()


@pytest.fixture
def redis_url(engines: Engines) -> str:
    return engines.redis_url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[aioredis.Redis]:
    """A client of an empty Valkey."""
    client: aioredis.Redis = aioredis.from_url(redis_url)
    await client.flushall()
    try:
        yield client
    finally:
        await client.aclose()
