"""`python -m bench.peers`: the same work on talkmeter and on others, one table and one plot.

Each server has one core, the generator another. Rates are per second of the server's CPU time, so that a generator
that is the bottleneck, or a busy machine, does not decide; the wall clock's rates are in the JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench._native import Bench, BenchFailed, bench, median
from bench.harness import cpu_seconds, machine
from bench.peers.report import plot, table
from bench.peers.servers import Peer, Running, peers

WARM_UP_S = 1.0
ROUNDS = 3
ECHO_CONNECTIONS = 100
PUBLISHERS = 16  # each with this many messages in flight:
IN_FLIGHT = 8


@dataclass(slots=True)
class Row:
    """What one peer did; None where it cannot. Rates per second of the server's CPU time."""

    name: str
    note: str
    echo_per_cpu_s: float | None = None
    fanout_per_cpu_s: float | None = None
    queued_per_cpu_s: float | None = None
    kb_per_socket: float | None = None
    echo_per_s: float | None = None
    fanout_per_s: float | None = None
    queued_per_s: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement [2]")
    parser.add_argument("--members", type=int, default=1_000, help="sockets in the channel [1000]")
    parser.add_argument("--only", default="", help="peers whose names hold this")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of bench-peers.* [docs]")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    with bench() as native, tempfile.TemporaryDirectory(prefix="tm-peers-") as folder:
        for queued in (False, True):
            for peer in peers(native, Path(folder), connections=options.members, queued=queued):
                if options.only.lower() not in peer.name.lower():
                    continue
                row = next((row for row in rows if row.name == peer.name), None) or Row(peer.name, peer.note)
                if row not in rows:
                    rows.append(row)
                try:
                    _measure(native, peer, row, options, queued=queued)
                except BenchFailed as exc:
                    row.note = f"not measured: {exc}".splitlines()[0]
                finally:
                    native.close_loads()
                print(f"{peer.name}: {asdict(row)}", file=sys.stderr)
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine(), "members": options.members, "rows": [asdict(row) for row in rows]}
    (options.out / "bench-peers.json").write_text(json.dumps(facts, indent=1) + "\n")
    (options.out / "bench-peers.md").write_text(table(facts))
    (options.out / "bench-peers.svg").write_text(plot(facts))
    print(table(facts))
    return 0


def _measure(native: Bench, peer: Peer, row: Row, options: argparse.Namespace, *, queued: bool) -> None:
    with peer.start as running:
        if not queued and peer.echo is not None:
            load = native.load(running.port, connections=ECHO_CONNECTIONS, message=peer.echo, **peer.opening)
            load.echo(WARM_UP_S)
            rates, walls = [], []
            for _ in range(ROUNDS):
                before = _cpu_s(running)
                answer = load.echo(options.seconds)
                rates.append(answer.replies / (_cpu_s(running) - before))
                walls.append(answer.replies / answer.seconds)
            row.echo_per_cpu_s, row.echo_per_s = median(rates), median(walls)
            native.close_loads()
        rss = _rss_kb(running)
        words = {**peer.opening, **peer.members}
        load = native.load(running.port, connections=options.members, message=peer.publish, **words)
        grown = (_rss_kb(running) - rss) / options.members
        publishers, in_flight = (PUBLISHERS, IN_FLIGHT) if queued else (1, 1)
        load.fan_out(WARM_UP_S, publishers=publishers, in_flight=in_flight)
        rates, walls = [], []
        for _ in range(ROUNDS):
            before = _cpu_s(running)
            answer = load.fan_out(options.seconds, publishers=publishers, in_flight=in_flight)
            rates.append(answer.events / (_cpu_s(running) - before))
            walls.append(answer.events / answer.seconds)
        if queued:
            row.queued_per_cpu_s, row.queued_per_s = median(rates), median(walls)
        else:
            row.fanout_per_cpu_s, row.fanout_per_s = median(rates), median(walls)
            row.kb_per_socket = grown


def _cpu_s(running: Running) -> float:
    """CPU time of the server alone: talkmeter's engines have cores of their own."""
    return cpu_seconds(running.pid).server


def _rss_kb(running: Running) -> float:
    return psutil.Process(running.pid).memory_info().rss / 1024


if __name__ == "__main__":
    sys.exit(main())
