"""Upgrades a second: TCP, HTTP request, checks, a connection made and told to dispatch, and its end. One server core.

Connections are dropped as soon as they are upgraded; signing in is PostgreSQL's work and measured by `idle`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from bench._native import Answer, Bench, bench, port_of, process_cpu_s
from bench.harness import Figures, Scenario, cpu_seconds

WARM_UP_S = 1.0
OPENING = 64  # at once, each from an address of its own, since one address may only open so many a second


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement [4]")


def run(options: argparse.Namespace) -> Figures:
    with bench() as native:
        with native.server() as server:
            ours, cpu_us = _measure(native, port_of(server), options, lambda: cpu_seconds(server.pid).server)
        with native.limit() as (port, pid):
            limit, limit_us = _measure(native, port, options, lambda: process_cpu_s(pid))
    return {
        "per_s": round(ours.handshakes / ours.seconds),
        "limit_per_s": round(limit.handshakes / limit.seconds),
        "ratio_to_limit": round(limit_us / cpu_us, 3),
        "server_cpu_us_each": round(cpu_us, 1),
        "limit_cpu_us_each": round(limit_us, 1),
        "generator_busy": ours.busy,
        "p50_ms": round(ours.p50_us / 1e3, 3),
        "p99_ms": round(ours.p99_us / 1e3, 3),
    }


def _measure(native: Bench, port: int, options: argparse.Namespace, cpu_s: Callable[[], float]) -> tuple[Answer, float]:
    load = native.load(port, connections=0, opening=OPENING, sources=OPENING)
    load.handshakes(WARM_UP_S)
    before = cpu_s()
    answer = load.handshakes(options.seconds)
    spent = cpu_s() - before
    native.close_loads()
    return answer, spent / answer.handshakes * 1e6


SCENARIO = Scenario("handshake", "upgrades a second, against a C server's limit", add_arguments, run)
