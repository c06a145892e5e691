"""Request -> ack through the full path: schema check, dispatch, a signed-in user. One server core.

The same generator then asks a C server that only sends the bytes back. `per_s` and `limit_per_s` are what came through;
`ratio_to_limit` compares what each did per second of *its own* CPU time, so a generator that is the bottleneck does not
flatter the slower one. Latencies are at half of the saturated rate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

from bench._native import Answer, Bench, Load, bench, median, port_of, process_cpu_s
from bench.harness import Figures, Scenario, cpu_seconds

WARM_UP_S = 1.0
OP = "session.ping"


@dataclass(frozen=True, slots=True)
class Run:
    """One saturated stretch."""

    answer: Answer
    server_cpu_s: float

    @property
    def per_s(self) -> float:
        return self.answer.replies / self.answer.seconds

    @property
    def cpu_us(self) -> float:
        return self.server_cpu_s / self.answer.replies * 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connections", type=int, default=100, help="sockets, each with one request in flight [100]")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement [4]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each server; the median counts [3]")
    parser.add_argument("--bytes", type=int, default=200, help="size of a request [200]")


def request(size: int) -> str:
    """Return a ping of so many bytes."""
    bare = len(json.dumps({"id": 2, "op": OP, "data": {"payload": ""}}, separators=(",", ":")))
    return json.dumps({"id": 2, "op": OP, "data": {"payload": "x" * max(1, size - bare)}}, separators=(",", ":"))


def run(options: argparse.Namespace) -> Figures:
    with bench() as native:
        with native.server() as server:
            sign_ins = native.sign_ins(range(options.connections))
            load = _load(native, port_of(server), options, first=sign_ins)
            ours = _saturate(load, options, lambda: cpu_seconds(server.pid).server)
            paced = load.echo(options.seconds, rate=ours.per_s / 2)
            opened = load.opened
            native.close_loads()
        with native.limit() as (port, pid):
            limit = _saturate(_load(native, port, options), options, lambda: process_cpu_s(pid))
            native.close_loads()
    return {
        "per_s": round(ours.per_s),
        "limit_per_s": round(limit.per_s),
        "ratio_to_limit": round(limit.cpu_us / ours.cpu_us, 3),
        "server_cpu_us_each": round(ours.cpu_us, 2),
        "limit_cpu_us_each": round(limit.cpu_us, 2),
        "server_busy": round(ours.server_cpu_s / ours.answer.seconds, 3),
        "generator_busy": ours.answer.busy,
        "limit_generator_busy": limit.answer.busy,
        "p50_ms": round(paced.p50_us / 1e3, 3),
        "p99_ms": round(paced.p99_us / 1e3, 3),
        "sign_ins_per_s": round(options.connections / opened.seconds),
        "connections": options.connections,
    }


def _load(native: Bench, port: int, options: argparse.Namespace, **more: object) -> Load:
    return native.load(port, connections=options.connections, message=request(options.bytes), **more)


def _saturate(load: Load, options: argparse.Namespace, cpu_s: Callable[[], float]) -> Run:
    """Measure a few times and return the run of median CPU time for each message."""
    load.echo(WARM_UP_S)
    runs: list[Run] = []
    for _ in range(options.rounds):
        before = cpu_s()
        answer = load.echo(options.seconds)
        runs.append(Run(answer, cpu_s() - before))
    middle = median([each.cpu_us for each in runs])
    return next(each for each in runs if each.cpu_us == middle)


SCENARIO = Scenario("echo", "request -> ack for a signed-in user, against a C server's limit", add_arguments, run)
