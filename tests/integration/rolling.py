"""A rolling restart as an operator asks for it, and its long form: `python -m tests.integration.rolling --rounds 10`.

Owns the signal, finding a node's workers, and waiting for the last of them to be replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import asyncpg
import psutil

from tests.integration.node import Node, running, until
from tests.integration.traffic import Crowd, crowd

ROLL_TIMEOUT_S = 150.0  # three processes, each with a start and a drain, on a machine that may be busy
DRAIN_MS = 2_000
ROLES = ("hub", "jobs")


def workers(node: Node, role: str) -> set[int]:
    """Return the process ids of a node's workers of a role."""
    found = set()
    for child in psutil.Process(node.process.pid).children():
        try:
            command = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "worker" in command and role in command:
            found.add(child.pid)
    return found


async def replace_workers(node: Node, everybody: Crowd) -> None:
    """Send SIGHUP, and wait until every process has been replaced and the old ones have gone."""
    before = {role: workers(node, role) for role in ROLES}
    node.process.send_signal(signal.SIGHUP)

    async def replaced() -> bool:
        everybody.check()
        now = {role: workers(node, role) for role in ROLES}
        return all(len(now[role]) == len(before[role]) and not now[role] & before[role] for role in ROLES)

    await until(replaced, timeout_s=ROLL_TIMEOUT_S)


async def play(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Restart an embedded server again and again under traffic, and kill its jobs in between; return what happened."""
    moves: Counter[str] = Counter()
    data = folder / "data"
    arguments = ("--workers", str(options.workers), "--data-dir", str(data))
    async with running(folder, *arguments, drain_ms=DRAIN_MS) as node:
        owner = await asyncpg.connect(json.loads((data / "engines.json").read_text())["database_url"])
        try:
            async with crowd(
                node, [node.socket_url], owner, talking=options.talking, ringing=options.ringing
            ) as everybody:
                for number in range(options.rounds):
                    print(f"round {number + 1}", file=sys.stderr, flush=True)
                    await replace_workers(node, everybody)
                    await everybody.go_on()
                    for jobs in workers(node, "jobs"):
                        os.kill(jobs, signal.SIGKILL)
                    await everybody.go_on()
                moves = everybody.moves()
            pairs = everybody.pairs
        except BaseException:
            print(node.output(), file=sys.stderr)
            raise
        finally:
            await owner.close()
    return {
        "calls_through": len(everybody.talking),
        "calls_during": sum(len(pair.rung) for pair in pairs),
        "messages": sum(len(pair.said) for pair in pairs),
        "gifts": sum(pair.gifts for pair in pairs),
        "events": sum(len(witness.event_ids) for pair in pairs for witness in pair.witnesses),
        "reconnections": dict(moves),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.rolling", description=(__doc__ or "").strip())
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--talking", type=int, default=8, help="pairs in one call all the time")
    parser.add_argument("--ringing", type=int, default=8, help="pairs that ring and hang up")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tm-rolling-") as folder:
        Path(folder).chmod(0o755)
        counts = asyncio.run(play(Path(folder), options))
    print(json.dumps({"rounds": options.rounds, "seconds": round(time.monotonic() - began), **counts}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
