"""What every scenario shares: its record, a real server process, cores, CPU time, percentiles, the machine's facts.

Scenarios measure from outside: this module starts `talkmeter serve` as a process and imports nothing of the server.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

START_TIMEOUT_S = 90  # a first start lays out a database on a machine that may be busy
STOP_TIMEOUT_S = 20  # drain and the engines' own shutdown
KEPT_LINES = 200  # of the server's output, shown when it does not start
READY = re.compile(r"ready at (http://\S+)")
ROOT = Path(__file__).resolve().parent.parent

# What nobody meets in use, a load generator does: one user asks as much as a town.
UNBOUND: Final[Mapping[str, str]] = {
    "requests_per_s": "1000000",
    "requests_burst": "1000000",
    "user_requests_per_s": "1000000",
    "user_requests_burst": "1000000",
    "rate_call_invite": "off",
    "rate_hosts_update": "off",
    "rate_profile_update": "off",
    "rate_device_register": "off",
    "rate_gift_send": "off",
    "rate_chat_send": "off",
    "rate_channel_publish": "off",
    "rate_sign_ins": "off",
    "accepts_per_ip_per_s": "1000000",
    "accepts_per_ip_burst": "1000000",
    "unauthenticated_max": "100000",
    "unauthenticated_per_ip_max": "100000",
}

Figures = dict[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One measurement that `python -m bench NAME` runs.

    Attributes:
        name: as typed on the command line.
        summary: one line for the list.
        add_arguments: adds the scenario's own options.
        run: measures, and returns flat figures; names end in their unit (`_per_s`, `_ms`, `_us`).
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Figures]


class ServerFailed(Exception):
    """The server process ended, or did not say that it is ready in time; the message ends with its last lines."""


class ServerProcess:
    """A `talkmeter serve` child whose output is read all the time, so that it never waits for us.

    Attributes:
        url: `http://127.0.0.1:PORT`, set once it is ready.
        data_dir: the folder with its engines and secrets.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], data_dir: Path) -> None:
        self.url = ""
        self.data_dir = data_dir
        self._tail: deque[str] = deque(maxlen=KEPT_LINES)
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, name="server-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def socket_url(self) -> str:
        """The WebSocket's address."""
        return self.url.replace("http", "ws", 1) + "/v1/socket"

    @property
    def output(self) -> str:
        """The last lines that the server printed."""
        return "".join(self._tail)

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait for the line that says the address.

        Raises:
            ServerFailed: it ended first, or took too long.
        """
        if not self._ready.wait(timeout_s) or not self.url:
            raise ServerFailed(f"the server did not become ready:\n{self.output}")

    def stop(self) -> int:
        """End it as an operator would, by SIGTERM; SIGKILL if that takes too long. Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._reader.join(STOP_TIMEOUT_S)
        return status

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._tail.append(line)
                found = READY.search(line)
                if found and not self.url:
                    self.url = found[1]
                    self._ready.set()
        self._ready.set()


@contextmanager
def server_process(
    *arguments: str,
    data_dir: Path | None = None,
    settings: Mapping[str, str] | None = None,
    cores: Iterable[int] | None = None,
) -> Iterator[ServerProcess]:
    """Run `talkmeter serve --dev --port 0` with embedded engines for the length of the block.

    Args:
        arguments: more of the command line, as `--workers`, `2`.
        data_dir: kept if given; else a temporary folder that goes when the server has gone.
        settings: TALKMETER_* variables without the prefix, as `{"requests_per_s": "100000"}`.
        cores: the server and its engines run on these only.

    Raises:
        ServerFailed: it did not become ready.
    """
    folder = data_dir or Path(tempfile.mkdtemp(prefix="tm-bench-"))
    folder.chmod(0o755)  # PostgreSQL runs as another account when we are root
    env = {name: value for name, value in os.environ.items() if not name.startswith("TALKMETER_")}
    env |= {f"TALKMETER_{name.upper()}": value for name, value in (settings or {}).items()}
    command = [sys.executable, "-u", "-m", "realtime", "serve", "--dev", "--port", "0"]
    server = ServerProcess(
        [*command, "--data-dir", str(folder / "data"), *arguments], env=env, data_dir=folder / "data"
    )
    try:
        if cores is not None:
            pin(cores, server.pid)
        server.wait_ready()
        yield server
    finally:
        server.stop()
        if data_dir is None:
            shutil.rmtree(folder, ignore_errors=True)


def pin(cores: Iterable[int], pid: int = 0) -> None:
    """Keep a process (0: this one) and the children it will have on `cores`; does nothing where that is unknown."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, set(cores))


def allowed_cores() -> set[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def split_cores() -> tuple[set[int], set[int]]:
    """Return (server's cores, generator's cores): halves, or the same single core for both."""
    cores = sorted(allowed_cores())
    half = max(1, len(cores) // 2)
    return set(cores[:half]), set(cores[half:] or cores)


def raise_open_files_limit() -> int:
    """Allow as many sockets as the system lets this process have; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """CPU time that a server's processes have used: ours, and the engines below it."""

    server: float
    postgres: float
    valkey: float

    def __sub__(self, earlier: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(self.server - earlier.server, self.postgres - earlier.postgres, self.valkey - earlier.valkey)

    @property
    def total(self) -> float:
        return self.server + self.postgres + self.valkey


def cpu_seconds(pid: int) -> CpuSeconds:
    """Return the CPU time of a process and all that live below it; time of ended children is their parent's."""
    spent = {"server": 0.0, "postgres": 0.0, "valkey": 0.0}
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return CpuSeconds(0.0, 0.0, 0.0)
    for process in processes:
        try:
            name, times = process.name(), process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        part = next((part for part in ("postgres", "valkey") if name.startswith(part)), "server")
        ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        spent[part] += times.user + times.system + ended
    return CpuSeconds(**spent)


def resident_kb(pid: int, *, tree: bool = True) -> int:
    """Return the resident memory of a process (and, with `tree`, of its children of the same program), in KB."""
    root = psutil.Process(pid)
    processes = [root, *(child for child in root.children(recursive=True) if tree and child.name() == root.name())]
    return sum(process.memory_info().rss for process in processes) // 1024


def percentile(values: Sequence[float], q: float) -> float:
    """Return the value that a fraction `q` (0..1) of `values` does not exceed (nearest rank); nan when empty."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered), max(1, math.ceil(q * len(ordered)))) - 1]


def latency_figures(samples_ms: Sequence[float], prefix: str = "") -> Figures:
    """Return `p50_ms` and `p99_ms` of some latencies, each name behind `prefix`."""
    if not samples_ms:
        return {}
    return {
        f"{prefix}p50_ms": round(percentile(samples_ms, 0.50), 3),
        f"{prefix}p99_ms": round(percentile(samples_ms, 0.99), 3),
    }


def machine() -> dict[str, int | str]:
    """Return what a reader must know to compare figures: processor, memory, versions; nothing that names the host."""
    return {
        "cpu": _cpu_model(),
        "cores": len(allowed_cores()),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()
