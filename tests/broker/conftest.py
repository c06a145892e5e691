"""Two nodes on one Valkey, and servers that a test may kill."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio as aioredis

from realtime.broker import Broker
from realtime.hub import Hub
from tests.broker.support import Valkey, temporary_folder


@dataclass(frozen=True, slots=True)
class Node:
    hub: Hub
    broker: Broker


MakeNode = Callable[[str], Awaitable[Node]]


@pytest.fixture
async def make_node() -> AsyncIterator[MakeNode]:
    nodes: list[Node] = []

    async def make(url: str) -> Node:
        broker = Broker(url)
        hub = Hub(broker)
        await hub.start()
        nodes.append(Node(hub, broker))
        return nodes[-1]

    yield make
    for node in nodes:
        await node.hub.close()
        await node.broker.close()


@pytest.fixture
async def node(make_node: MakeNode, redis_url: str, redis: aioredis.Redis) -> Node:
    return await make_node(redis_url)


@pytest.fixture
async def other(make_node: MakeNode, redis_url: str, redis: aioredis.Redis) -> Node:
    return await make_node(redis_url)


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = temporary_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def valkey(folder: Path) -> Iterator[Valkey]:
    """A running server that only this test uses."""
    server = Valkey(folder).start()
    yield server
    server.kill()
