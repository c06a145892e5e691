"""Fixtures of the clients' suites: players of every kind, the scripted peer, and one real server for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from bench.harness import ServerProcess, server_process
from realtime.embedded import Engines
from tests.client.players import Player, kinds, make_player
from tests.client.scripted import Script, scripted_server
from tests.conftest import TEMPLATE

DATABASE = "client_contract"


@pytest.fixture(params=kinds())
def kind(request: pytest.FixtureRequest) -> str:
    """Each client with each codec in turn."""
    return str(request.param)


@pytest.fixture
async def new_player(kind: str) -> AsyncIterator[Callable[[], Player]]:
    """Makes players of the kind under test; they are closed at the end."""
    async with AsyncExitStack() as stack:

        def make() -> Player:
            player = make_player(kind)
            stack.push_async_callback(player.close)
            return player

        yield make


@pytest.fixture
async def player(new_player: Callable[[], Player]) -> Player:
    return new_player()


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    async with scripted_server() as script:
        yield script


@pytest.fixture(scope="module")
def server(engines: Engines, template_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server with a database of its own; the tests of a module share it and use users of their own."""
    folder: Path = tmp_path_factory.mktemp("server")
    asyncio.run(_create_database(template_url))
    database_url = template_url.replace(f"/{TEMPLATE}?", f"/{DATABASE}?")
    arguments = ("--database-url", database_url, "--redis-url", engines.redis_url)
    settings = {"redis_prefix": "contract", "database_pool_size": "6", "drain_ms": "200"}
    with server_process(*arguments, data_dir=folder, settings=settings) as server:
        yield server


async def _create_database(template_url: str) -> None:
    conn = await asyncpg.connect(template_url, database="postgres")
    try:
        await conn.execute(f"drop database if exists {DATABASE} with (force)")
        await conn.execute(f"create database {DATABASE} template {TEMPLATE}")
    finally:
        await conn.close()
