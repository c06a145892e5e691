"""`cross-node`: a message in on one node, out on another, through the full path of both.

Pairs of members of a channel, one on each of two server processes: the one publishes, the other hears it. Published
means checked, dispatched, appended to the channel's log in Valkey and published there; heard means read by the other
node, encoded and written to its socket. First as much as goes, with some messages in flight for each pair; then
half of that evenly paced, which is where the latencies are taken. Both nodes share the server's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import uvloop

from bench._nodes import Busy, cpu_of, token, two_nodes
from bench._socket import LeanSocket
from bench.harness import Figures, Scenario, ServerProcess, latency_figures

WARM_UP_S = 1.0
DRAIN_S = 10.0  # for what is still under way when a measurement ends


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, default=32, help="pairs of members, one on each node [32]")
    parser.add_argument("--window", type=int, default=4, help="messages in flight for each pair when saturated [4]")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement [4]")
    parser.add_argument("--bytes", type=int, default=200, help="size of a message's text [200]")


@dataclass
class Pair:
    """A publisher on one node and a listener on the other."""

    name: str
    text: str
    sender: LeanSocket | None = None
    listener: LeanSocket | None = None
    window: int = 0  # messages to keep in flight; 0 leaves sending to somebody else
    sent: int = 0
    heard: int = 0
    quiet: asyncio.Event = field(default_factory=asyncio.Event)  # nothing is under way
    latencies_ms: list[float] = field(default_factory=list)

    async def open(self, here: ServerProcess, there: ServerProcess) -> None:
        self.sender = await self._join(here, f"{self.name}-sender", lambda message: None)
        self.listener = await self._join(there, f"{self.name}-listener", self._received)

    async def _join(self, server: ServerProcess, user: str, received: Any) -> LeanSocket:
        socket = await LeanSocket.open(server.socket_url, received)
        await socket.ask("session.sign_in", {"token": token(user), "device_id": "bench"})
        await socket.ask("channel.join", {"channel": self.name, "history": 0})
        return socket

    def send(self) -> None:
        assert self.sender is not None
        self.sent += 1
        self.quiet.clear()
        data = {"at": time.perf_counter(), "text": self.text}
        # The reply is of no interest here; what counts is what comes out at the other end.
        self.sender.request("channel.publish", {"channel": self.name, "data": data})

    def _received(self, message: dict[str, Any]) -> None:
        if message["event"] != "channel.message":
            return
        self.heard += 1
        self.latencies_ms.append((time.perf_counter() - message["data"]["data"]["at"]) * 1e3)
        if self.window and self.sent - self.heard < self.window:
            self.send()
        elif self.sent == self.heard:
            self.quiet.set()

    def close(self) -> None:
        for socket in (self.sender, self.listener):
            if socket is not None:
                socket.close()


async def _saturate(pairs: list[Pair], seconds: float, window: int) -> int:
    """Keep `window` messages in flight for each pair; return how many were heard."""
    before = sum(pair.heard for pair in pairs)
    for pair in pairs:
        pair.window = window
        for _ in range(window):
            pair.send()
    await asyncio.sleep(seconds)
    heard = sum(pair.heard for pair in pairs) - before
    for pair in pairs:
        pair.window = 0
    await _drained(pairs)
    return heard


async def _drained(pairs: list[Pair]) -> None:
    async with asyncio.timeout(DRAIN_S):
        for pair in pairs:
            await pair.quiet.wait()


async def _pace(pairs: list[Pair], seconds: float, rate_per_s: float) -> None:
    """Send evenly over all pairs, whatever comes back."""
    loop = asyncio.get_running_loop()
    began, sent = loop.time(), 0
    while loop.time() - began < seconds:
        due = int((loop.time() - began) * rate_per_s)
        for _ in range(due - sent):
            pairs[sent % len(pairs)].send()
            sent += 1
        await asyncio.sleep(0.001)
    await _drained(pairs)


async def _measure(first: ServerProcess, second: ServerProcess, options: argparse.Namespace) -> Figures:
    pairs = [Pair(f"pair-{number}", "x" * options.bytes) for number in range(options.pairs)]
    try:
        for number, pair in enumerate(pairs):
            nodes = (first, second) if number % 2 else (second, first)
            await pair.open(*nodes)
        await _saturate(pairs, WARM_UP_S, options.window)
        before = cpu_of((first, second))
        with Busy() as busy:
            heard = await _saturate(pairs, options.seconds, options.window)
        spent = cpu_of((first, second)) - before
        per_s = heard / options.seconds
        for pair in pairs:
            pair.latencies_ms.clear()
        with Busy() as half_busy:
            await _pace(pairs, options.seconds, per_s / 2)
        latencies = [latency for pair in pairs for latency in pair.latencies_ms]
    finally:
        for pair in pairs:
            pair.close()
    return {
        "per_s": round(per_s),
        "half_load_per_s": round(len(latencies) / options.seconds),
        **latency_figures(latencies),
        "server_cpu_us_each": round(spent.server / heard * 1e6, 1),
        "valkey_cpu_us_each": round(spent.valkey / heard * 1e6, 1),
        "generator_busy": busy.share,
        "half_load_generator_busy": half_busy.share,
        "lost": sum(pair.sent - pair.heard for pair in pairs),
        "pairs": options.pairs,
    }


def run(options: argparse.Namespace) -> Figures:
    with two_nodes() as (first, second):
        return uvloop.run(_measure(first, second, options))


SCENARIO = Scenario("cross-node", "messages from one node's socket to another node's", add_arguments, run)
