"""Fixtures of the wallet's tests."""

from __future__ import annotations

import asyncpg
import pytest

from tests.calls.world import People


@pytest.fixture
async def people(pool: asyncpg.Pool) -> People:
    return await People.make(pool)
