"""Trackers as nodes, beating fast so that a test sees a death in a second."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
import redis.asyncio as aioredis

from presence.record import UserState
from presence.tracker import Tracker, WhoOf

HEARTBEAT_S = 0.1
TTL_MS = 600


@dataclass
class Node:
    tracker: Tracker
    client: aioredis.Redis
    heard: list[UserState] = field(default_factory=list)

    def statuses(self, user_id: int) -> list[str]:
        return [state.status.value for state in self.heard if state.user_id == user_id]

    async def die(self) -> None:
        """End as a killed process does: no more heartbeats, nothing taken back."""
        task = self.tracker._task
        assert task is not None
        task.cancel()


MakeNode = Callable[..., "Node"]


@pytest.fixture
async def make_node(redis: aioredis.Redis, redis_url: str) -> AsyncIterator[MakeNode]:
    nodes: list[Node] = []

    def make(url: str = redis_url, busy_of: WhoOf | None = None, woken_of: WhoOf | None = None) -> Node:
        client: aioredis.Redis = aioredis.from_url(url)
        heard: list[UserState] = []

        def on_change(states: Sequence[UserState]) -> None:
            heard.extend(states)

        tracker = Tracker(
            client,
            node=uuid4().hex,
            on_change=on_change,
            busy_of=busy_of,
            woken_of=woken_of,
            heartbeat_s=HEARTBEAT_S,
            ttl_ms=TTL_MS,
        )
        nodes.append(Node(tracker, client, heard))
        return nodes[-1]

    yield make
    for node in nodes:
        await node.tracker.close()
        await node.client.aclose()
