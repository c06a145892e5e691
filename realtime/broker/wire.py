"""The command connection to one server: batches of packed commands out, their replies back. Imports `Address` only.

redis-py's pipeline costs some 80 us more for a batch of one, which is what a publish is that nothing else runs beside
(measured; ADR 31). On a cluster redis-py is used, for its knowledge of slots.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any, Final, cast

import hiredis

from realtime.broker.address import Address

Command = tuple[str | bytes | int, ...]

GREETING_ERROR: Final = "the server refused"


class Wire(asyncio.Protocol):
    """One connection. Batches are answered in order; `run` may be called again before the last one was answered."""

    __slots__ = ("_batches", "_reader", "_replies", "_transport", "address", "closed")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.closed = False
        self._reader = hiredis.Reader()
        self._batches: list[tuple[int, asyncio.Future[list[Any]]]] = []
        self._replies: list[Any] = []
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

    def run(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands in one write.

        Returns:
            A future of their replies; a refusal is a hiredis.ReplyError among them. It raises ConnectionError when the
            connection breaks first: then the commands may have run or not.
        """
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if self._transport is None or self.closed:
            answer.set_exception(ConnectionResetError(f"{self.address}: the connection is closed"))
            return answer
        self._batches.append((len(commands), answer))
        self._transport.write(b"".join([hiredis.pack_command(command) for command in commands]))  # type: ignore[arg-type]
        return answer

    def abort(self) -> None:
        """Give the connection up at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        batches, self._batches = self._batches, []
        for _, answer in batches:
            if not answer.done():
                answer.set_exception(ConnectionResetError(f"{self.address}: the connection broke"))
                answer.exception()  # whoever asked may have gone

    def data_received(self, data: bytes) -> None:
        reader, replies = self._reader, self._replies
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                replies.append(reply)
                if len(replies) == self._batches[0][0]:
                    _, answer = self._batches.pop(0)
                    if not answer.done():
                        answer.set_result(replies)
                    self._replies = replies = []
        except (hiredis.ProtocolError, IndexError):
            self.abort()  # a reply that nobody asked for, or no reply at all: nothing that follows can be trusted
