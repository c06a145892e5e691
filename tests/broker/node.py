"""A node as a process of its own, to be killed: a hub behind a line protocol instead of WebSocket.

python -m tests.broker.node REDIS_URL      prints the port it listens on
device -> {"user": 7, "epoch": "...", "offset": 12}     epoch may be empty
node   -> {"opened": {"recovered": true, "epoch": "...", "offset": 15}}, then events; {"close": 4004} before it hangs up
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

import uvloop

from realtime.broker import Broker, Position
from realtime.hub import Hub
from realtime.protocol.envelope import JSON
from realtime.transport.frames import payload_of

OUTBOX_BYTES_MAX: Final = 64 * 1024


class LineSocket:
    """What the hub needs of a socket, over a stream: a slow reader is closed as the transport does it."""

    codec: Any = JSON
    principal: Any = None
    session: Any = None
    remote = "test"
    authorization = None

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.id = id(self)
        self._writer = writer

    def tell(self, message: bytes) -> None:
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > OUTBOX_BYTES_MAX:
            transport.abort()
            return
        self._writer.write(message + b"\n")

    def send_event(self, encoded: Any) -> None:
        self.tell(payload_of(encoded.frame(JSON)))

    def send_frame(self, frame: bytes) -> None:
        self.tell(payload_of(frame))

    def close(self, code: int, reason: str = "") -> None:
        self.tell(json.dumps({"close": code}).encode())
        self._writer.close()

    def sign_in(self, principal: Any) -> None: ...

    def send_reply(self, payload: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def heard_ms_ago(self) -> int:
        return 0


async def main(url: str) -> None:
    broker = Broker(url)
    hub = Hub(broker)
    await hub.start()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conn = LineSocket(writer)
        try:
            ask = json.loads(await reader.readline())
            position = Position(ask["epoch"], ask["offset"]) if ask["epoch"] else None
            replay = await hub.open_stream(conn, ask["user"], position)
            answer = {"recovered": replay.recovered, "epoch": replay.epoch, "offset": replay.offset}
            conn.tell(json.dumps({"opened": answer}).encode())
            hub.flow(conn)
            await reader.read()
        except OSError:
            pass  # the device is gone
        finally:
            hub.detach(conn)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
