"""Fixtures of the wallet's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from billing.audit import audit
from tests.calls.world import People


@pytest.fixture
async def people(pool: asyncpg.Pool, owner: asyncpg.Connection) -> AsyncIterator[People]:
    """People whose gifts are booked, and whose books are audited when the test is over."""
    people = await People.make(pool)
    async with people.desk():
        yield people
    report = await audit(owner)
    assert report.ok, report
