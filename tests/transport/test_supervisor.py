"""The parent of `--workers`: real processes, killed, restarted one by one, drained, orphaned."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from realtime.supervisor import RESTARTS_MAX

WAIT_S = 30.0


class Parent:
    """A running supervisor with the tests' workers."""

    def __init__(self, folder: Path, workers: int, **environ: str) -> None:
        self.journal = folder / "journal"
        self.journal.touch()
        self.fail_file = folder / "fail"
        self.crash_file = folder / "crash"
        command = [sys.executable, "-m", "tests.transport.parent", str(workers), str(self.journal), str(self.fail_file)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **environ}
        )

    def wait_ready(self) -> int:
        """Return the port once every child is ready."""
        assert self.process.stdout is not None
        found = re.search(r"ready at http://127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        assert found is not None
        return int(found[1])

    @property
    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines()

    def pids(self, what: str, role: str) -> list[int]:
        return [int(line.split()[2]) for line in self.lines if line.startswith(f"{what} {role} ")]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Parent]]:
    parents: list[Parent] = []

    def make(workers: int, **environ: str) -> Parent:
        parents.append(Parent(tmp_path, workers, **environ))
        return parents[-1]

    yield make
    for parent in parents:
        parent.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def ask(port: int) -> int:
    """Connect; return the process id that answers."""
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as sock:
        return int(sock.recv(100))


def meet(port: int, seen: set[int]) -> set[int]:
    """Connect once more; return all process ids that have answered."""
    seen.add(ask(port))
    return seen


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_all_hubs_answer_on_one_port_and_there_is_one_process_for_jobs(start: Callable[..., Parent]) -> None:
    parent = start(3)
    port = parent.wait_ready()
    hubs = parent.pids("started", "hub")
    assert len(hubs) == 3
    assert len(parent.pids("started", "jobs")) == 1
    seen: set[int] = set()
    until(lambda: meet(port, seen) == set(hubs))
    assert parent.stop() == 0


def test_a_killed_hub_is_started_again_while_the_others_go_on(start: Callable[..., Parent]) -> None:
    parent = start(2)
    port = parent.wait_ready()
    first, second = parent.pids("started", "hub")
    os.kill(first, signal.SIGKILL)
    until(lambda: len(parent.pids("started", "hub")) == 3)
    replacement = parent.pids("started", "hub")[2]
    seen: set[int] = set()
    until(lambda: meet(port, seen) >= {second, replacement})
    assert parent.stop() == 0


def test_children_die_with_a_killed_parent(start: Callable[..., Parent]) -> None:
    parent = start(2)
    parent.wait_ready()
    children = parent.pids("started", "hub") + parent.pids("started", "jobs")
    parent.process.kill()
    until(lambda: not any(alive(pid) for pid in children))


def test_the_jobs_end_after_every_hub(start: Callable[..., Parent]) -> None:
    parent = start(3)
    parent.wait_ready()
    assert parent.stop() == 0
    ended = [line.split()[1] for line in parent.lines if line.startswith("ended")]
    assert ended == ["hub", "hub", "hub", "jobs"]


def test_a_rolling_restart_replaces_everything_and_refuses_nobody(start: Callable[..., Parent]) -> None:
    parent = start(2)
    port = parent.wait_ready()
    before = set(parent.pids("started", "hub"))
    parent.process.send_signal(signal.SIGHUP)
    seen: set[int] = set()
    until(lambda: len(meet(port, seen) - before) == 2)
    until(lambda: len(parent.pids("ended", "jobs")) == 1)
    assert set(parent.pids("ended", "hub")) == before
    steps = [line.split()[0] for line in parent.lines]
    assert steps[3:] == ["started", "ended"] * 3  # whoever goes has a successor who serves already
    assert parent.lines[-2].startswith("started jobs")
    assert parent.stop() == 0


def test_a_replacement_that_fails_ends_the_roll_and_replaces_nobody(start: Callable[..., Parent]) -> None:
    parent = start(2)
    port = parent.wait_ready()
    hubs = parent.pids("started", "hub")
    parent.crash_file.touch()
    parent.process.send_signal(signal.SIGHUP)
    until(lambda: len(parent.pids("started", "hub")) == 3)
    seen: set[int] = set()
    until(lambda: meet(port, seen) == set(hubs))
    parent.crash_file.unlink()
    parent.process.send_signal(signal.SIGHUP)
    until(lambda: len(parent.pids("ended", "jobs")) == 1)
    assert set(parent.pids("ended", "hub")) == set(hubs)
    assert parent.stop() == 0


def test_a_stop_in_the_middle_of_a_roll_ends_everybody(start: Callable[..., Parent]) -> None:
    parent = start(2)
    parent.wait_ready()
    parent.process.send_signal(signal.SIGHUP)
    until(lambda: len(parent.pids("started", "hub")) == 3)
    assert parent.stop() == 0
    assert not any(alive(pid) for role in ("hub", "jobs") for pid in parent.pids("started", role))


@pytest.mark.parametrize("role", ["hub", "jobs"])
def test_a_child_that_keeps_failing_ends_everything(start: Callable[..., Parent], role: str) -> None:
    parent = start(1, CRASH=role)
    assert parent.process.wait(WAIT_S) == 1
    assert len(parent.pids("started", role)) == RESTARTS_MAX + 1


def test_an_engine_that_ended_ends_everything(start: Callable[..., Parent]) -> None:
    parent = start(1)
    parent.wait_ready()
    parent.fail_file.touch()
    assert parent.process.wait(WAIT_S) == 1
    assert not any(alive(pid) for pid in parent.pids("started", "hub") + parent.pids("started", "jobs"))
