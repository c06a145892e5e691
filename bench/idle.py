"""What signed-in sockets cost that do nothing: memory each, and the processor's share for their heartbeats.

`per_s` and the CPU times each are those of signing in, once for each socket.

`kb_per_socket` is the growth of the server processes' resident memory over so many sockets, each a user of its own and
a followed stream; Valkey's and the kernel's share are apart. More sockets than one process may open files need
`--workers`. `limit_kb_per_socket` is the same of a C server (bench/native/limit.c) that knows nobody: as many upgraded
sockets, opened by the same generator in the same run, each no more than a struct in it. `ratio_to_limit` is the one
by the other.
"""

from __future__ import annotations

import argparse
import time

import psutil

from bench._native import SOCKETS_PER_GENERATOR, Bench, BenchFailed, bench, sockets_max
from bench.harness import Figures, Scenario, ServerProcess, cpu_seconds

WARM_SOCKETS = 300  # before the first look, so that pools and caches are not counted as sockets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sockets", type=int, default=5_000, help="idle signed-in sockets [5000]")
    parser.add_argument("--workers", type=int, default=1, help="hub processes of the server [1]")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long they idle [10]")
    parser.add_argument("--heartbeat-ms", type=int, default=25_000, help="the server's heartbeat [25000]")


def run(options: argparse.Namespace) -> Figures:
    room = sockets_max(options.workers)
    if options.sockets > room:
        raise BenchFailed(f"{options.sockets} sockets need more than {options.workers} workers: {room} is their most")
    settings = {"connections_max": room // options.workers, "heartbeat_ms": options.heartbeat_ms}
    with bench() as native, native.server("--workers", str(options.workers), **settings) as server:
        list(native.open_idle(server, WARM_SOCKETS, "warm"))
        before, valkey_before = _resident_kb(server)
        began, cpu = time.monotonic(), cpu_seconds(server.pid)
        loads = list(native.open_idle(server, options.sockets, "idle"))
        opened_s, opening = time.monotonic() - began, cpu_seconds(server.pid) - cpu
        after, valkey_after = _resident_kb(server)
        cpu = cpu_seconds(server.pid)
        time.sleep(options.seconds)
        idle = cpu_seconds(server.pid) - cpu
        alive = sum(load.echo(0.001, rate=1).closed == 0 for load in loads)
        native.close_loads()
        limit_kb = _limit_kb(native, options.sockets)
    kb_per_socket = (after - before) / options.sockets
    return {
        "sockets": options.sockets,
        "workers": options.workers,
        "kb_per_socket": round(kb_per_socket, 2),
        "limit_kb_per_socket": round(limit_kb, 3),
        "ratio_to_limit": round(limit_kb / kb_per_socket, 3),
        "valkey_kb_per_socket": round((valkey_after - valkey_before) / options.sockets, 2),
        "server_rss_mb": round(after / 1024),
        "per_s": round(options.sockets / opened_s),
        "server_cpu_us_each": round(opening.server / options.sockets * 1e6),
        "postgres_cpu_us_each": round(opening.postgres / options.sockets * 1e6),
        "valkey_cpu_us_each": round(opening.valkey / options.sockets * 1e6),
        "idle_cpu_percent": round(idle.server / options.seconds * 100, 2),
        "idle_valkey_cpu_percent": round(idle.valkey / options.seconds * 100, 2),
        "generators_with_all_sockets": alive,
        "generator_busy": max(load.opened.busy for load in loads),
    }


def _limit_kb(native: Bench, sockets: int) -> float:
    """Return the C server's memory for each of so many sockets: of its own pages, which the kernel counts exactly."""
    grown_kb = 0.0
    for start in range(0, sockets, SOCKETS_PER_GENERATOR):  # a process each, which may open as many files
        with native.limit() as (port, pid):
            native.load(port, connections=WARM_SOCKETS)
            before = psutil.Process(pid).memory_full_info().uss
            native.load(port, connections=min(SOCKETS_PER_GENERATOR, sockets - start))
            grown_kb += (psutil.Process(pid).memory_full_info().uss - before) / 1024
            native.close_loads()
    return grown_kb / sockets


def _resident_kb(server: ServerProcess) -> tuple[int, int]:
    """Return the resident memory of the server's Python processes, and of Valkey, in KB."""
    root = psutil.Process(server.pid)
    ours = valkey = 0
    for process in [root, *root.children(recursive=True)]:
        rss = process.memory_info().rss // 1024
        if process.name().startswith("valkey"):
            valkey += rss
        elif not process.name().startswith("postgres"):
            ours += rss
    return ours, valkey


SCENARIO = Scenario("idle", "memory and processor share of idle signed-in sockets", add_arguments, run)
