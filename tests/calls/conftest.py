"""Fixtures of the calls' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from billing.audit import audit
from tests.calls.world import World


@pytest.fixture
async def world(pool: asyncpg.Pool, owner: asyncpg.Connection) -> AsyncIterator[World]:
    """A world whose books are audited when its test is over."""
    world = await World.make(pool)
    async with world.desk():
        yield world
    report = await audit(owner)
    assert report.ok, report
