"""The lean reader: connections of its own that only listen, one for each server that holds channels of ours.

Owns subscribing, noticing that a connection is dead, coming back with backoff, and saying which channels may have
missed something meanwhile. Must never import the hub or a feature.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from realtime.broker.address import Address
from realtime.broker.backend import CONNECT_TIMEOUT_S, Backend
from realtime.broker.link import Link
from realtime.protocol.errors import Unavailable

SUBSCRIBE_TIMEOUT_S: Final = 2.0  # then a sign-in goes on without; the channel is caught up when the link is back
BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
LAYOUT_CHECK_S: Final = 10.0  # how long a demoted master may go on being listened to, behind Sentinel

Message = Callable[[bytes, bytes], None]


@dataclass(frozen=True, slots=True)
class _Backoff:
    """How long a server is left alone, and until when (monotonic seconds)."""

    delay_s: float
    until: float


NOWHERE: Final = Address()  # stands for the layout itself, when nobody tells it
NO_BACKOFF: Final = _Backoff(0.0, 0.0)


class Subscriber:
    """Keeps a set of channels subscribed.

    Args:
        backend: says at which server a channel is.
        message: called with (channel, payload) for each message, from the connection's read.
        restored: called with channels that were without subscription for a while and have it again, or got their
            first one too late for the caller of `subscribe`.
    """

    __slots__ = (
        "_backend", "_backoffs", "_channels", "_links", "_lost", "_message", "_moved", "_restored", "_stale", "_task",
        "_waiters", "_wake",
    )  # fmt: skip

    def __init__(self, backend: Backend, *, message: Message, restored: Callable[[list[str]], None]) -> None:
        self._backend = backend
        self._message = message
        self._restored = restored
        self._channels: dict[str, Link | None] = {}
        self._stale: set[str] = set()  # wanted, without a link
        self._lost: set[str] = set()  # may have missed messages since they were last confirmed
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._links: dict[Address, Link] = {}
        self._backoffs: dict[Address, _Backoff] = {}
        self._moved = False  # the layout may have changed: ask for it before the next placing
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="broker-subscriber")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._channels.clear()
        for link in list(self._links.values()):
            link.abort()
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.cancel()

    @property
    def connected(self) -> bool:
        """Whether every wanted channel has its subscription."""
        return not self._stale and not self._lost

    async def subscribe(self, channel: str) -> bool:
        """Subscribe, and wait until the server has confirmed it.

        Returns:
            False when that did not happen in time; the channel stays wanted, and `restored` will name it.
        """
        link = self._channels.get(channel)
        if link is not None and link.has(channel):
            return True
        if channel not in self._channels:
            self._channels[channel] = None
            self._stale.add(channel)
            self._wake.set()
        elif channel in self._lost:
            return False  # the link is down: do not make a sign-in wait for it
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.setdefault(channel, []).append(waiter)
        timer = loop.call_later(SUBSCRIBE_TIMEOUT_S, _time_out, waiter)  # a third of what asyncio.timeout costs
        try:
            await waiter
        except TimeoutError:
            if channel in self._channels:
                self._lost.add(channel)
            return False
        finally:
            timer.cancel()
        return True

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Stop listening; messages under way are still delivered."""
        dropped: dict[Link, list[str]] = {}
        for channel in channels:
            self._stale.discard(channel)
            self._lost.discard(channel)
            self._release(channel)
            link = self._channels.pop(channel, None)
            if link is not None:
                dropped.setdefault(link, []).append(channel)
        for link, names in dropped.items():
            link.unsubscribe(names)

    # What links tell (LinkOwner).

    def link_message(self, channel: bytes, payload: bytes) -> None:
        self._message(channel, payload)

    def link_confirmed(self, link: Link, channels: list[str]) -> None:
        restored = []
        for channel in channels:
            if self._channels.get(channel) is not link:
                continue
            self._backoffs.pop(link.address, None)
            for waiter in self._waiters.pop(channel, ()):
                if not waiter.done():
                    waiter.set_result(None)
            if channel in self._lost:
                self._lost.discard(channel)
                restored.append(channel)
        if restored:
            self._restored(restored)

    def link_dropped(self, link: Link, channels: Iterable[str]) -> None:
        """The link no longer has these channels: it broke, or their slot lives elsewhere now."""
        dropped = [channel for channel in channels if self._channels.get(channel) is link]
        for channel in dropped:
            self._channels[channel] = None
        self._stale.update(dropped)
        self._lost.update(dropped)
        self._moved = True
        if link.closed:
            if self._links.get(link.address) is link:
                del self._links[link.address]
        else:
            self._put_off(link.address, dropped)  # the server is there, and cannot or will not
        self._wake.set()

    async def _keep(self) -> None:
        """Give every channel without a link one, until cancelled."""
        while True:
            await self._wait()
            if not self._stale:
                continue
            await asyncio.sleep(0)  # one turn, so that all channels which are asked for in this one go out together
            try:
                if self._moved:
                    await self._backend.refresh()
                    self._moved = False
                placed = await self._backend.servers(list(self._stale))
                self._backoffs.pop(NOWHERE, None)
            except Unavailable:
                self._put_off(NOWHERE, list(self._stale))
                continue
            for address, names in placed.items():
                await self._place(address, names)

    async def _place(self, address: Address, names: list[str]) -> None:
        """Subscribe channels at their server, unless it has failed a moment ago."""
        if self._backoffs.get(address, NO_BACKOFF).until > time.monotonic():
            self._give_up_waiting(names)
            return
        try:
            link = self._links.get(address) or await self._connect(address)
        except (OSError, TimeoutError):
            self._moved = True
            self._put_off(address, names)
            return
        wanted = [name for name in names if self._channels.get(name, self) is None]  # not dropped meanwhile
        for name in wanted:
            self._channels[name] = link
        self._stale.difference_update(names)
        link.subscribe(wanted)

    def _put_off(self, address: Address, channels: Iterable[str]) -> None:
        """Leave a server alone for a while; twice as long each time, and not for all nodes alike."""
        last = self._backoffs.get(address, NO_BACKOFF).delay_s
        delay = min(max(2 * last, BACKOFF_MIN_S), BACKOFF_MAX_S)
        self._backoffs[address] = _Backoff(delay, time.monotonic() + delay * random.uniform(0.5, 1.0))
        self._give_up_waiting(channels)

    def _give_up_waiting(self, channels: Iterable[str]) -> None:
        """Let callers of `subscribe` go on, they will hear from `restored`."""
        for channel in channels:
            if channel in self._channels:
                self._lost.add(channel)
            self._release(channel)

    def _release(self, channel: str) -> None:
        for waiter in self._waiters.pop(channel, ()):
            _time_out(waiter)

    async def _wait(self) -> None:
        """Wait for something to do: channels to place, the end of a backoff, or the next look at the layout."""
        pause = LAYOUT_CHECK_S
        if self._stale:
            now = time.monotonic()
            pause = min((one.until for one in self._backoffs.values() if one.until > now), default=now) - now
        try:
            async with asyncio.timeout(pause):  # not wait_for: before 3.12 it may swallow a cancel
                await self._wake.wait()
        except TimeoutError:
            if not self._stale:
                self._backoffs.clear()
                await self._leave_demoted()
        self._wake.clear()

    async def _leave_demoted(self) -> None:
        """Behind Sentinel, leave a server that is no longer the master."""
        if self._backend.url.kind != "sentinel" or not self._links:
            return
        try:
            wanted = await self._backend.servers(["any"])
        except Unavailable:
            return  # asked again in LAYOUT_CHECK_S; the link is as good as ever meanwhile
        for address, link in list(self._links.items()):
            if address not in wanted:
                link.abort()

    async def _connect(self, address: Address) -> Link:
        url = self._backend.url
        link = Link(address, self, sharded=self._backend.sharded)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if address.path:
                await loop.create_unix_connection(lambda: link, address.path)
            else:
                await loop.create_connection(lambda: link, address.host, address.port, ssl=url.tls)
            try:
                await link.greet(url.username, url.password)
            except BaseException:
                link.abort()
                raise
        if link.closed:  # between its greeting and this moment; nobody would notice it later
            raise ConnectionResetError(f"{address} hung up")
        self._links[address] = link
        return link


def _time_out(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
