"""`--workers N`: one parent, N hub processes behind one port, and one process for the jobs.

Owns the listening sockets and the life of the processes: starting, restarting within a limit, rolling restart, drain,
the end. Must never import app.py: a child is started by its command line and gets its settings in its environment.

Each hub listens on a socket of its own with SO_REUSEPORT, made here and inherited, so the kernel spreads connections
evenly, and those that arrive while a hub is away wait in its queue instead of being refused. A rolling restart starts
each replacement first, on the same socket, and ends the old process when the new one serves; one that never serves
ends the roll, and the old processes stay. Children die with the parent (PR_SET_PDEATHSIG, Linux), which must therefore
start them from its main thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

import structlog

from realtime.config import Settings, to_environ
from realtime.transport.server import BACKLOG, bind

log = structlog.get_logger()

HUB = "hub"
JOBS = "jobs"

RESTARTS_MAX = 5  # of one process within RESTARTS_WINDOW_S; beyond that something is wrong that no restart mends
RESTARTS_WINDOW_S = 60.0
RESTART_PAUSE_S = 0.5  # so that a process that fails at once does not burn a core
READY_TIMEOUT_S = 60.0  # of one process: it connects to the engines and listens
STOP_GRACE_S = 10.0  # beyond the drain, before a process is killed
LOOK_S = 0.25  # how often engines are looked at, and deadlines kept
PR_SET_PDEATHSIG = 1

Command = Callable[[str, int, int], Sequence[str]]


@dataclass
class Process:
    """One child, and how often it had to be started again."""

    role: str
    name: str
    sock: socket.socket | None
    child: subprocess.Popen[bytes] | None = None
    ready_fd: int = -1
    ready: bool = False
    started_at: float = 0.0
    start_at: float | None = None  # when it is to be started again
    kill_at: float | None = None  # when it is killed for not ending
    restarts: deque[float] = field(default_factory=deque)

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.poll() is None

    @property
    def serving(self) -> bool:
        """Whether it runs, is ready, and has not been asked to end."""
        return self.running and self.ready and self.kill_at is None


def supervise(settings: Settings, *, failed: Callable[[], str | None]) -> int:
    """Run the workers until SIGTERM or SIGINT; return the exit status. SIGHUP replaces all processes one by one.

    Args:
        settings: with the URLs of the engines filled in; the children read them from their environment.
        failed: names an engine of this process that ended by itself, or None.

    Raises:
        OSError: the address is in use or not ours.
    """
    return Supervisor(
        workers=settings.workers,
        host=settings.host,
        port=settings.port,
        drain_s=settings.drain_ms / 1_000,
        command=worker_command,
        environ={**_without_settings(os.environ), **to_environ(settings)},
        failed=failed,
    ).run()


def worker_command(role: str, listen_fd: int, ready_fd: int) -> Sequence[str]:
    """Return the command line of a child."""
    return [
        sys.executable, "-m", "realtime", "worker", role, "--listen-fd", str(listen_fd), "--ready-fd", str(ready_fd),
    ]  # fmt: skip


class Supervisor:
    """The parent. `run` blocks; everything happens in its one loop over signals, ready pipes and time.

    Args:
        workers: hub processes.
        drain_s: what a hub may take to close its sockets.
        command: the command line for (role, fd of the listening socket or -1, fd to write to when ready).
        environ: of the children.
        failed: names a part of the parent's that ended, which ends everything with status 1.
    """

    def __init__(
        self,
        *,
        workers: int,
        host: str,
        port: int,
        drain_s: float,
        command: Command,
        environ: Mapping[str, str],
        failed: Callable[[], str | None],
    ) -> None:
        self._host = host
        self._drain_s = drain_s
        self._command = command
        self._environ = environ
        self._failed = failed
        self._selector = selectors.DefaultSelector()
        self._signals: deque[int] = deque()
        self._rolling: deque[Process] = deque()  # to be replaced
        self._next: Process | None = None  # starts, to take the place of the first of these
        self._leaving: list[Process] = []  # were replaced, and drain
        self._stopping = False
        self._status = 0
        self._announced = False
        self._hubs: list[Process] = []
        self.port = port
        for index in range(workers):
            sock = bind(host, self.port, shared=True)
            self.port = sock.getsockname()[1]
            sock.listen(BACKLOG)
            self._hubs.append(Process(HUB, f"{HUB}-{index}", sock))
        self._jobs = Process(JOBS, JOBS, None)

    @property
    def _all(self) -> list[Process]:
        """Those that should serve."""
        return [*self._hubs, self._jobs]

    @property
    def _everybody(self) -> list[Process]:
        return [*self._all, *self._leaving, *([self._next] if self._next else [])]

    def run(self) -> int:
        """Start the children and keep them until a signal ends it; return the exit status."""
        began = time.monotonic()
        with self._watching_signals():
            try:
                for process in self._all:
                    self._start(process)
                while not self._over():
                    self._wait()
                    self._look(time.monotonic())
                    if not self._announced and all(process.ready for process in self._all):
                        self._announced = True
                        self._announce(time.monotonic() - began)
            finally:
                self._kill_all()
        return self._status

    def _announce(self, took_s: float) -> None:
        host = f"[{self._host}]" if ":" in self._host else self._host
        scheme = "https" if self._environ.get("TALKMETER_TLS_CERTIFICATE") else "http"
        hubs = len(self._hubs)
        print(f"talkmeter is ready at {scheme}://{host}:{self.port} in {took_s:.1f} s ({hubs} hubs)", flush=True)

    # What happens.

    def _wait(self) -> None:
        """Sleep until a signal, a child that is ready, or the next look."""
        for key, _ in self._selector.select(LOOK_S):
            process = key.data
            if process is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4_096)
            else:
                process.ready = bool(os.read(key.fd, 1))
                self._forget_ready_pipe(process)

    def _look(self, now: float) -> None:
        while self._signals:
            self._take_signal(self._signals.popleft(), now)
        part = self._failed()
        if part is not None and not self._stopping:
            log.error("engine_ended", part=part)
            self._stop(1, now)
        for process in self._everybody:
            self._look_at(process, now)
        self._roll(now)
        if self._stopping and not any(process.running for process in self._everybody if process.role == HUB):
            # The jobs end last, so that metering and the relay see every hub out.
            for process in self._everybody:
                self._terminate(process, now)

    def _look_at(self, process: Process, now: float) -> None:
        if process.child is not None and process.child.poll() is not None:
            self._ended(process, now)
        if process.running:
            if process.kill_at is not None and now >= process.kill_at:
                log.warning("worker_killed", worker=process.name)
                process.child.kill()  # type: ignore[union-attr]  # it runs
                process.kill_at = None
            elif process.kill_at is None and not process.ready and now - process.started_at > READY_TIMEOUT_S:
                log.error("worker_not_ready", worker=process.name)
                self._terminate(process, now)
        elif process.start_at is not None and now >= process.start_at and not self._stopping:
            self._start(process)

    def _take_signal(self, number: int, now: float) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._stopping:
                self._kill_all()  # a second one means now
            self._stop(0, now)
        elif number == signal.SIGHUP and not self._stopping:
            self._rolling.extend(process for process in self._all if process not in self._rolling)

    def _ended(self, process: Process, now: float) -> None:
        """A child has ended: start it again unless it was to end, or does so too often."""
        assert process.child is not None
        status = process.child.returncode
        process.child = None
        process.ready = False
        process.kill_at = None
        self._forget_ready_pipe(process)
        if process in self._leaving:
            self._leaving.remove(process)
            return
        if self._stopping:
            return
        if process is self._next:
            log.error("roll_given_up", worker=process.name, status=status)
            self._next = None
            self._rolling.clear()
            return
        log.error("worker_ended", worker=process.name, status=status)
        process.restarts.append(now)
        while process.restarts and process.restarts[0] < now - RESTARTS_WINDOW_S:
            process.restarts.popleft()
        if len(process.restarts) > RESTARTS_MAX:
            log.error("worker_given_up", worker=process.name, restarts=RESTARTS_MAX)
            self._stop(1, now)
            return
        process.start_at = now + RESTART_PAUSE_S * (len(process.restarts) - 1)

    def _roll(self, now: float) -> None:
        """Replace the processes that wait for it: one at a time, and each only while all others serve."""
        if not self._rolling or self._stopping:
            return
        old = self._rolling[0]
        if self._next is None:
            if not self._leaving and all(process.serving for process in self._all):
                log.info("worker_restarts", worker=old.name)
                self._next = Process(old.role, old.name, old.sock)
                self._start(self._next)
        elif self._next.serving:
            if old is self._jobs:
                self._jobs = self._next
            else:
                self._hubs[self._hubs.index(old)] = self._next
            self._rolling.popleft()
            self._next = None
            self._leaving.append(old)
            self._terminate(old, now)

    # Starting and ending.

    def _start(self, process: Process) -> None:
        read_fd, write_fd = os.pipe()
        listen_fd = process.sock.fileno() if process.sock is not None else -1
        inherited = [write_fd] if listen_fd < 0 else [write_fd, listen_fd]
        try:
            process.child = subprocess.Popen(
                list(self._command(process.role, listen_fd, write_fd)),
                env=dict(self._environ),
                pass_fds=inherited,
                process_group=0,  # Ctrl-C reaches the parent only, which drains
                preexec_fn=_die_with(os.getpid()),
            )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        process.ready_fd = read_fd
        process.ready = False
        process.started_at = time.monotonic()
        process.start_at = None
        self._selector.register(read_fd, selectors.EVENT_READ, process)

    def _stop(self, status: int, now: float) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._status = status
        for process in self._everybody:
            if process.role == HUB:
                if process.sock is not None:
                    process.sock.close()  # nobody new: what is in the queue of a hub goes with the hub
                    process.sock = None
                self._terminate(process, now)

    def _terminate(self, process: Process, now: float) -> None:
        if process.running and process.kill_at is None:
            process.child.terminate()  # type: ignore[union-attr]  # it runs
            process.kill_at = now + self._drain_s + STOP_GRACE_S

    def _kill_all(self) -> None:
        for process in self._everybody:
            if process.child is not None:
                if process.running:
                    process.child.kill()
                process.child.wait()
            self._forget_ready_pipe(process)

    def _over(self) -> bool:
        return self._stopping and not any(process.running for process in self._everybody)

    def _forget_ready_pipe(self, process: Process) -> None:
        if process.ready_fd >= 0:
            self._selector.unregister(process.ready_fd)
            os.close(process.ready_fd)
            process.ready_fd = -1

    @contextlib.contextmanager
    def _watching_signals(self) -> Iterator[None]:
        """Note signals and wake the loop; put back what was there before."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        watched = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        before = {number: signal.signal(number, self._note) for number in watched}
        earlier_fd = signal.set_wakeup_fd(wake_write)
        self._selector.register(wake_read, selectors.EVENT_READ, None)
        try:
            yield
        finally:
            signal.set_wakeup_fd(earlier_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(wake_read)
            os.close(wake_write)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)


def _die_with(parent: int) -> Callable[[], None]:
    """Return what a child does before its program: ask for SIGTERM at the parent's death (Linux)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def arrange() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)

    return arrange


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith("TALKMETER_")}
