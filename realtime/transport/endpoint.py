"""What all sockets of one server share: handler, limits, timer wheel, outbox, admission, and the set of them.

Owns their lifetimes and the drain. Must never import features; made by `server.Server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from typing import TYPE_CHECKING

from realtime.protocol.close_codes import CloseCode

from .deflate import Deflate
from .gate import Gate
from .handshake import Handshaker
from .interface import SocketHandler, Subprotocols
from .options import SocketOptions
from .outbox import Outbox
from .wheel import Wheel

if TYPE_CHECKING:
    from .connection import Connection

DRAIN_STEPS_MAX = 200  # batches of a drain; below a few milliseconds each a timer is no use


class Endpoint:
    """The socket side of one server. Must be made inside the running loop."""

    __slots__ = (
        "_deflates",
        "_emptied",
        "connections",
        "draining",
        "gate",
        "handler",
        "handshaker",
        "loop",
        "next_id",
        "options",
        "outbox",
        "trusted_proxies",
        "wheel",
    )

    def __init__(self, handler: SocketHandler, subprotocols: Subprotocols, options: SocketOptions) -> None:
        self.loop = asyncio.get_running_loop()
        self.handler = handler
        self.options = options
        self.wheel = Wheel(self.loop, tick_ms=options.tick_ms)
        self.outbox = Outbox(self.loop, bytes_max=options.outbox_bytes_max)
        self.gate = Gate(options)
        self.handshaker = Handshaker(options, subprotocols)
        self.trusted_proxies = frozenset(options.trusted_proxies)
        self._deflates: dict[tuple[int, int], Deflate] = {}
        self.connections: set[Connection] = set()
        self.next_id = itertools.count(1).__next__
        self.draining = False
        self._emptied = asyncio.Event()

    def deflate(self, windows: tuple[int, int] | None) -> Deflate | None:
        """Return the shared compressor for the bits of the client's and of our window."""
        if windows is None:
            return None
        found = self._deflates.get(windows)
        if found is None:
            found = self._deflates[windows] = Deflate(in_bits=windows[0], out_bits=windows[1])
        return found

    async def drain(self, *, over_ms: int) -> None:
        """Close every socket with a retryable code, in random order spread over `over_ms`.

        Spreading keeps the other nodes from meeting every client of this one in the same instant.
        """
        self.draining = True
        order = list(self.connections)
        random.shuffle(order)
        steps = min(DRAIN_STEPS_MAX, len(order), max(1, over_ms // 5))
        for step in range(steps):
            for conn in order[step::steps]:
                conn.close(CloseCode.GOING_AWAY, CloseCode.GOING_AWAY.reason)
            await asyncio.sleep(over_ms / 1_000 / steps)
        if self.connections:
            # The wheel aborts what does not answer; a moment more for it, then nothing is left to wait for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.options.close_timeout_ms / 1_000 + 1):
                    await self._emptied.wait()
        for conn in list(self.connections):
            conn.abort()

    def left(self, conn: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(conn)
        if self.draining and not self.connections:
            self._emptied.set()
