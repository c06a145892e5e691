"""A lean WebSocket client for load generators: JSON in text frames, nothing else. Imports nothing of the project.

It trusts the server (no fragments, no masks from it), and masks with a key of zeros, which the protocol allows and
costs nothing: what is measured is the server.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import urlsplit

SUBPROTOCOL: Final = "talkmeter.v1.json"
OPEN_TIMEOUT_S: Final = 30.0
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A


class SocketClosed(Exception):
    """The server closed the socket."""


class LeanSocket(asyncio.Protocol):
    """One connection; `received(message)` is called with each event's bytes, replies settle their requests."""

    def __init__(self, received: Callable[[dict[str, Any]], None]) -> None:
        self._received = received
        self._buffer = bytearray()
        self._upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next_id = 0
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, url: str, received: Callable[[dict[str, Any]], None]) -> LeanSocket:
        """Connect and upgrade."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, socket = await loop.create_connection(lambda: cls(received), str(parts.hostname), parts.port or 80)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {parts.path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        ]
        assert socket._transport is not None
        socket._transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            await socket._upgraded
        return socket

    def request(self, op: str, data: dict[str, Any], key: str | None = None) -> asyncio.Future[dict[str, Any]]:
        """Send a request; the future gives the whole reply."""
        self._next_id += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._next_id] = answer
        message: dict[str, Any] = {"id": self._next_id, "op": op, "data": data}
        if key is not None:
            message["key"] = key
        self._send(TEXT, json.dumps(message, separators=(",", ":")).encode())
        return answer

    async def ask(self, op: str, data: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        """Send a request and return what was answered.

        Raises:
            RuntimeError: it was refused.
        """
        reply = await self.request(op, data, key)
        if "ok" not in reply:
            raise RuntimeError(f"{op} was refused: {reply}")
        return cast(dict[str, Any], reply["ok"])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        waiters: list[asyncio.Future[Any]] = [self._upgraded, *self._waiting.values()]
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(SocketClosed("the server closed the socket"))
                waiter.exception()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded.done():
            head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head.split(b"\r\n", 1)[0]:
                self.close()
                return
            self._buffer = bytearray(rest)
            self._upgraded.set_result(None)
        self._frames()

    def _frames(self) -> None:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            size, head = buffer[at + 1], 2
            if size == 126:
                head = 4
            elif size == 127:
                head = 10
            if len(buffer) - at < head:
                break
            if head > 2:
                size = int.from_bytes(buffer[at + 2 : at + head])
            if len(buffer) - at < head + size:
                break
            self._frame(buffer[at], bytes(buffer[at + head : at + head + size]))
            at += head + size
        del buffer[:at]

    def _frame(self, kind: int, payload: bytes) -> None:
        if kind == PING:
            self._send(PONG, payload)
        elif kind == CLOSE:
            self.close()
        elif kind == TEXT:
            message = json.loads(payload)
            if "re" in message:
                waiter = self._waiting.pop(message["re"], None)
                if waiter is not None and not waiter.done():
                    waiter.set_result(message)
            else:
                self._received(message)

    def _send(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        head = bytes((kind, 0x80 | size)) if size < 126 else bytes((kind, 0x80 | 126)) + size.to_bytes(2)
        assert size < 1 << 16
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(head + b"\0\0\0\0" + payload)
