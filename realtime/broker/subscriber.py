"""The lean reader: connections of its own that only listen, one for each server that holds channels of ours.

Owns subscribing, noticing that a connection is dead, coming back with backoff, and saying which channels may have
missed something meanwhile. Must never import the hub or a feature.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
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


class Subscriber:
    """Keeps a set of channels subscribed.

    Args:
        backend: says at which server a channel is.
        message: called with (channel, payload) for each message, from the connection's read.
        restored: called with channels that were without subscription for a while and have it again, or got their
            first one too late for the caller of `subscribe`.
    """

    __slots__ = (
        "_backend", "_channels", "_links", "_lost", "_message", "_restored", "_stale", "_task", "_waiters", "_wake",
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
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(channel, []).append(waiter)
        try:
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                await waiter
        except TimeoutError:
            if channel in self._channels:
                self._lost.add(channel)
            return False
        return True

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Stop listening; messages under way are still delivered."""
        dropped: dict[Link, list[str]] = {}
        for channel in channels:
            self._stale.discard(channel)
            self._lost.discard(channel)
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
        if self._links.get(link.address) is link and link.closed:
            del self._links[link.address]
        for channel in channels:
            if self._channels.get(channel, self) is link:
                self._channels[channel] = None
                self._stale.add(channel)
                self._lost.add(channel)
        self._wake.set()

    async def _keep(self) -> None:
        """Give every channel without a link one; come back with backoff when that fails."""
        delay = BACKOFF_MIN_S
        while True:
            await self._wait()
            if not self._stale:
                continue
            await asyncio.sleep(0)  # one turn, so that all channels which are asked for in this one go out together
            try:
                if delay > BACKOFF_MIN_S or self._lost:
                    await self._backend.refresh()
                await self._place(list(self._stale))
                delay = BACKOFF_MIN_S
            except (Unavailable, OSError, TimeoutError):
                self._give_up_waiting()
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # jitter: all nodes lost it at the same moment
                delay = min(delay * 2, BACKOFF_MAX_S)
                self._wake.set()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(LAYOUT_CHECK_S):  # not wait_for: before 3.12 it may swallow a cancel
                await self._wake.wait()
        except TimeoutError:
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

    def _give_up_waiting(self) -> None:
        """Nobody can be reached: let callers of `subscribe` go on, they will hear from `restored`."""
        self._lost |= self._stale
        for channel in self._stale:
            for waiter in self._waiters.pop(channel, ()):
                if not waiter.done():
                    waiter.set_exception(TimeoutError())

    async def _place(self, channels: list[str]) -> None:
        for address, names in (await self._backend.servers(channels)).items():
            link = self._links.get(address) or await self._connect(address)
            wanted = [name for name in names if self._channels.get(name, self) is None]  # not dropped meanwhile
            for name in wanted:
                self._channels[name] = link
            self._stale.difference_update(names)
            link.subscribe(wanted)

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
        self._links[address] = link
        return link
