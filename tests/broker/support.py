"""What the broker's tests share: sockets that remember what they were sent, servers of their own, bounded waits."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import redis.asyncio as aioredis

from realtime.broker import Outgoing
from realtime.embedded import find_valkey
from realtime.encoded import EncodedEvent
from realtime.protocol.envelope import JSON, MSGPACK, Codec
from realtime.transport.frames import payload_of

WAIT_S = 20.0


async def until(true: Callable[[], bool | Awaitable[bool]], what: str, timeout_s: float = WAIT_S) -> None:
    """Wait until something holds; fail after a bounded time."""
    deadline = time.monotonic() + timeout_s
    while True:
        holds = true()
        if not isinstance(holds, bool):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        await asyncio.sleep(0.01)


class Recorder:
    """A socket that keeps what it is sent: the far end of the hub, as the transport is in the product."""

    _ids = 0

    def __init__(self, codec: Codec = JSON) -> None:
        Recorder._ids += 1
        self.id = Recorder._ids
        self.codec: Any = codec
        self.principal: Any = None
        self.session: Any = None
        self.frames: list[bytes] = []
        self.closed_with: int | None = None

    @property
    def remote(self) -> str:
        return "test"

    @property
    def authorization(self) -> str | None:
        return None

    def sign_in(self, principal: Any) -> None:
        self.principal = principal

    def send_reply(self, payload: bytes) -> None:
        raise AssertionError("the hub sends events only")

    def send_frame(self, frame: bytes) -> None:
        assert self.closed_with is None, "sent after close"
        self.frames.append(frame)

    def send_event(self, encoded: Any) -> None:
        assert isinstance(encoded, EncodedEvent)
        self.send_frame(encoded.frame(self.codec))

    def close(self, code: int, reason: str = "") -> None:
        self.closed_with = code

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def heard_ms_ago(self) -> int:
        return 0

    def events(self) -> list[dict[str, Any]]:
        if self.codec is MSGPACK:
            return [msgspec.msgpack.decode(payload_of(frame)) for frame in self.frames]
        return [json.loads(payload_of(frame)) for frame in self.frames]

    def offsets(self) -> list[int]:
        return [event["offset"] for event in self.events() if "offset" in event]


def outgoing(user_id: int, number: int, *, event: str = "call.incoming", event_id: str = "") -> Outgoing:
    return Outgoing(event_id or uuid4(), user_id, event, number, 1_700_000_000_000 + number, b'{"n":%d}' % number)


class Valkey:
    """A server of a test's own, that may be killed, restarted, stopped for a while and emptied."""

    def __init__(self, folder: Path, *arguments: str, port: int = 0) -> None:
        self.folder = folder
        self.port = port
        self.socket = folder / f"valkey-{port}.sock"
        self._arguments = arguments
        self.password = ""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.socket}"

    def start(self) -> Valkey:
        with (self.folder / f"valkey-{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + WAIT_S
        while not self._answers():
            assert time.monotonic() < deadline, "Valkey did not start"
            time.sleep(0.01)
        return self

    def command(self) -> list[str]:
        where = ["--bind", "127.0.0.1"] if self.port else ["--unixsocket", str(self.socket)]
        arguments = ["--port", str(self.port), "--dir", str(self.folder), "--save", "", *where, *self._arguments]
        return [find_valkey(), *arguments]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        family, address = (
            (socket.AF_INET, ("127.0.0.1", self.port)) if self.port else (socket.AF_UNIX, str(self.socket))
        )
        with socket.socket(family) as sock:
            sock.settimeout(1)
            try:
                sock.connect(address)
                sock.sendall(f"AUTH {self.password}\r\n".encode() if self.password else b"PING\r\n")
                return sock.recv(16).startswith(b"+OK" if self.password else b"+PONG")
            except OSError:
                return False

    def client(self) -> aioredis.Redis:
        return aioredis.from_url(self.url)


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on, each with its cluster bus port (10,000 above) free and valid too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        port = 20_000 + port % 10_000
        with socket.socket() as main, socket.socket() as bus:
            try:
                main.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="tm-broker-"))
