"""A talkmeter server as a process of its own, and people who use it. Owns starting and ending both."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from realtime.client import Client
from realtime.client.backoff import Backoff

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"talkmeter is ready at (http://\S+)")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
QUICK = Backoff(base_ms=20, cap_ms=200)


class Node:
    """One server process; its output is kept for the message of a failing test."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.url = ""

    @classmethod
    async def start(cls, folder: Path, *arguments: str, dev: bool = True, **settings: object) -> Node:
        """Start `talkmeter serve --dev --port 0` with these TALKMETER_* settings, and wait until it serves."""
        arguments = ("--dev", *arguments) if dev else arguments
        env = {name: value for name, value in os.environ.items() if not name.startswith("TALKMETER_")}
        env |= {f"TALKMETER_{name.upper()}": str(value) for name, value in settings.items()}
        log = folder / f"node-{uuid4().hex[:8]}.log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "realtime", "serve", "--port", "0", *arguments,
                cwd=ROOT, env=env, stdout=out, stderr=out,
            )  # fmt: skip
        node = cls(process, log)
        try:
            await node._wait_ready()
        except BaseException:
            await node.kill()
            raise
        return node

    @property
    def socket_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/v1/socket"

    def output(self) -> str:
        return self.log.read_text()

    async def stop(self) -> int:
        """End it by SIGTERM and return its exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT_S)

    async def kill(self) -> None:
        """End it by SIGKILL: no drain, no goodbye."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def token(self, user: str, **wishes: Any) -> str:
        """Return a development token; `wishes` as in POST /dev/token."""
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"{self.url}/dev/token", json={"user": user, **wishes})
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["token"]
        return token

    def client(self, token: str, device_id: str, **options: Any) -> Client:
        return Client(self.socket_url, token=token, device_id=device_id, backoff=QUICK, **options)

    async def _wait_ready(self) -> None:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not (found := READY.search(self.output())):
                assert self.process.returncode is None, f"the server ended:\n{self.output()}"
                await asyncio.sleep(0.02)
        self.url = found[1]


@contextlib.asynccontextmanager
async def running(folder: Path, *arguments: str, dev: bool = True, **settings: object) -> AsyncIterator[Node]:
    """A node for the length of the block; stopped by SIGTERM unless it has ended before."""
    node = await Node.start(folder, *arguments, dev=dev, **settings)
    try:
        yield node
    finally:
        if node.process.returncode is None:
            await node.stop()


async def until(what: Any, *, timeout_s: float = 20.0) -> Any:
    """Call the async function `what` until it returns something true; return that."""
    async with asyncio.timeout(timeout_s):
        while True:
            value = await what()
            if value:
                return value
            await asyncio.sleep(0.05)
