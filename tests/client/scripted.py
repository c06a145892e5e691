"""A scripted peer: speaks the envelope and misbehaves on purpose, as no right server does.

It is for what a real server cannot be asked to do: skip an offset, repeat an event, answer with a passing error, close
with each code. What a client does against a right server is tested against the real one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

SUBPROTOCOLS = [Subprotocol("talkmeter.v1.json"), Subprotocol("talkmeter.v1.msgpack")]

Frame = dict[str, Any]
Answer = Callable[["Peer", Frame], "Frame | None"]


@dataclass(eq=False)
class Peer:
    """One connection that a client made."""

    socket: ServerConnection
    sign_in: Frame = field(default_factory=dict)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, frame: Frame) -> None:
        if self.socket.subprotocol == "talkmeter.v1.msgpack":
            await self.socket.send(msgspec.msgpack.encode(frame))
        else:
            await self.socket.send(msgspec.json.encode(frame).decode())

    def read(self, payload: str | bytes) -> Frame:
        frame: Frame = msgspec.json.decode(payload) if isinstance(payload, str) else msgspec.msgpack.decode(payload)
        return frame

    async def event(
        self, name: str, data: Frame | None = None, *, offset: int = 0, epoch: str = "e1", event_id: str = ""
    ) -> None:
        frame: Frame = {"event": name, "stream": "user", "data": data or {}, "v": 1, "ts_ms": 1}
        if offset:
            frame |= {"offset": offset, "epoch": epoch, "event_id": event_id or f"id-{epoch}-{offset}"}
        await self.send(frame)

    async def close(self, code: int, reason: str = "") -> None:
        await self.socket.close(code, reason)

    def cut(self) -> None:
        self.socket.transport.abort()


def _echo(peer: Peer, frame: Frame) -> Frame:
    return {"ok": frame["data"]}


class Script:
    """What the peer does; a test changes its fields.

    Attributes:
        welcome: merged into the sign-in's answer.
        refusals: error bodies for the next sign-ins, used up first.
        answers: op -> function that gives `{"ok": ...}` or `{"error": ...}`, or None to say nothing.
        peers: connections in order; `peer()` waits for the next.
        heard: every frame but sign-ins, in order; `hear()` waits for one.
    """

    def __init__(self) -> None:
        self.url = ""
        self.welcome: Frame = {}
        self.refusals: list[Frame] = []
        self.answers: dict[str, Answer] = {}
        self.heard: list[tuple[Peer, Frame]] = []
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._heard: asyncio.Queue[Frame] = asyncio.Queue()

    async def peer(self, timeout_s: float = 10) -> Peer:
        """Wait for the next connection that has signed in."""
        async with asyncio.timeout(timeout_s):
            return await self._peers.get()

    async def hear(self, timeout_s: float = 10) -> Frame:
        """Wait for the next frame, sign-ins excepted."""
        async with asyncio.timeout(timeout_s):
            return await self._heard.get()

    async def serve(self, socket: ServerConnection) -> None:
        peer = Peer(socket)
        try:
            async for payload in socket:
                await self._answer(peer, peer.read(payload))
        except ConnectionClosed:
            return
        finally:
            peer.closed.set()

    async def _answer(self, peer: Peer, frame: Frame) -> None:
        if frame.get("op") == "session.sign_in":
            peer.sign_in = frame["data"]
            if self.refusals:
                await peer.send({"re": frame["id"], "error": self.refusals.pop(0)})
                return
            await peer.send({"re": frame["id"], "ok": self._welcome(peer)})
            self._peers.put_nowait(peer)
            return
        self.heard.append((peer, frame))
        self._heard.put_nowait(frame)
        if "op" in frame:
            answer = self.answers.get(frame["op"], _echo)(peer, frame)
            if answer is not None:
                await peer.send({"re": frame["id"], **answer})

    def _welcome(self, peer: Peer) -> Frame:
        known = bool(peer.sign_in.get("streams"))
        return {
            "user": {"id": "asha", "name": "Asha", "avatar_url": ""},
            "tenant": "main",
            "roles": [],
            "stream": {"epoch": "e1", "offset": 0},
            "recovered": known,
            "heartbeat_ms": 25_000,
            "server_time_ms": time.time_ns() // 1_000_000,
            "token_expires_ms": time.time_ns() // 1_000_000 + 3_600_000,
            **self.welcome,
        }


@asynccontextmanager
async def scripted_server() -> AsyncIterator[Script]:
    """Serve a Script on a free port of the loopback for the length of the block."""
    script = Script()
    server: Server
    async with serve(script.serve, "127.0.0.1", 0, subprotocols=SUBPROTOCOLS, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        script.url = f"ws://127.0.0.1:{port}/v1/socket"
        yield script


def refusal(code: str, *, retryable: bool = False, next_action: str | None = None, **details: Any) -> Frame:
    """Return the body of an error reply."""
    return {"code": code, "message": code, "retryable": retryable, "next_action": next_action, "details": details}
