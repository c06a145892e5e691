"""Who wants which events: handlers called in order, bounded buffers to iterate. Imports the client's modules only."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

from realtime.client.errors import ClientClosed, EventsLost
from realtime.client.wire import Event

EVENTS_MAX = 10_000  # buffered for one reader; more than a resume can replay at once

EventHandler = Callable[[Event], object]

_log = logging.getLogger(__name__)


class Subscription:
    """Events of some names, in order, as an async iterator. Close it, or use it in a `with` block.

    Iteration ends when the client is closed. It raises EventsLost when its buffer was full.
    """

    def __init__(self, names: Iterable[str], *, forget: Callable[[Subscription], None], size_max: int) -> None:
        self._names = frozenset(names)
        self._forget = forget
        self._size_max = size_max
        self._events: deque[Event] = deque()
        self._lost = False
        self._ended = False
        self._arrived = asyncio.Event()

    def offer(self, event: Event) -> None:
        """Take an event if it is wanted."""
        if self._names and event.name not in self._names:
            return
        if len(self._events) >= self._size_max:
            self._lost = True
        else:
            self._events.append(event)
        self._arrived.set()

    def end(self) -> None:
        """Let the reader finish what is buffered, and then stop."""
        self._ended = True
        self._arrived.set()

    async def next(self, timeout_ms: int | None = None) -> Event:
        """Return the next event.

        Raises:
            TimeoutError: none came in time.
            EventsLost: some were dropped before this one.
            ClientClosed: the client was closed and nothing is left.
        """
        async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
            while not self._events:
                if self._lost:
                    self._lost = False
                    raise EventsLost(f"more than {self._size_max} events waited to be read")
                if self._ended:
                    raise ClientClosed("the client was closed")
                self._arrived.clear()
                await self._arrived.wait()
        return self._events.popleft()

    def close(self) -> None:
        """Want nothing more."""
        self._forget(self)
        self.end()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.next()
        except ClientClosed:
            raise StopAsyncIteration from None

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Audience:
    """All handlers and subscriptions of one client."""

    __slots__ = ("_handlers", "_subscriptions")

    def __init__(self) -> None:
        self._handlers: dict[str, list[EventHandler]] = {}
        self._subscriptions: list[Subscription] = []

    def on(self, name: str, handler: EventHandler) -> Callable[[], None]:
        """Call `handler` for every event of that name (`*`: all); returns a function that ends it."""
        handlers = self._handlers.setdefault(name, [])
        handlers.append(handler)

        def off() -> None:
            if handler in handlers:
                handlers.remove(handler)

        return off

    def subscribe(self, names: Iterable[str], size_max: int = EVENTS_MAX) -> Subscription:
        """Buffer events of these names (none: all) from now on."""
        subscription = Subscription(names, forget=self._drop, size_max=size_max)
        self._subscriptions.append(subscription)
        return subscription

    def hand(self, event: Event) -> None:
        """Give an event to everyone who wants it. A handler that fails is logged and disturbs nobody else."""
        for handler in (*self._handlers.get(event.name, ()), *self._handlers.get("*", ())):
            try:
                handler(event)
            except Exception:
                _log.exception("a handler of %s failed", event.name)
        for subscription in tuple(self._subscriptions):
            subscription.offer(event)

    def end(self) -> None:
        """Tell all subscriptions that nothing more comes."""
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()

    def _drop(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
