"""A small HTTP/1.1 server on loopback: Google's public keys and OAuth tokens, for Google's own libraries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

HEAD_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; JSON unless the headers say otherwise."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


Respond = Callable[[str, bytes], Awaitable[Answer]]


@contextlib.asynccontextmanager
async def serve(respond: Respond) -> AsyncIterator[str]:
    """Serve `respond(path, body)` on a free port; yield the URL. Each connection carries one request."""
    open_writers: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (item.partition(":") for item in fields)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            answer = await respond(line.split(" ")[1], body)
            extra = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
            writer.write(
                f"HTTP/1.1 {answer.status} X\r\nContent-Type: application/json\r\nConnection: close\r\n"
                f"Content-Length: {len(answer.body)}\r\n{extra}\r\n".encode()
                + answer.body
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            open_writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in list(open_writers):
            writer.close()
        await server.wait_closed()
