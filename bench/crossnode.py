"""`cross-node`: a message in on one node, out on another, through the full path of both.

Pairs of members of a channel, one on each of two server processes: the one publishes, the other hears it. Published
means checked, dispatched, appended to the channel's log in Valkey and published there; heard means read by the other
node, encoded and written to its socket. First as much as goes, with some messages in flight for each pair; then
half of that, one message at a time and evenly, whatever comes back, which is where the latencies are taken: from just
before the send on the one socket to just after the read on the other. Both nodes share the server's cores; the
generator shares its own with Valkey and PostgreSQL. Every message is counted: `lost` was not heard within 10 s of the
end, `doubled` was heard twice or by the wrong one; a refusal ends the run. What the tail owes to the machine is shown:
`half_load_generator_late_p99_ms` is by how much the generator missed its moments, `half_load_stolen` the cores that the
host of a virtual machine took.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass

from bench._native import Answer, Load, bench, port_of, stolen_s
from bench._nodes import cpu_of, two_nodes
from bench.harness import CpuSeconds, Figures, Scenario, ServerProcess

WARM_UP_S = 1.5  # also lets the news of the joins die down
CHANNEL = "pair-#########"  # the generator puts the pair's number there
COUNTER = "000000000"  # and counts up here
JOIN = {"id": 2, "op": "channel.join", "data": {"channel": CHANNEL, "history": 0}}


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, default=32, help="pairs of members, one on each node [32]")
    parser.add_argument("--window", type=int, default=4, help="messages in flight for each pair when saturated [4]")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement [4]")
    parser.add_argument("--bytes", type=int, default=200, help="size of a message's text [200]")


def publish(text_bytes: int) -> str:
    """Return a channel.publish with a text of so many bytes."""
    data = {"channel": CHANNEL, "data": {"n": COUNTER, "text": "x" * text_bytes}}
    return json.dumps({"id": 3, "op": "channel.publish", "data": data}, separators=(",", ":"))


def run(options: argparse.Namespace) -> Figures:
    with bench() as native, two_nodes() as nodes:
        load = native.load(
            port_of(nodes[0]),
            port2=port_of(nodes[1]),
            connections=2 * options.pairs,
            first=native.sign_ins(range(2 * options.pairs)),
            second=json.dumps(JOIN),
            message=publish(options.bytes),
        )
        load.pairs(WARM_UP_S, in_flight=options.window)
        full = _measure(load, nodes, options.seconds, in_flight=options.window)
        half = _measure(load, nodes, options.seconds, rate=full.per_s / 2)
    return {
        "per_s": round(full.per_s),
        "half_load_per_s": round(half.per_s),
        "p50_ms": round(half.answer.p50_us / 1e3, 3),
        "p99_ms": round(half.answer.p99_us / 1e3, 3),
        "server_cpu_us_each": round(full.cpu.server / full.answer.published * 1e6, 1),
        "valkey_cpu_us_each": round(full.cpu.valkey / full.answer.published * 1e6, 1),
        "generator_busy": full.answer.busy,
        "half_load_generator_busy": half.answer.busy,
        "half_load_generator_late_p99_ms": round(half.answer.late_p99_us / 1e3, 3),
        "half_load_server_busy": round(half.cpu.server / half.answer.seconds, 3),
        "half_load_valkey_busy": round(half.cpu.valkey / half.answer.seconds, 3),
        "half_load_stolen": round(half.stolen_s / half.answer.seconds, 3),
        "lost": full.answer.lost + half.answer.lost,
        "doubled": full.answer.doubled + half.answer.doubled,
        "pairs": options.pairs,
    }


def _measure(load: Load, nodes: Sequence[ServerProcess], seconds: float, *, in_flight: int = 0, rate: float = 0) -> Run:
    before, stolen_before = cpu_of(nodes), stolen_s()
    answer = load.pairs(seconds, in_flight=in_flight, rate=rate)
    return Run(answer, cpu_of(nodes) - before, stolen_s() - stolen_before)


SCENARIO = Scenario("cross-node", "messages from one node's socket to another node's", add_arguments, run)
