"""The command connection to one server: batches of packed commands out, their replies back. Imports `Address` only.

redis-py's pipeline costs some 80 us more for a batch of one, which is what a publish is that nothing else runs beside
(measured; ADR 31). On a cluster redis-py is used, for its knowledge of slots.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis

from realtime.broker.address import Address

Command = tuple[str | bytes | int, ...]
# Called with the replies of a batch, or with the error that left open whether it ran; returns at once.
Answered = Callable[[list[Any] | OSError], None]

GREETING_ERROR: Final = "the server refused"
TIMEOUT_S: Final = 3.0  # a script answers in microseconds; longer means that the server is gone
DEMOTED: Final = ("READONLY", "LOADING", "MASTERDOWN")  # refusals of a server that is no master, or not yet


class Wire(asyncio.Protocol):
    """One connection. Batches are answered in order; another may be sent before the last one was answered.

    It ends by itself when a batch has no answer within TIMEOUT_S, and when the server says that it is no master: behind
    Sentinel the next connection goes to the new one.
    """

    __slots__ = (
        "_batches", "_heard_at", "_loop", "_reader", "_replies", "_timer", "_transport", "address", "closed",
    )  # fmt: skip

    def __init__(self, address: Address) -> None:
        self.address = address
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._batches: deque[tuple[int, Answered]] = deque()
        self._replies: list[Any] = []
        self._heard_at = 0.0  # or when the oldest batch was sent
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(
        cls, address: Address, *, username: str, password: str, db: int, tls: ssl.SSLContext | None, timeout_s: float
    ) -> Wire:
        """Connect and sign in.

        Raises:
            OSError: it cannot be reached, or refuses.
            TimeoutError: it does not answer.
        """
        wire = cls(address)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            if address.path:
                await loop.create_unix_connection(lambda: wire, address.path)
            else:
                await loop.create_connection(lambda: wire, address.host, address.port, ssl=tls)
            greeting: list[Command] = []
            if password:
                greeting.append(("AUTH", username, password) if username else ("AUTH", password))
            if db:
                greeting.append(("SELECT", db))
            try:
                refused = [reply for reply in await wire.run([*greeting, ("PING",)]) if isinstance(reply, Exception)]
            except BaseException:
                wire.abort()
                raise
        if refused:
            wire.abort()
            raise ConnectionRefusedError(f"{address}: {GREETING_ERROR}: {refused[0]}")
        return wire

    def send(self, commands: Sequence[Command], answered: Answered) -> None:
        """Send commands in one write; a refusal is a hiredis.ReplyError among the replies.

        Raises:
            ConnectionResetError: the connection is closed; nothing was sent.
        """
        if self._transport is None or self.closed:
            raise ConnectionResetError(f"{self.address}: the connection is closed")
        packed = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
        if not self._batches:
            self._heard_at = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(TIMEOUT_S, self._watch)
        self._batches.append((len(commands), answered))
        self._transport.write(packed)

    def run(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Do as `send`; the future raises ConnectionError when the connection breaks first."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()

        def answered(replies: list[Any] | OSError) -> None:
            if future.done():
                return
            if isinstance(replies, OSError):
                future.set_exception(replies)
                future.exception()  # whoever asked may have gone
            else:
                future.set_result(replies)

        try:
            self.send(commands, answered)
        except ConnectionResetError as exc:
            future.set_exception(exc)
        return future

    def abort(self) -> None:
        """Give the connection up at once: nothing more is sent on it."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        batches, self._batches = self._batches, deque()
        for _, answered in batches:
            answered(ConnectionResetError(f"{self.address}: the connection broke"))

    def data_received(self, data: bytes) -> None:
        reader, replies = self._reader, self._replies
        self._heard_at = self._loop.time()
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                replies.append(reply)
                if isinstance(reply, Exception) and str(reply).startswith(DEMOTED):
                    self.closed = True  # takes no more; what was sent is still answered
                if len(replies) == self._batches[0][0]:
                    _, answered = self._batches.popleft()
                    done, self._replies = replies, []
                    replies = self._replies
                    answered(done)
        except (hiredis.ProtocolError, IndexError):
            self.abort()  # a reply that nobody asked for, or no reply at all: nothing that follows can be trusted
        if self.closed:
            self.abort()

    def _watch(self) -> None:
        """Give the connection up when the oldest batch has waited too long."""
        self._timer = None
        if not self._batches:
            return
        left = self._heard_at + TIMEOUT_S - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch)
        else:
            self.abort()
