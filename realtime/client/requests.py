"""Requests that wait for their answers, in order, so that a new connection can repeat them. Imports errors only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from realtime.client.errors import RequestRefused, TooManyRequests

REQUESTS_MAX = 64  # the server keeps as many for one connection; a phone waits for a handful


@dataclass(slots=True, eq=False)
class Pending:
    """One request and the future of its answer; `key` makes a repeat safe."""

    id: int
    op: str
    data: Any
    key: str | None
    answer: asyncio.Future[Any]

    def frame(self) -> dict[str, Any]:
        """Return the request as it travels."""
        frame: dict[str, Any] = {"id": self.id, "op": self.op, "data": self.data}
        if self.key is not None:
            frame["key"] = self.key
        return frame


class Requests:
    """The table of pending requests of one client; ids are never reused within it."""

    __slots__ = ("_last_id", "_pending")

    def __init__(self) -> None:
        self._last_id = 0
        self._pending: dict[int, Pending] = {}

    def open(self, op: str, data: Any, key: str | None) -> Pending:
        """Note a request.

        Raises:
            TooManyRequests: REQUESTS_MAX are waiting already.
        """
        if len(self._pending) >= REQUESTS_MAX:
            raise TooManyRequests(f"{REQUESTS_MAX} requests are waiting for answers")
        self._last_id += 1
        pending = Pending(self._last_id, op, data, key, asyncio.get_running_loop().create_future())
        self._pending[pending.id] = pending
        return pending

    def renew(self, pending: Pending) -> None:
        """Wait for another answer to the same request: same id, same key."""
        pending.answer = asyncio.get_running_loop().create_future()

    def close(self, pending: Pending) -> None:
        """Forget a request, whatever becomes of it."""
        self._pending.pop(pending.id, None)
        if pending.answer.done():
            if not pending.answer.cancelled():
                pending.answer.exception()  # looked at, so that asyncio does not report it as lost
        else:
            pending.answer.cancel()

    def answer(self, reply: Mapping[str, Any]) -> Pending | None:
        """Give a reply to the request it belongs to, and return that; a late or unknown one is ignored."""
        pending = self._pending.get(reply["re"]) if isinstance(reply["re"], int) else None
        if pending is None or pending.answer.done():
            return None
        if "error" in reply:
            pending.answer.set_exception(RequestRefused(pending.op, reply["error"]))
        else:
            pending.answer.set_result(reply.get("ok"))
        return pending

    def unanswered(self) -> Iterator[Pending]:
        """Return the requests to repeat on a new connection, oldest first."""
        return iter([pending for pending in self._pending.values() if not pending.answer.done()])

    def fail(self, error: Exception) -> None:
        """Answer everything that waits with `error`."""
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(error)
