"""A load balancer of the simplest kind: one address, and a target that can be changed or cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards TCP to `target` (an http URL). New connections go to the target of that moment."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/socket"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self.cut()

    async def cut(self) -> None:
        """Break every connection."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            place = urlsplit(self.target)
            with contextlib.suppress(OSError):
                up_reader, up_writer = await asyncio.open_connection(place.hostname, place.port)
                try:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(_pump(reader, up_writer))
                        both.create_task(_pump(up_reader, writer))
                except* (OSError, _Ended):
                    pass
                finally:
                    up_writer.transport.abort()
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)


class _Ended(Exception):
    """One side closed: both go."""


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    raise _Ended
