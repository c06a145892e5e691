"""What is under way: a value that comes later, for those who need not wait for it in order.

Imports nothing of the project. The broker returns it for a publish that has been queued for Redis; dispatch takes it
from a handler as "my part is done, in order; answer when this is there" and begins the connection's next request.

It is no asyncio future, because each of those takes a handle and a callback of the loop's to tell that it is done: the
broker tells all that a batch of replies settles in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T", covariant=True)
U = TypeVar("U")


class Later(Generic[T]):
    """A value that somebody promised, and how to read it. One listener; lives on one event loop.

    Args:
        read: makes the value of what it is settled with; quick, and does not fail.
    """

    __slots__ = ("_error", "_listener", "_raw", "_read", "done")

    def __init__(self, read: Callable[[Any], T]) -> None:
        self.done = False
        self._read = read
        self._raw: Any = None
        self._error: Exception | None = None
        self._listener: Callable[[Later[Any]], None] | None = None

    # Who promised it, within a bounded time.

    def settle(self, raw: Any) -> None:
        """Give the value; nothing happens when it was given before."""
        if not self.done:
            self._raw = raw
            self._tell()

    def fail(self, error: Exception) -> None:
        """Give an error instead."""
        if not self.done:
            self._error = error
            self._tell()

    # Who asked for it.

    def then(self, more: Callable[[T], U]) -> Later[U]:
        """Return the same, read further. It takes the listener's place."""
        read = self._read
        further: Later[U] = Later(lambda raw: more(read(raw)))
        self.on_settled(further._follow)
        return further

    def on_settled(self, listener: Callable[[Later[Any]], None]) -> None:
        """Call `listener(self)` from where it is settled; at once when it is."""
        if self._listener is not None:
            raise RuntimeError("a Later has one listener")
        self._listener = listener
        if self.done:
            self._tell()

    def value(self) -> T:
        """Return the value when it is there, or raise the error that came instead."""
        if self._error is not None:
            # One error may be that of thousands who wait; each raise would add its frames to what the last has left.
            raise self._error.with_traceback(None)
        return self._read(self._raw)

    def __await__(self) -> Generator[Any, None, T]:
        if not self.done:
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.on_settled(lambda _: None if told.done() else told.set_result(None))
            yield from told
        return self.value()

    def _follow(self, first: Later[Any]) -> None:
        self._raw, self._error = first._raw, first._error
        self._tell()

    def _tell(self) -> None:
        self.done = True
        listener = self._listener
        if listener is None:
            return
        try:
            listener(self)
        except Exception as exc:  # its trouble must not become that of whoever keeps promises
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the listener of a Later failed", "exception": exc}
            )
