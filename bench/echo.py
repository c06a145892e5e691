"""Request -> ack through the full path: schema check, dispatch, a signed-in user. One server core.

In turns, the same generator asks a C server that only sends the bytes back. `per_s` and `limit_per_s` are what came
through; `ratio_to_limit` compares what each did per second of *its own* CPU time, so that neither a generator that is
the bottleneck nor a busy machine flatters one of them: it is the median over the rounds, as are the other figures.
Latencies are at half of the saturated rate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

from bench._native import Answer, Load, bench, median, port_of, process_cpu_s
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
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement [2]")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each server; the median counts [5]")
    parser.add_argument("--bytes", type=int, default=200, help="size of a request [200]")


def request(size: int) -> str:
    """Return a ping of so many bytes."""
    bare = len(json.dumps({"id": 2, "op": OP, "data": {"payload": ""}}, separators=(",", ":")))
    return json.dumps({"id": 2, "op": OP, "data": {"payload": "x" * max(1, size - bare)}}, separators=(",", ":"))


def run(options: argparse.Namespace) -> Figures:
    with bench() as native, native.server() as server, native.limit() as (limit_port, limit_pid):
        sign_ins = native.sign_ins(range(options.connections))
        message = request(options.bytes)
        load = native.load(port_of(server), connections=options.connections, message=message, first=sign_ins)
        limit_load = native.load(limit_port, connections=options.connections, message=message)
        ours: list[Run] = []
        limits: list[Run] = []
        load.echo(WARM_UP_S)
        for _ in range(options.rounds):
            limits.append(_saturate(limit_load, options.seconds, lambda: process_cpu_s(limit_pid)))
            ours.append(_saturate(load, options.seconds, lambda: cpu_seconds(server.pid).server))
        per_s = median([each.per_s for each in ours])
        paced = load.echo(options.seconds, rate=per_s / 2)
    ratios = [limit.cpu_us / mine.cpu_us for limit, mine in zip(limits, ours, strict=True)]
    return {
        "per_s": round(per_s),
        "limit_per_s": round(median([each.per_s for each in limits])),
        "ratio_to_limit": round(median(ratios), 3),
        "server_cpu_us_each": round(median([each.cpu_us for each in ours]), 2),
        "limit_cpu_us_each": round(median([each.cpu_us for each in limits]), 2),
        "server_busy": round(median([each.server_cpu_s / each.answer.seconds for each in ours]), 3),
        "generator_busy": median([each.answer.busy for each in ours]),
        "limit_generator_busy": median([each.answer.busy for each in limits]),
        "p50_ms": round(paced.p50_us / 1e3, 3),
        "p99_ms": round(paced.p99_us / 1e3, 3),
        "connections": options.connections,
    }


def _saturate(load: Load, seconds: float, cpu_s: Callable[[], float]) -> Run:
    before = cpu_s()
    answer = load.echo(seconds)
    return Run(answer, cpu_s() - before)


SCENARIO = Scenario("echo", "request -> ack for a signed-in user, against a C server's limit", add_arguments, run)
