"""One channel, many members: `channel.publish` to every member's socket, through the full path. One server core.

A publish is checked, dispatched, appended to the channel's log in Valkey, published there, read back, encoded once, and
written to each member. One publisher has one message in flight; several have `--in-flight` each, so that messages queue
as they do in a busy room. In turns, a C server takes the same messages and sends as many bytes to as many sockets: with
one send for each delivery when one message is in flight, joined in one send for each socket and turn of the loop
when there are more. Rates are deliveries a second; the ratio compares
deliveries per second of each server's own CPU time (see `echo`). Valkey runs on the generator's core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

from bench._native import Answer, Load, bench, median, port_of, process_cpu_s
from bench.harness import Figures, Scenario, cpu_seconds, resident_kb

WARM_UP_S = 1.5  # also lets the news of a thousand joins die down
CHANNEL = "bench"
COUNTER = "000000000"  # the generator counts up in it
JOIN = {"id": 2, "op": "channel.join", "data": {"channel": CHANNEL, "history": 0}}
EVENT_BYTES_GUESS = 350
QUEUED = 8  # in flight of each of several publishers; a connection may have 64 waiting


@dataclass(frozen=True, slots=True)
class Run:
    """One stretch with the window full."""

    answer: Answer
    server_cpu_s: float
    valkey_cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        return self.answer.events / self.answer.seconds

    @property
    def cpu_us(self) -> float:
        return self.server_cpu_s / self.answer.events * 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--members", type=int, default=1_000, help="sockets in the channel [1000]")
    parser.add_argument("--publishers", type=int, default=1, help="sockets that publish [1]")
    parser.add_argument("--in-flight", type=int, default=0, help="messages in flight of each [1; 8 for several]")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement [2]")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each server; the median counts [5]")
    parser.add_argument("--bytes", type=int, default=200, help="size of a publish [200]")


def publish(size: int) -> str:
    """Return a channel.publish of so many bytes."""

    def message(text: str) -> str:
        data = {"channel": CHANNEL, "data": {"n": COUNTER, "text": text}}
        return json.dumps({"id": 3, "op": "channel.publish", "data": data}, separators=(",", ":"))

    return message("x" * max(1, size - len(message(""))))


def run(options: argparse.Namespace) -> Figures:
    options.in_flight = options.in_flight or (1 if options.publishers == 1 else QUEUED)
    joined = ["join"] if options.publishers * options.in_flight > 1 else []
    words = {"connections": options.members, "second": json.dumps(JOIN), "message": publish(options.bytes)}
    ours: list[Run] = []
    limits: list[Run] = []
    with bench() as native, native.server() as server:
        rss_kb = resident_kb(server.pid)
        load = native.load(port_of(server), first=native.sign_ins(range(options.members)), **words)
        kb_per_socket = (resident_kb(server.pid) - rss_kb) / options.members
        warm = load.fan_out(WARM_UP_S, publishers=options.publishers, in_flight=options.in_flight)
        event_bytes = round(warm.bytes / max(1, warm.events + warm.replies)) if warm.events else EVENT_BYTES_GUESS
        with native.limit(*joined, str(event_bytes)) as (limit_port, limit_pid):
            limit_load = native.load(limit_port, **words)
            for _ in range(options.rounds):
                limits.append(_measure(limit_load, options, lambda: (process_cpu_s(limit_pid), 0.0)))
                ours.append(_measure(load, options, lambda: _cpu(server.pid)))
    ratios = [limit.cpu_us / mine.cpu_us for limit, mine in zip(limits, ours, strict=True)]
    return {
        "per_s": round(median([each.per_s for each in ours])),
        "limit_per_s": round(median([each.per_s for each in limits])),
        "ratio_to_limit": round(median(ratios), 3),
        "per_cpu_s": round(1e6 / median([each.cpu_us for each in ours])),
        "server_cpu_us_each": round(median([each.cpu_us for each in ours]), 3),
        "limit_cpu_us_each": round(median([each.cpu_us for each in limits]), 3),
        "valkey_cpu_us_per_publish": round(median([e.valkey_cpu_s / e.answer.published * 1e6 for e in ours]), 1),
        "publishes_per_s": round(median([each.answer.published / each.answer.seconds for each in ours])),
        "server_busy": round(median([each.server_cpu_s / each.answer.seconds for each in ours]), 3),
        "generator_busy": median([each.answer.busy for each in ours]),
        "p50_ms": round(median([each.answer.p50_us for each in ours]) / 1e3, 3),
        "p99_ms": round(median([each.answer.p99_us for each in ours]) / 1e3, 3),
        "kb_per_socket": round(kb_per_socket, 2),
        "event_bytes": event_bytes,
        "members": options.members,
        "publishers": options.publishers,
        "in_flight": options.in_flight,
    }


def _measure(load: Load, options: argparse.Namespace, cpu_s: Callable[[], tuple[float, float]]) -> Run:
    before, valkey_before = cpu_s()
    answer = load.fan_out(options.seconds, publishers=options.publishers, in_flight=options.in_flight)
    after, valkey_after = cpu_s()
    return Run(answer, after - before, valkey_after - valkey_before)


def _cpu(pid: int) -> tuple[float, float]:
    spent = cpu_seconds(pid)
    return spent.server, spent.valkey


SCENARIO = Scenario("fanout", "one channel to many sockets, against a C server's limit", add_arguments, run)
