"""A TCP proxy whose link can be cut without anybody being told, as a network does it, and closed with a word."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

CHUNK: Final = 64 * 1024


class Proxy:
    """Forwards connections to `127.0.0.1:port` until it is told not to; takes TLS off when a context is given."""

    def __init__(self, target_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._target_port = target_port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def cut(self) -> None:
        """Let nothing through, close nothing: packets disappear."""
        self._open.clear()

    def heal(self) -> None:
        """Let new connections through. What was under way when the link was cut has long been given up."""
        for writer in self._writers:
            writer.transport.abort()
        self._open.set()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._open.wait()
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(inner_writer)
            await asyncio.gather(self._pump(reader, inner_writer), self._pump(inner_reader, writer))
            self._writers.discard(inner_writer)
        except OSError:
            pass  # one end is gone, and so is the other
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.transport.abort()
