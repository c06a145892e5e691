"""Two server processes on the same PostgreSQL and Valkey, as two machines would be, and tokens for their users."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import psutil

from bench._native import SECRET, TOKEN_LIFE_S, unlimited
from bench.harness import CpuSeconds, ServerProcess, cpu_seconds, pin, server_process, split_cores


@contextmanager
def two_nodes() -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Run two nodes on the server's cores; the engines, which the first one started, share the generator's."""
    server_cores, load_cores = split_cores()
    with server_process(settings=unlimited(), cores=server_cores) as first:
        engines = _engines(first)
        for child in psutil.Process(first.pid).children(recursive=True):
            if not child.name().startswith("python"):
                pin(load_cores, child.pid)
        urls = {name: engines[name] for name in ("database_url", "redis_url")}
        with server_process(settings=unlimited(**urls), cores=server_cores) as second:
            pin(load_cores)
            yield first, second


def valkey_socket(node: ServerProcess) -> str:
    """Return the path of the Unix socket of the Valkey that the first node has started."""
    return urlsplit(_engines(node)["redis_url"]).path


def _engines(node: ServerProcess) -> dict[str, str]:
    found: dict[str, str] = json.loads((Path(node.data_dir) / "engines.json").read_text())
    return found


def token(user: str) -> str:
    now = int(time.time())
    claims = {"iss": "talkmeter", "aud": "talkmeter", "iat": now, "exp": now + TOKEN_LIFE_S, "sub": user}
    return jwt.encode(claims, SECRET, "HS256", headers={"kid": "main"})


def cpu_of(nodes: Sequence[ServerProcess]) -> CpuSeconds:
    """Return the CPU time of all nodes and their engines."""
    spent = [cpu_seconds(node.pid) for node in nodes]
    return CpuSeconds(*(sum(getattr(one, part) for one in spent) for part in ("server", "postgres", "valkey")))


class Busy:
    """The share of its core that this process, the generator, used during the block."""

    def __enter__(self) -> Busy:
        self._began, self._cpu = time.monotonic(), time.process_time()
        self.share = 0.0
        return self

    def __exit__(self, *error: object) -> None:
        self.share = round((time.process_time() - self._cpu) / (time.monotonic() - self._began), 3)
