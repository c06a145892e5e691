"""One run of the server: engines, migration, the process's event loop, signals, and the order of the end.

Owns the life of a process. The parts inside a process are app.py's; the processes of `--workers` are supervisor.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

import msgspec
import structlog
import uvloop

from realtime.app import HUB, JOBS, App
from realtime.config import Settings
from realtime.embedded import ADDRESS_FILE, Engines
from realtime.migrate import ensure_database, migrate
from realtime.supervisor import supervise

log = structlog.get_logger()

WATCH_ENGINES_S = 0.5
# The collector's thresholds. Nearly all garbage here goes by its reference count, so cycles may be looked for rarely.
# By default 700 young objects start a walk, and one over all modules and types, under load, takes 0.1 s (ADR 65).
COLLECT_AFTER = (10_000, 20, 50)
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # each drains; SIGHUP comes from a terminal that is closed


def serve(settings: Settings) -> int:
    """Serve until SIGTERM, SIGHUP or Ctrl-C; return the exit status. With workers SIGHUP is a rolling restart."""
    began = time.monotonic()
    with _engines(settings) as (ready, engines):
        asyncio.run(migrate(ready.migrate_url or ready.database_url))
        if settings.workers > 1:
            return supervise(ready, failed=engines.failed if engines else lambda: None)

        def announce(app: App) -> None:
            print(f"talkmeter is ready at {app.url} in {time.monotonic() - began:.1f} s", flush=True)
            if settings.dev:
                print(f"demo: {app.url}/demo/ (open it in two windows, once as a host, once as a caller)", flush=True)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(ready, frozenset({HUB, JOBS}), None, engines, announce))


def work(settings: Settings, role: str, listen_fd: int, ready_fd: int) -> int:
    """Be one process of `--workers`: `hub` with an inherited listening socket, or `jobs`.

    Args:
        ready_fd: written to, once, when the process serves.
    """

    def announce(app: App) -> None:
        if ready_fd >= 0:
            os.write(ready_fd, b"1")
            os.close(ready_fd)

    sock = socket.socket(fileno=listen_fd) if listen_fd >= 0 else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, frozenset({role}), sock, None, announce))


async def _run(
    settings: Settings,
    roles: frozenset[str],
    sock: socket.socket | None,
    engines: Engines | None,
    announce: Callable[[App], None],
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in ENDING:
        loop.add_signal_handler(sig, stop.set)
    app = App(settings, roles)
    await app.start(sock)
    _set_collector()
    announce(app)
    status = 0
    try:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), WATCH_ENGINES_S)
            failed = engines.failed() if engines else app.failed()
            if failed is not None:
                log.error("part_ended", part=failed)
                status = 1
                break
    finally:
        for sig in ENDING:
            # A second signal ends at once.
            loop.remove_signal_handler(sig)
            signal.signal(sig, signal.SIG_DFL)
        await app.stop()
    return status


def _set_collector() -> None:
    """Keep what was made while starting, which stays to the end, out of the garbage collector's walks."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


@contextlib.contextmanager
def _engines(settings: Settings) -> Iterator[tuple[Settings, Engines | None]]:
    """Start what no URL is given for, and give the settings with all URLs filled in."""
    if settings.database_url and settings.redis_url:
        yield settings, None
        return
    engines = Engines.start(
        settings.data_path,
        postgres=not settings.database_url,
        valkey=not settings.redis_url,
        postgres_bin=settings.postgres_bin,
        valkey_bin=settings.valkey_bin,
    )
    address_file = settings.data_path / ADDRESS_FILE
    try:
        urls = {
            "database_url": settings.database_url or engines.database_url,
            "redis_url": settings.redis_url or engines.redis_url,
        }
        if not settings.database_url:
            asyncio.run(ensure_database(engines.database_url))
            descriptor = os.open(address_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as out:
                json.dump(urls, out)
        yield msgspec.structs.replace(settings, **urls), engines
    finally:
        address_file.unlink(missing_ok=True)
        engines.stop()
