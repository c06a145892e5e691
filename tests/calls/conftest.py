"""Fixtures of the calls' tests."""

from __future__ import annotations

import asyncpg
import pytest

from tests.calls.world import World


@pytest.fixture
async def world(pool: asyncpg.Pool) -> World:
    return await World.make(pool)
