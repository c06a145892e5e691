"""Restarts under load: no call ends, no event is missed or told twice, every second is charged once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.integration.node import running
from tests.integration.proxy import Proxy
from tests.integration.rolling import replace_workers, workers
from tests.integration.traffic import crowd

GOING_AWAY = {"4000 going_away"}


@pytest.fixture
def served(shared: dict[str, Any]) -> dict[str, Any]:
    """A drain that lasts, so that much happens while sockets are being closed."""
    return {**shared, "drain_ms": 1_000}


@pytest.mark.crash
async def test_a_rolling_restart_under_load_fails_no_call_and_loses_nothing(
    served: dict[str, Any], tmp_path: Path, owner: asyncpg.Connection
) -> None:
    async with running(tmp_path, "--workers", "2", **served) as node:
        async with crowd(node, [node.socket_url], owner, talking=3, ringing=3) as everybody:
            await replace_workers(node, everybody)
            await everybody.go_on()
            moves = everybody.moves()
            assert set(moves) <= GOING_AWAY, moves
            assert all(player.client.connections >= 2 for pair in everybody.pairs for player, _ in pair.sides)


@pytest.mark.crash
async def test_a_drained_node_hands_its_calls_to_the_other(
    served: dict[str, Any], tmp_path: Path, owner: asyncpg.Connection
) -> None:
    async with running(tmp_path, **served) as one, running(tmp_path, **served) as two:
        async with Proxy(one.url).running() as way, Proxy(two.url).running() as other_way:
            addresses = [way.socket_url, other_way.socket_url]
            async with crowd(two, addresses, owner, talking=3, ringing=2) as everybody:
                way.target = two.url
                assert await one.stop() == 0
                await everybody.go_on()
                assert set(everybody.moves()) <= GOING_AWAY, everybody.moves()


@pytest.mark.crash
async def test_a_killed_jobs_process_misses_no_pulse(
    served: dict[str, Any], tmp_path: Path, owner: asyncpg.Connection
) -> None:
    async with running(tmp_path, "--workers", "2", **served) as node:
        async with crowd(node, [node.socket_url], owner, talking=2, ringing=1) as everybody:
            (jobs,) = workers(node, "jobs")
            os.kill(jobs, signal.SIGKILL)
            await everybody.go_on()
            assert not everybody.moves()
            assert jobs not in workers(node, "jobs")
