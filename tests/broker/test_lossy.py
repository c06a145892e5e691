"""Whatever pub/sub does to messages (loses, repeats, delays, swaps them), sockets get every event once and in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from realtime.broker import Logged, Position, user_stream
from realtime.hub import Hub
from tests.broker.conftest import Node
from tests.broker.support import Recorder, outgoing, until

USER = 7
EVENTS = 400


class Lossy:
    """Stands between the broker's reader and the hub, as a bad network does."""

    def __init__(self, hub: Hub, chance: random.Random) -> None:
        self._hub = hub
        self._chance = chance
        self._late: list[tuple[str, Logged]] = []
        self.lost = 0

    def delivered(self, stream: str, event: Logged) -> None:
        what = self._chance.random()
        if what < 0.1:
            self.lost += 1
            return
        if what < 0.25:
            self._late.append((stream, event))
            return
        self._hub.delivered(stream, event)
        if what < 0.35:
            self._hub.delivered(stream, event)
        if what > 0.9:
            self.let_go()

    def let_go(self) -> None:
        """Deliver what was held back, in any order."""
        late, self._late = self._late, []
        self._chance.shuffle(late)
        for stream, event in late:
            self._hub.delivered(stream, event)

    def restored(self, streams: Sequence[str]) -> None:
        self._hub.restored(streams)


@pytest.mark.parametrize("seed", range(10))
async def test_every_socket_gets_every_event_once_and_in_order(node: Node, other: Node, seed: int) -> None:
    chance = random.Random(seed)
    lossy = Lossy(node.hub, chance)
    node.broker._sink = lossy
    key = user_stream(USER)
    epoch = (await node.broker.positions([key]))[0].epoch
    sockets: dict[Recorder, int] = {}
    opening: set[asyncio.Task[None]] = set()

    async def come(start: int) -> None:
        conn = Recorder()
        replay = await node.hub.open_stream(conn, USER, Position(epoch, start))
        assert replay.recovered
        for _ in range(chance.randint(0, 5)):
            await asyncio.sleep(0)
        node.hub.flow(conn)
        sockets[conn] = start

    published = 0
    while published < EVENTS:
        if chance.random() < 0.2:
            opening.add(asyncio.create_task(come(chance.randint(0, published))))
        batch = [outgoing(USER, published + n + 1) for n in range(chance.randint(1, 4))]
        await other.broker.publish(batch)
        published += len(batch)
    await asyncio.gather(*opening)
    lossy.let_go()
    node.hub.restored([key])
    left = {conn for conn in sockets if conn.closed_with is None}
    await until(
        lambda: all(conn.offsets()[-1:] == [published] for conn in left if conn.closed_with is None), "all of it"
    )
    assert lossy.lost > 10
    assert node.hub.gaps > 0
    for conn, start in sockets.items():
        expected = list(range(start + 1, published + 1))
        got = conn.offsets()
        # One that had to be sent away has the beginning of it, and comes back with its position.
        assert got == (expected if conn.closed_with is None else expected[: len(got)])
    assert sum(conn.closed_with is not None for conn in sockets) <= len(sockets) // 4
