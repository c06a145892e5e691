"""One connection to Redis that only listens: RESP in, calls to its owner out. Imports only `Address` of the project.

Pings keep telling that the other end is there; a silent connection is given up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol, cast

import hiredis

from realtime.broker.address import Address

SUBSCRIBE_BATCH_MAX: Final = 500  # channels of one command
PING_S: Final = 2.0
SILENCE_S: Final = 6.0  # three unanswered pings: the connection is cut

_MESSAGES: Final = frozenset((b"message", b"smessage"))
_SUBSCRIBED: Final = frozenset((b"subscribe", b"ssubscribe"))
_UNSUBSCRIBED: Final = frozenset((b"unsubscribe", b"sunsubscribe"))


class LinkOwner(Protocol):
    """Who hears what comes over a link; called from the connection's read, so each method returns at once."""

    def link_message(self, channel: bytes, payload: bytes) -> None: ...

    def link_confirmed(self, link: Link, channels: list[str]) -> None: ...

    def link_dropped(self, link: Link, channels: Iterable[str]) -> None: ...


class Link(asyncio.Protocol):
    """A connection in subscriber's mode."""

    __slots__ = (
        "_asked", "_channels", "_dropping", "_greeting", "_heard_at", "_owner", "_reader", "_sharded", "_timer",
        "_transport", "address", "closed",
    )  # fmt: skip

    def __init__(self, address: Address, owner: LinkOwner, *, sharded: bool) -> None:
        self.address = address
        self.closed = False
        self._owner = owner
        self._sharded = sharded
        self._reader = hiredis.Reader()
        self._channels: set[str] = set()  # confirmed
        self._asked: deque[str] = deque()  # subscriptions under way, in the order of their answers
        self._dropping: set[str] = set()
        self._greeting: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = time.monotonic()

    def has(self, channel: str) -> bool:
        """Whether the server has confirmed the channel's subscription."""
        return channel in self._channels

    async def greet(self, username: str, password: str) -> None:
        """Sign in and see that the other end answers.

        Raises:
            OSError: it refused, or the connection broke.
        """
        self._greeting = asyncio.get_running_loop().create_future()
        if password:
            self._send("AUTH", *((username,) if username else ()), password)
        self._send("PING")
        await self._greeting
        self._tick()

    def subscribe(self, channels: list[str]) -> None:
        self._asked.extend(channels)
        if self._sharded:  # one command must not cross slots
            for channel in channels:
                self._dropping.discard(channel)
                self._send("SSUBSCRIBE", channel)
            return
        for start in range(0, len(channels), SUBSCRIBE_BATCH_MAX):
            self._send("SUBSCRIBE", *channels[start : start + SUBSCRIBE_BATCH_MAX])

    def unsubscribe(self, channels: list[str]) -> None:
        self._channels.difference_update(channels)
        if self._sharded:
            for channel in channels:
                self._dropping.add(channel)
                self._send("SUNSUBSCRIBE", channel)
            return
        for start in range(0, len(channels), SUBSCRIBE_BATCH_MAX):
            self._send("UNSUBSCRIBE", *channels[start : start + SUBSCRIBE_BATCH_MAX])

    def abort(self) -> None:
        """Give the connection up at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._fail_greeting(
            exc if isinstance(exc, OSError) else ConnectionResetError("the server closed the connection")
        )
        channels = {*self._channels, *self._asked}
        self._channels.clear()
        self._asked.clear()
        self._owner.link_dropped(self, channels)

    def data_received(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        reader = self._reader
        reader.feed(data)
        confirmed: list[str] = []
        try:
            while (item := reader.gets()) is not False:
                if type(item) is list and item[0] in _MESSAGES:
                    self._owner.link_message(item[1], item[2])
                else:
                    self._answer(item, confirmed)
        except hiredis.ProtocolError:
            self.abort()  # nothing that follows can be trusted
        if confirmed:
            self._owner.link_confirmed(self, confirmed)

    def _answer(self, item: Any, confirmed: list[str]) -> None:
        if isinstance(item, list):
            if item[0] in _SUBSCRIBED:
                channel = self._asked.popleft()
                self._channels.add(channel)
                confirmed.append(channel)
            elif item[0] in _UNSUBSCRIBED and self._sharded and item[1] is not None:
                self._unsubscribed(item[1].decode())
        elif isinstance(item, hiredis.ReplyError):
            self._refused(item)
        elif item == b"PONG" and self._greeting is not None and not self._greeting.done():
            self._greeting.set_result(None)

    def _unsubscribed(self, channel: str) -> None:
        if channel in self._dropping:
            self._dropping.discard(channel)
        elif channel in self._channels:  # the cluster moved its slot to another node
            self._channels.discard(channel)
            self._owner.link_dropped(self, [channel])

    def _refused(self, error: Exception) -> None:
        if self._greeting is not None and not self._greeting.done():
            self._fail_greeting(ConnectionRefusedError(f"{self.address} refused: {error}"))
        elif self._sharded and self._asked:
            self._owner.link_dropped(self, [self._asked.popleft()])  # MOVED, CLUSTERDOWN
        else:
            self.abort()

    def _fail_greeting(self, error: OSError) -> None:
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(error)

    def _tick(self) -> None:
        if time.monotonic() - self._heard_at > SILENCE_S:
            self.abort()
            return
        self._send("PING")
        self._timer = asyncio.get_running_loop().call_later(PING_S, self._tick)

    def _send(self, *command: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub means any length
