"""`resume`: everybody comes back at once, each to exactly what was missed.

Users sign in, note their positions and hang up; chat messages are stored and logged for each of them; then all come
back to the two nodes, some at a time. Timed from the connection's first byte to the last missed event. Every event is
counted: one that does not come, or comes twice or out of order, shows in `lost` and `doubled`.

Then, in the same run, the C generator visits the C server (bench/native/limit.c), as many at a time: connect, upgrade,
send as many bytes as a sign-in has, get them back, hang up. That server checks no token, looks nothing up in
PostgreSQL or Valkey, and has no events to replay; `ratio_to_limit` compares the servers' own CPU time for each visit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import uvloop

from bench._native import Bench, bench, process_cpu_s
from bench._nodes import Busy, cpu_of, token, two_nodes
from bench._socket import LeanSocket
from bench.harness import Figures, Scenario, ServerProcess, latency_figures

SENDERS = 8
LIMIT_WARM_UP_S, LIMIT_S = 0.5, 2.0
EVENTS_TIMEOUT_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=500, help="users who come back [500]")
    parser.add_argument("--missed", type=int, default=10, help="events that each has missed [10]")
    parser.add_argument("--at-once", type=int, default=50, help="connections under way at a time [50]")


@dataclass
class Phone:
    """One user's device: where it stood, and what it got after it came back."""

    user: str
    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    offsets: list[int] = field(default_factory=list)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    took_ms: float = 0.0
    sign_in_ms: float = 0.0

    async def first(self, server: ServerProcess) -> None:
        """Sign in, note the position, hang up."""
        socket = await LeanSocket.open(server.socket_url, lambda message: None)
        ok = await socket.ask("session.sign_in", {"token": token(self.user), "device_id": "bench"})
        self.epoch, self.offset = ok["stream"]["epoch"], ok["stream"]["offset"]
        socket.close()

    async def back(self, server: ServerProcess, missed: int) -> None:
        """Come back with the position and wait for everything that was missed."""

        def received(message: dict[str, Any]) -> None:
            if message["stream"] == "user" and "offset" in message:
                self.offsets.append(message["offset"])
                if len(self.offsets) >= missed:
                    self.complete.set()

        began = time.perf_counter()
        socket = await LeanSocket.open(server.socket_url, received)
        ok = await socket.ask("session.sign_in", self.sign_in())
        self.sign_in_ms = (time.perf_counter() - began) * 1e3
        self.recovered = ok["recovered"]
        if self.recovered:
            async with asyncio.timeout(EVENTS_TIMEOUT_S):
                await self.complete.wait()
        self.took_ms = (time.perf_counter() - began) * 1e3
        socket.close()

    def sign_in(self) -> dict[str, Any]:
        """The data of the sign-in with which it comes back."""
        streams = [{"stream": "user", "epoch": self.epoch, "offset": self.offset}]
        return {"token": token(self.user), "device_id": "bench", "streams": streams}

    def lost(self, missed: int) -> int:
        return len(set(range(self.offset + 1, self.offset + missed + 1)) - set(self.offsets)) if self.recovered else 0

    def doubled(self) -> int:
        """Events too many, or out of order."""
        return sum(later != earlier + 1 for earlier, later in zip(self.offsets, self.offsets[1:], strict=False))


async def _send(server: ServerProcess, phones: list[Phone], missed: int) -> None:
    """Let some senders write `missed` messages to every phone."""

    async def write(number: int) -> None:
        socket = await LeanSocket.open(server.socket_url, lambda message: None)
        data = {"token": token(f"sender-{number}"), "device_id": "bench"}
        await socket.ask("session.sign_in", data)
        for phone in phones[number::SENDERS]:
            for _ in range(missed):
                await socket.ask("chat.send", {"to": phone.user, "kind": "text", "body": "hello"}, key=uuid4().hex)
        socket.close()

    await asyncio.gather(*(write(number) for number in range(SENDERS)))


async def _measure(first: ServerProcess, second: ServerProcess, options: argparse.Namespace) -> Figures:
    nodes = (first, second)
    phones = [Phone(f"phone-{number}") for number in range(options.users)]
    gate = asyncio.Semaphore(options.at_once)

    async def gated(work: Any) -> None:
        async with gate:
            await work

    await asyncio.gather(*(gated(phone.first(nodes[n % 2])) for n, phone in enumerate(phones)))
    await _send(first, phones, options.missed)
    before = cpu_of(nodes)
    began = time.monotonic()
    with Busy() as busy:
        await asyncio.gather(*(gated(phone.back(nodes[(n + 1) % 2], options.missed)) for n, phone in enumerate(phones)))
    took_s = time.monotonic() - began
    spent = cpu_of(nodes) - before
    events = sum(len(phone.offsets) for phone in phones)
    return {
        "per_s": round(len(phones) / took_s),
        "events_per_s": round(events / took_s),
        **latency_figures([phone.took_ms for phone in phones]),
        **latency_figures([phone.sign_in_ms for phone in phones], "sign_in_"),
        "server_cpu_us_each": round(spent.server / len(phones) * 1e6),
        "postgres_cpu_us_each": round(spent.postgres / len(phones) * 1e6),
        "valkey_cpu_us_each": round(spent.valkey / len(phones) * 1e6),
        "generator_busy": busy.share,
        "recovered": sum(phone.recovered for phone in phones),
        "lost": sum(phone.lost(options.missed) for phone in phones),
        "doubled": sum(phone.doubled() for phone in phones),
        "users": options.users,
        "missed": options.missed,
    }


def _limit(native: Bench, at_once: int) -> tuple[float, float]:
    """Return the C server's visits a second, and its CPU microseconds for each."""
    data = Phone("phone-0", epoch="0" * 32).sign_in()
    greeting = json.dumps({"id": 1, "op": "session.sign_in", "data": data}, separators=(",", ":"))
    with native.limit() as (port, pid):
        load = native.load(port, connections=0, opening=at_once, greeting=greeting)
        load.handshakes(LIMIT_WARM_UP_S)
        before = process_cpu_s(pid)
        answer = load.handshakes(LIMIT_S)
        spent = process_cpu_s(pid) - before
        native.close_loads()
    return answer.handshakes / answer.seconds, spent / answer.handshakes * 1e6


def run(options: argparse.Namespace) -> Figures:
    with bench() as native, two_nodes() as (first, second):
        figures = uvloop.run(_measure(first, second, options))
        limit_per_s, limit_cpu_us = _limit(native, options.at_once)
    return figures | {
        "limit_per_s": round(limit_per_s),
        "limit_cpu_us_each": round(limit_cpu_us, 1),
        "ratio_to_limit": round(limit_cpu_us / float(figures["server_cpu_us_each"]), 3),
    }


SCENARIO = Scenario("resume", "many devices come back at once to what they have missed", add_arguments, run)
