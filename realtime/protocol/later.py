"""What is under way: a value that comes later, for those who need not wait for it in order.

Imports nothing of the project. The broker returns it for a publish that has been queued for Redis; dispatch takes it
from a handler as "my part is done, in order; answer when this is there" and begins the connection's next request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T", covariant=True)
U = TypeVar("U")


class Later(Generic[T]):
    """A future of something raw, and how to read it.

    Args:
        future: settled by whoever does the work, within a bounded time.
        read: makes the value of the future's result; quick, and does not fail.
    """

    __slots__ = ("_read", "future")

    def __init__(self, future: asyncio.Future[Any], read: Callable[[Any], T]) -> None:
        self.future = future
        self._read = read

    def then(self, more: Callable[[T], U]) -> Later[U]:
        """Return the same, read further."""
        read = self._read
        return Later(self.future, lambda raw: more(read(raw)))

    def value(self) -> T:
        """Return the value of a future that is done, or raise what it raised."""
        return self._read(self.future.result())

    async def wait(self) -> T:
        """Wait for the value."""
        return self._read(await self.future)
