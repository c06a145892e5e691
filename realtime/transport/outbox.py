"""Joined writes: whatever is sent to a socket during one turn of the loop leaves in one write.

Owns the list of sockets with something to send. Must never import the connection; it is duck-typed here, because this
is the innermost loop of a fan-out and each call saved is some 5 % of it (docs/decisions/0021).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from .interface import Encoded

CROWD_SOCKETS = 256  # written in one turn: some 2 ms of nothing but sends
CROWD_PAUSE_S = 0.001  # a round trip to Redis, in which more comes that can leave in the same writes

Pending = tuple[Any, bytes]
"""What is queued for a socket: the last frame, behind what was queued before it (again a Pending, or None).

A chain instead of a list, because all members of a room have the same frames queued: they share one chain, which a
broadcast lengthens once for all of them, and which is joined once for all of them.
"""


class Sending(Protocol):
    """The part of a connection that the outbox works on.

    `plain` is False for a socket that is closing or compresses: such a one must be given frames by `send_frame`.
    """

    pending: Pending | None
    plain: bool
    codec: Any
    outbox: Any
    transport: Any

    def send_frame(self, frame: bytes) -> None: ...
    def overflowed(self, unsent: int) -> None: ...


class Outbox:
    """The sockets of one loop that have something to send. One per server; not thread-safe, like the loop."""

    __slots__ = ("_bytes_max", "_crowded", "_dirty", "_loop", "_scheduled")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, bytes_max: int) -> None:
        self._loop = loop
        self._bytes_max = bytes_max
        self._dirty: list[Sending] = []
        self._scheduled = False
        self._crowded = False  # in the last turn many sockets had several frames each: messages queue

    def add(self, conn: Sending) -> None:
        """Note that `conn.pending` went from None to something."""
        self._dirty.append(conn)
        if not self._scheduled:
            self._schedule()

    def extend(self, conns: list[Sending]) -> None:
        """Note the same for many."""
        self._dirty += conns
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        if self._crowded:
            self._loop.call_later(CROWD_PAUSE_S, self.flush)
        else:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write everything that is queued, one write a socket; close those whose unsent bytes exceed the limit."""
        dirty, self._dirty = self._dirty, []
        self._scheduled = False
        bytes_max = self._bytes_max
        last: Pending | None = None
        data = b""
        several = 0
        for conn in dirty:
            pending = conn.pending
            if pending is None:
                continue  # closed since
            conn.pending = None
            if pending[0] is not None:
                several += 1
            if pending is not last:
                last = pending
                data = pending[1] if pending[0] is None else joined(pending)
            transport = conn.transport
            transport.write(data)
            unsent = transport.get_write_buffer_size()
            if unsent > bytes_max:
                conn.overflowed(unsent)
        self._crowded = several >= CROWD_SOCKETS


def joined(pending: Pending | None) -> bytes:
    """Return the frames of a chain, the oldest first, as one."""
    frames: list[bytes] = []
    while pending is not None:
        pending, frame = pending
        frames.append(frame)
    frames.reverse()
    return b"".join(frames)


def broadcast(conns: Iterable[Any], encoded: Encoded) -> None:
    """Queue one event for many sockets (`Sending`, all of one process), without a call for each.

    The frame of a codec is asked for when the codec changes from one socket to the next, not for each.
    """
    codec: Any = broadcast  # no socket's codec, not even the conformance echo's None
    frame = b""
    alone = before = after = (None, frame)
    conn: Any = None
    dirty: list[Any] = []
    for conn in conns:
        if conn.codec is not codec:
            codec = conn.codec
            frame = encoded.frame(codec)
            alone = before = after = (None, frame)
        pending = conn.pending
        if pending is None:
            if conn.plain:
                conn.pending = alone
                dirty.append(conn)
            else:
                conn.send_frame(frame)
        elif pending is before:
            conn.pending = after  # the same chain as the socket before
        elif conn.plain:
            before = pending
            conn.pending = after = (pending, frame)
        else:
            conn.send_frame(frame)
    if dirty:
        conn.outbox.extend(dirty)
