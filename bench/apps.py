"""`apps`: N mobile apps through the real socket. Half of them are callers, half are hosts, and each pair has its calls.

Sign in, presence, directory, invite, ring, accept, media reports, short pulses, chat both ways, a gift, hang-up, and
again until the time is over. The generator is this process, on cores of its own; it tells how busy it was. Beside those
who talk, `--standing` apps are signed in and wait, as most apps of a real evening do (a C program holds their sockets).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvloop

from bench._native import BenchFailed, Load, bench, sockets_max, unlimited
from bench.harness import (
    ROOT,
    CpuSeconds,
    Figures,
    Scenario,
    ServerProcess,
    cpu_seconds,
    latency_figures,
    pin,
    raise_open_files_limit,
    server_process,
    split_cores,
)
from realtime.client import Client, ClientError, Event, Subscription

COINS = 100_000  # enough for every call of a run
PRICE_COINS = 2
AWAITED = ("call.incoming", "call.ringing", "call.accepted", "call.connected")
SIGN_INS_AT_ONCE = 20  # a node takes no more of them at a time from one address than it wants to
EVENT_TIMEOUT_MS = 20_000
PROOF_EVERY_S = 2.0  # the clients' 5 s, made shorter as the calls are
IDLE_S = 2.0
PAUSE_S = 0.2  # between two calls of a pair
AUDIT_TIMEOUT_S = 60


@dataclass(slots=True)
class Recorder:
    """Latencies by operation in milliseconds, and counts; one for all apps."""

    latencies_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    async def timed(self, name: str, work: Awaitable[Any]) -> Any:
        """Await `work` and note how long that took."""
        began = time.perf_counter()
        result = await work
        self.latencies_ms[name].append((time.perf_counter() - began) * 1000)
        return result

    def clear(self) -> None:
        self.latencies_ms.clear()
        self.counts.clear()


class App:
    """One mobile app: a client, and what it was told."""

    def __init__(self, url: str, user: str, token: str, recorder: Recorder, codec: Any) -> None:
        self.user = user
        self.recorder = recorder
        self.client = Client(url, token=token, device_id="phone", codec=codec, app_version="bench")
        self.client.on("*", self._count)
        self.inbox: Subscription = self.client.events(*AWAITED)

    async def sign_in(self) -> None:
        await self.recorder.timed("sign_in", self.client.connect())

    async def ask(self, op: str, **data: Any) -> dict[str, Any]:
        self.recorder.counts["requests"] += 1
        answer: dict[str, Any] = await self.recorder.timed(op, self.client.request(op, data))
        return answer

    async def told(self, name: str, call_id: str = "") -> Event:
        """Wait for the next event of that name, of that call."""
        while True:
            event = await self.inbox.next(EVENT_TIMEOUT_MS)
            if event.name == name and call_id in ("", event.data["call"]["call_id"]):
                return event

    def _count(self, event: Event) -> None:
        if event.name.startswith("client."):
            return
        self.recorder.counts["events"] += 1
        if event.name == "call.charged":
            self.recorder.counts["charges"] += 1
        elif event.name == "chat.message" and event.data["message"]["to"] == self.user:
            sent = float(event.data["message"]["body"])  # the sender's clock is ours: one process plays both
            self.recorder.latencies_ms["chat_delivery"].append((time.perf_counter() - sent) * 1000)


class Pair:
    """A caller and a host, and their calls one after the other."""

    def __init__(self, caller: App, host: App, options: argparse.Namespace) -> None:
        self.caller = caller
        self.host = host
        self.recorder = caller.recorder
        self._call_s: float = options.call_s
        self._chat_every_s: float = options.chat_every_s

    async def play(self, until: float) -> None:
        """Call again and again until the monotonic time `until`."""
        while time.monotonic() < until:
            try:
                await self._one_call()
                self.recorder.counts["calls"] += 1
            except (ClientError, TimeoutError) as error:
                self.recorder.counts["failed_calls"] += 1
                self.recorder.counts[f"failed_{getattr(error, 'code', 'timeout')}"] += 1
            await asyncio.sleep(PAUSE_S)

    async def _one_call(self) -> None:
        caller, host = self.caller, self.host
        await caller.ask("hosts.list", tags=["bench"], limit=20)
        began = time.perf_counter()
        call_id = (await caller.ask("call.invite", host=host.user, media="voice"))["call"]["call_id"]
        await host.told("call.incoming", call_id)
        self.recorder.latencies_ms["ring"].append((time.perf_counter() - began) * 1000)
        await caller.told("call.ringing", call_id)
        await host.ask("call.accept", call_id=call_id)
        await caller.told("call.accepted", call_id)
        helpers = [asyncio.create_task(self._prove(app, call_id)) for app in (caller, host)]
        try:
            await caller.told("call.connected", call_id)
            helpers += [asyncio.create_task(self._chat(one, other)) for one, other in ((caller, host), (host, caller))]
            await asyncio.sleep(self._call_s / 2)
            await caller.ask("gift.send", to=host.user, gift_id="rose", call_id=call_id)
            await asyncio.sleep(self._call_s / 2)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await caller.ask("call.hang_up", call_id=call_id, sent_ms_ago=0)

    async def _prove(self, app: App, call_id: str) -> None:
        while True:
            await app.ask("call.media", call_id=call_id, state="connected")
            await asyncio.sleep(PROOF_EVERY_S)

    async def _chat(self, app: App, to: App) -> None:
        while True:
            await app.ask("chat.send", to=to.user, kind="text", body=repr(time.perf_counter()))
            await asyncio.sleep(self._chat_every_s)


async def _make_apps(server: ServerProcess, options: argparse.Namespace, recorder: Recorder) -> list[Pair]:
    """Make users and their tokens by the development route; nothing of that is measured."""
    at_once = asyncio.Semaphore(SIGN_INS_AT_ONCE)

    async def make(http: httpx.AsyncClient, user: str, **wishes: Any) -> App:
        async with at_once:
            answer = await http.post(f"{server.url}/dev/token", json={"user": user, "name": user.title(), **wishes})
        answer.raise_for_status()
        return App(server.socket_url, user, answer.json()["token"], recorder, options.codec)

    profile = {"host": True, "price_coins": PRICE_COINS, "pulse_ms": options.pulse_ms, "tags": ["bench"]}
    numbers = range(options.apps // 2)
    async with httpx.AsyncClient(timeout=30) as http:
        callers = await asyncio.gather(*(make(http, f"caller-{number}", coins=COINS) for number in numbers))
        hosts = await asyncio.gather(*(make(http, f"host-{number}", **profile) for number in numbers))
    return [Pair(caller, host, options) for caller, host in zip(callers, hosts, strict=True)]


async def _at_once(works: Iterable[Callable[[], Awaitable[Any]]], limit: int) -> None:
    """Run all, `limit` at a time."""
    gate = asyncio.Semaphore(limit)

    async def run(work: Callable[[], Awaitable[Any]]) -> None:
        async with gate:
            await work()

    await asyncio.gather(*(run(work) for work in works))


async def _play(server: ServerProcess, options: argparse.Namespace) -> Figures:
    recorder = Recorder()
    pairs = await _make_apps(server, options, recorder)
    apps = [app for pair in pairs for app in (pair.caller, pair.host)]
    try:
        began = time.monotonic()
        await _at_once([app.sign_in for app in apps], SIGN_INS_AT_ONCE)
        figures: Figures = {"apps": len(apps), "sign_in_per_s": round(len(apps) / (time.monotonic() - began), 1)}
        figures |= latency_figures(recorder.latencies_ms["sign_in"], "sign_in_")
        await asyncio.gather(*(pair.host.ask("presence.set", status="online") for pair in pairs))
        figures |= await _idle_figures(server)
        recorder.clear()
        before, own = cpu_seconds(server.pid), time.process_time()
        began = time.monotonic()
        await asyncio.gather(*(pair.play(began + options.seconds) for pair in pairs))
        took_s = time.monotonic() - began
        spent = cpu_seconds(server.pid) - before
        figures |= _figures(recorder, spent, took_s, (time.process_time() - own) / took_s)
    finally:
        await asyncio.gather(*(app.client.close() for app in apps))
    return figures


async def _idle_figures(server: ServerProcess) -> Figures:
    """Share of a core that the signed-in apps cost while nobody does anything; part of every figure after it."""
    before = cpu_seconds(server.pid)
    await asyncio.sleep(IDLE_S)
    spent = cpu_seconds(server.pid) - before
    return {
        "idle_server_busy": round(spent.server / IDLE_S, 3),
        "idle_postgres_busy": round(spent.postgres / IDLE_S, 3),
    }


def _figures(recorder: Recorder, spent: CpuSeconds, took_s: float, busy: float) -> Figures:
    counts = recorder.counts
    requests = max(1, counts["requests"])
    figures: Figures = {
        "seconds": round(took_s, 2),
        "calls": counts["calls"],
        "failed_calls": counts["failed_calls"],
        "charges": counts["charges"],
        "requests": counts["requests"],
        "requests_per_s": round(requests / took_s, 1),
        "events_per_s": round(counts["events"] / took_s, 1),
        "server_cpu_us_each": round(spent.server / requests * 1e6, 1),
        "postgres_cpu_us_each": round(spent.postgres / requests * 1e6, 1),
        "valkey_cpu_us_each": round(spent.valkey / requests * 1e6, 1),
        "server_busy": round(spent.server / took_s, 3),
        "generator_busy": round(busy, 3),
    }
    figures |= {name: count for name, count in sorted(counts.items()) if name.startswith("failed_")}
    for name, samples in sorted(recorder.latencies_ms.items()):
        figures |= latency_figures(samples, f"{name.replace('.', '_')}_")
    return figures


def _audit(server: ServerProcess) -> str:
    """Let the server's own auditor prove the books that the run has left."""
    command = [sys.executable, "-m", "realtime", "audit", "--data-dir", str(server.data_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=AUDIT_TIMEOUT_S, check=False)
    return "right" if done.returncode == 0 else "WRONG"


def run(options: argparse.Namespace) -> Figures:
    """Start a server, play, and audit its books."""
    raise_open_files_limit()
    server_cores, own_cores = split_cores()
    workers = ("--workers", str(options.workers)) if options.workers > 1 else ()
    room = sockets_max(options.workers) - options.apps
    if options.standing > room:
        raise BenchFailed(f"{options.workers} workers have room for {room} standing apps")
    settings = unlimited(connections_max=sockets_max(1)) if options.standing else None
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(server_process(*workers, settings=settings, cores=server_cores))
        standing: list[Load] = []
        if options.standing:
            standing += stack.enter_context(bench()).open_idle(server, options.standing, "standing")
        pin(own_cores)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = {"standing": options.standing} | runner.run(_play(server, options))
        for load in standing:
            load.echo(0.001, rate=1)  # raises BenchFailed when one of its sockets was closed
        figures["books"] = _audit(server)
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the scenario's options."""
    parser.add_argument("--apps", type=int, default=60, help="mobile apps, half of them hosts (default: %(default)s)")
    parser.add_argument("--standing", type=int, default=0, help="signed-in apps that wait (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=15, help="length of the run (default: %(default)s)")
    parser.add_argument("--call-s", type=float, default=3, help="length of a call (default: %(default)s)")
    parser.add_argument("--chat-every-s", type=float, default=0.5, help="pause between messages (default: %(default)s)")
    parser.add_argument("--pulse-ms", type=int, default=1_000, help="pulse of the meter (default: %(default)s)")
    parser.add_argument("--codec", choices=("json", "msgpack"), default="json")
    parser.add_argument("--workers", type=int, default=1, help="hub processes (default: %(default)s)")


SCENARIO = Scenario(
    name="apps",
    summary="N mobile apps in calls: sign in, presence, ring, media, pulses, chat, gifts, hang-up",
    add_arguments=add_arguments,
    run=run,
)
