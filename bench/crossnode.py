"""`cross-node`: a message in on one node, out on another, through the full path of both.

Pairs of members of a channel, one on each of two server processes: the one publishes, the other hears it. Published
means checked, dispatched, appended to the channel's log in Valkey and published there; heard means read by the other
node, encoded and written to its socket. First as much as goes, with one message in flight for each pair (`--window`:
several on one socket would share reads and writes, which messages of different users do not); then half of that (or
`--rate`), one message at a time and evenly, whatever comes back, which is where the latencies are taken: from just
before the send on the one socket to just after the read on the other, of the stretch whose p99 is the middle one. Both
nodes share the server's cores; the generator shares its own with Valkey and PostgreSQL. Every message is counted:
`lost` was not heard within 10 s of the end, `doubled` was heard twice or by the wrong one; a refusal ends the run. What
the tail owes to the machine is shown: `half_load_generator_late_p99_ms` is by how much the generator missed its
moments, `half_load_stolen` the cores that the host of a virtual machine took. A virtual core that goes idle waits for
its host when it is wanted again, which can take longer than all else, so the cores are kept awake by processes that
give way to everybody (bench/native/awake.c); `--idle` measures without.

In turns, the same generator loads the least that two nodes can do through the same Valkey: two processes in C
(bench/native/relay.c) that PUBLISH each message as it is, padded to our events' size, and send on what they are
subscribed to. They know no users, rights, rates or schemas, decode nothing, keep no log (so no offsets, no resume, no
script in Valkey), drop no repeats, and do not survive Valkey's restart. `ratio_to_limit` compares the servers' own CPU
time for each message, Valkey's left out, as `echo` does: the median of the rounds; `limit_p99_ms` is at our half load,
`limit_half_load_p99_ms` at half of the limit's own rate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from bench._native import Answer, Bench, BenchFailed, Load, bench, median, port_of, process_cpu_s, stolen_s
from bench._nodes import cpu_of, two_nodes, valkey_socket
from bench.harness import CpuSeconds, Figures, Scenario, ServerProcess

WARM_UP_S = 1.5  # also lets the news of the joins die down
CHANNEL = "pair-#########"  # the generator puts the pair's number there
COUNTER = "000000000"  # and counts up here
JOIN = json.dumps({"id": 2, "op": "channel.join", "data": {"channel": CHANNEL, "history": 0}})


@dataclass(frozen=True, slots=True)
class Run:
    """One stretch, what the nodes and their engines spent on all of its messages, and what the host took meanwhile."""

    answer: Answer
    cpu: CpuSeconds
    stolen_s: float

    @property
    def per_s(self) -> float:
        """Messages heard a second while it lasted."""
        return self.answer.events / self.answer.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu.server / self.answer.published * 1e6

    @property
    def valkey_cpu_us(self) -> float:
        return self.cpu.valkey / self.answer.published * 1e6


@dataclass(frozen=True, slots=True)
class Subject:
    """Two nodes under load: the generator's connections to them, and their CPU time so far."""

    load: Load
    cpu: Callable[[], CpuSeconds]

    def measure(self, seconds: float, *, in_flight: int = 0, rate: float = 0) -> Run:
        before, stolen_before = self.cpu(), stolen_s()
        answer = self.load.pairs(seconds, in_flight=in_flight, rate=rate)
        return Run(answer, self.cpu() - before, stolen_s() - stolen_before)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, default=128, help="pairs of members, one on each node [128]")
    parser.add_argument("--window", type=int, default=1, help="messages in flight for each pair when saturated [1]")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement [4]")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind; the median counts [5]")
    parser.add_argument("--rate", type=float, default=0, help="messages a second of the paced part [half of all]")
    parser.add_argument("--bytes", type=int, default=200, help="size of a message's text [200]")
    parser.add_argument("--idle", action="store_true", help="let cores go idle when nothing is to do [kept awake]")


def publish(text_bytes: int) -> str:
    """Return a channel.publish with a text of so many bytes."""
    data = {"channel": CHANNEL, "data": {"n": COUNTER, "text": "x" * text_bytes}}
    return json.dumps({"id": 3, "op": "channel.publish", "data": data}, separators=(",", ":"))


def run(options: argparse.Namespace) -> Figures:
    with bench() as native, two_nodes() as nodes, nullcontext() if options.idle else native.awake():
        members = 2 * options.pairs
        words = {"second": JOIN, "message": publish(options.bytes)}
        first, ports = native.sign_ins(range(members)), [port_of(node) for node in nodes]
        load = native.load(ports[0], port2=ports[1], connections=members, first=first, **words)
        ours = Subject(load, lambda: cpu_of(nodes))
        warm = ours.measure(WARM_UP_S, in_flight=options.window)
        if not warm.answer.events:
            raise BenchFailed(f"none of {warm.answer.published} messages was heard")
        event_bytes = round(warm.answer.bytes / warm.answer.events)
        with _limit(native, nodes, members, event_bytes, words) as limit:
            limit.measure(WARM_UP_S, in_flight=options.window)
            runs, limits = [], []
            for _ in range(options.rounds):
                limits.append(limit.measure(options.seconds, in_flight=options.window))
                runs.append(ours.measure(options.seconds, in_flight=options.window))
            rate = options.rate or median([each.per_s for each in runs]) / 2
            limit_rate = median([each.per_s for each in limits]) / 2
            halves, limits_at_ours, limit_halves = [], [], []
            for _ in range(options.rounds):
                limit_halves.append(limit.measure(options.seconds, rate=limit_rate))
                limits_at_ours.append(limit.measure(options.seconds, rate=rate))
                halves.append(ours.measure(options.seconds, rate=rate))
    counted = [warm, *runs, *halves]
    return {
        **_saturated(runs, limits),
        **_half_load(_by_p99(halves), _middle(_by_p99(limits_at_ours))),
        **_limit_half_load(_middle(_by_p99(limit_halves))),
        "lost": sum(each.answer.lost for each in counted),
        "doubled": sum(each.answer.doubled for each in counted),
        "pairs": options.pairs,
    }


@contextmanager
def _limit(
    native: Bench, nodes: Sequence[ServerProcess], members: int, event_bytes: int, words: Mapping[str, str]
) -> Iterator[Subject]:
    """Run the two C processes on the nodes' Valkey; CPU times are theirs, and Valkey's."""
    path = valkey_socket(nodes[0])
    with native.relay(path, event_bytes) as (port, pid), native.relay(path, event_bytes) as (port2, pid2):
        load = native.load(port, port2=port2, connections=members, reply='{"re', **words)
        yield Subject(load, lambda: replace(cpu_of(nodes), server=process_cpu_s(pid) + process_cpu_s(pid2)))


def _saturated(runs: list[Run], limits: list[Run]) -> Figures:
    ratios = [limit.cpu_us / mine.cpu_us for limit, mine in zip(limits, runs, strict=True)]
    return {
        "per_s": round(median([each.per_s for each in runs])),
        "limit_per_s": round(median([each.per_s for each in limits])),
        "ratio_to_limit": round(median(ratios), 3),
        "server_cpu_us_each": round(median([each.cpu_us for each in runs]), 1),
        "limit_cpu_us_each": round(median([each.cpu_us for each in limits]), 1),
        "valkey_cpu_us_each": round(median([each.valkey_cpu_us for each in runs]), 1),
        "limit_valkey_cpu_us_each": round(median([each.valkey_cpu_us for each in limits]), 1),
        "generator_busy": median([each.answer.busy for each in runs]),
    }


def _by_p99(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: run.answer.p99_us)


def _middle(runs: list[Run]) -> Run:
    return runs[(len(runs) - 1) // 2]


def _half_load(halves: list[Run], limit: Run) -> Figures:
    """All figures are of the stretch whose p99 is the middle one; `limit` is the limit's at the same rate."""
    half = _middle(halves)
    seconds = half.answer.seconds
    return {
        "half_load_per_s": round(half.per_s),
        "p50_ms": round(half.answer.p50_us / 1e3, 3),
        "p99_ms": round(half.answer.p99_us / 1e3, 3),
        "p99_least_ms": round(halves[0].answer.p99_us / 1e3, 3),
        "p99_most_ms": round(halves[-1].answer.p99_us / 1e3, 3),
        "limit_p50_ms": round(limit.answer.p50_us / 1e3, 3),
        "limit_p99_ms": round(limit.answer.p99_us / 1e3, 3),
        "half_load_server_busy": round(half.cpu.server / seconds, 3),
        "half_load_limit_busy": round(limit.cpu.server / limit.answer.seconds, 3),
        "half_load_valkey_busy": round(half.cpu.valkey / seconds, 3),
        "half_load_generator_busy": half.answer.busy,
        "half_load_generator_late_p99_ms": round(half.answer.late_p99_us / 1e3, 3),
        "half_load_stolen": round(half.stolen_s / seconds, 3),
    }


def _limit_half_load(half: Run) -> Figures:
    """What the machine does to the least of servers at half of that one's own rate."""
    return {
        "limit_half_load_per_s": round(half.per_s),
        "limit_half_load_p50_ms": round(half.answer.p50_us / 1e3, 3),
        "limit_half_load_p99_ms": round(half.answer.p99_us / 1e3, 3),
    }


SCENARIO = Scenario("cross-node", "messages from one node's socket to another's, against C", add_arguments, run)
