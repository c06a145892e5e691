"""Fixtures of the clients' suites: players of every kind, and the scripted peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from tests.client.players import Player, kinds, make_player
from tests.client.scripted import Script, scripted_server


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
