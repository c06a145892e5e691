"""Every test of the transport runs on uvloop, as in production, and on asyncio's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import uvloop

from .sockets import Harness

Factories = Mapping[str, Any]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Factories:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    """Starts real servers on free ports and stops them all."""
    harness = Harness()
    try:
        yield harness
    finally:
        await harness.stop()
