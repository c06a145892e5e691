"""Nodes on the session's engines: each test has its own database and its own part of Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.integration.node import Node, running


@pytest.fixture
def shared(pg_url: str, redis_url: str, tmp_path: Path) -> dict[str, Any]:
    """Settings that every node of one test has in common."""
    return {
        "database_url": pg_url,
        "redis_url": redis_url,
        "redis_prefix": f"t{uuid4().hex[:8]}",
        "data_dir": tmp_path / "data",
        "drain_ms": 200,
        "database_pool_size": 6,
    }


@pytest.fixture
async def node(shared: dict[str, Any], tmp_path: Path) -> AsyncIterator[Node]:
    """One node."""
    async with running(tmp_path, **shared) as node:
        yield node
