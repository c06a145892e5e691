"""Real servers, a handler that records, and a client that can misbehave. For the tests of the transport only."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import apply_mask  # type: ignore[attr-defined]  # what the library's own client uses

from realtime.protocol.envelope import CODECS, JSON_SUBPROTOCOL, Codec
from realtime.transport import frames
from realtime.transport.connection import Connection
from realtime.transport.options import SocketOptions
from realtime.transport.server import ListenOptions, Server

WAIT_S = 20.0  # for anything that should happen; far above what it takes, so that a loaded machine fails no test


@dataclass
class Recorder:
    """A SocketHandler that keeps what it is told, answers by `answer`, and lets a test wait for anything."""

    answer: Callable[[Connection, bytes], None] | None = None
    on_connected: Callable[[Connection], None] | None = None
    sockets: list[Connection] = field(default_factory=list)
    messages: list[tuple[Connection, bytes]] = field(default_factory=list)
    closes: list[tuple[Connection, int]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def connected(self, conn: Connection) -> None:
        self.sockets.append(conn)
        self._changed.set()
        if self.on_connected is not None:
            self.on_connected(conn)

    def received(self, conn: Connection, payload: bytes) -> None:
        self.messages.append((conn, payload))
        self._changed.set()
        if self.answer is not None:
            self.answer(conn, payload)

    def closed(self, conn: Connection, code: int) -> None:
        self.closes.append((conn, code))
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds: looked at after each thing that happens, and now and then besides."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.02)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.messages]

    @property
    def codes(self) -> list[int]:
        return [code for _, code in self.closes]


class News:
    """An event for many sockets; the same payload in every codec. Counts how often a frame was made."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.made: dict[str, bytes] = {}

    def frame(self, codec: Codec) -> bytes:
        if codec.name not in self.made:
            self.made[codec.name] = frames.frame(self.payload, frames.BINARY if codec.binary else frames.TEXT)
        return self.made[codec.name]


def echo(conn: Connection, payload: bytes) -> None:
    conn.send_reply(payload)


def sign_in(conn: Connection) -> None:
    conn.sign_in("somebody")


async def hello(request: Request) -> Response:
    return PlainTextResponse(request.client.host if request.client else "")


class Harness:
    """Servers of one test."""

    def __init__(self) -> None:
        self._servers: list[Server] = []
        self._clients: list[RawClient] = []

    async def serve(
        self, handler: Any, *, listen: ListenOptions | None = None, any_subprotocol: bool = False, **options: Any
    ) -> Server:
        sockets = SocketOptions(require_subprotocol=not any_subprotocol, **options)
        app = Starlette(routes=[Route("/hello", hello)])
        server = Server(app, handler, {} if any_subprotocol else CODECS, listen=listen, sockets=sockets)
        await server.start()
        self._servers.append(server)
        return server

    async def raw(self, server: Server, **upgrade: Any) -> RawClient:
        """An upgraded connection that sends what it is told, right or wrong."""
        client = await RawClient.open(server.port)
        self._clients.append(client)
        await client.upgrade(**upgrade)
        return client

    async def tcp(self, server: Server) -> RawClient:
        """A connection that has sent nothing."""
        client = await RawClient.open(server.port)
        self._clients.append(client)
        return client

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()
        for server in self._servers:
            await server.stop(drain_ms=1)


def client(server: Server, *, subprotocol: str = JSON_SUBPROTOCOL, path: str = "/v1/socket", **kwargs: Any) -> connect:
    """The websockets library's client, without a proxy and compression unless asked for."""
    scheme = "wss" if server.url.startswith("https") else "ws"
    kwargs.setdefault("compression", None)
    url = f"{scheme}://127.0.0.1:{server.port}{path}"
    return connect(url, subprotocols=[subprotocol], proxy=None, **kwargs)  # type: ignore[list-item]


async def closed_with(ws: ClientConnection) -> int:
    """Wait for the server's close and return its code."""
    async with asyncio.timeout(WAIT_S):
        await ws.wait_closed()
    assert ws.close_code is not None
    return ws.close_code


def upgrade_request(
    *,
    path: str = "/v1/socket",
    subprotocol: str | None = JSON_SUBPROTOCOL,
    method: str = "GET",
    version: str = "13",
    key: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade"]
    lines.append(f"Sec-WebSocket-Key: {key or base64.b64encode(os.urandom(16)).decode()}")
    lines.append(f"Sec-WebSocket-Version: {version}")
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def masked(payload: bytes, head: int = 0x81, *, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A client's frame; `head` is its first byte."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2)
    else:
        length = b"\xff" + size.to_bytes(8)
    return bytes((head,)) + length + mask + apply_mask(payload, mask)


class RawClient:
    """A TCP connection and a reader of server frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int = 0, tls: ssl.SSLContext | None = None) -> RawClient:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=sock, ssl=tls, server_hostname="localhost" if tls else None))

    async def request(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request; return status, headers in lower case, and the body."""
        self.writer.write(data)
        async with asyncio.timeout(WAIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(status.split()[1]), headers, body

    async def upgrade(self, **kwargs: Any) -> None:
        status, _, body = await self.request(upgrade_request(**kwargs))
        assert status == 101, body

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame; the server sends no other kind than whole ones."""
        async with asyncio.timeout(WAIT_S):
            head, size = await self.reader.readexactly(2)
            assert head & 0x80
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2))
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8))
            return head & 0x0F, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """Skip to the close frame and return its code."""
        while True:
            opcode, payload = await self.frame()
            if opcode == frames.CLOSE:
                return int.from_bytes(payload[:2]) if payload else frames.NO_STATUS

    async def ended(self) -> None:
        """Wait for the end of the server's side."""
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionError):
                await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()
