"""Scripts and commands sent to Redis in natural batches: what comes while a pipeline is under way leaves in the next.

Owns loading the scripts, each bound to the run of the server that it is loaded into (see head.lua), and the order of
commands. Must never import the hub or a feature.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import hiredis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from realtime.broker.backend import Backend
from realtime.protocol.errors import Unavailable

BATCH_MAX: Final = 500  # commands of one pipeline: about 5 ms of the server's time
PENDING_MAX: Final = 50_000  # beyond this the caller is told at once; the outbox keeps what matters
BIND_ATTEMPTS: Final = 3  # a server may restart between the loading of a script and its use, hardly three times

SCRIPTS: Final = ("append", "replay", "position")
_RUN_ID: Final = re.compile(rb"run_id:([0-9a-f]{40})")
Argument = str | bytes | int


@dataclass(slots=True)
class _Call:
    """One script (`script` is its name) or plain command (`script` is empty) that waits for its answer."""

    script: str
    key: str
    arguments: tuple[Argument, ...]
    answer: asyncio.Future[Any]


class Pipeline:
    """Runs scripts and commands, in the order in which they were submitted. Lives on one event loop."""

    __slots__ = ("_backend", "_bound", "_closed", "_pending", "_sources", "_task")

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._sources = load_scripts()
        self._bound: dict[str, Mapping[str, str]] = {}
        self._pending: deque[_Call] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def script(self, name: str, keys: Sequence[str], *arguments: Argument) -> asyncio.Future[Any]:
        """Submit a script; all keys have one hash tag.

        Returns:
            A future of what the script returns; it raises Unavailable when Redis cannot be reached. The script
            may have run all the same.
        """
        return self._submit(name, keys[0], (len(keys), *keys, *arguments))

    def command(self, *arguments: Argument, key: str) -> asyncio.Future[Any]:
        """Submit a plain command that belongs to `key`'s server."""
        return self._submit("", key, arguments)

    async def close(self) -> None:
        """Fail what still waits and stop."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        _fail(self._pending, Unavailable("the broker is closed"))
        self._pending.clear()

    def _submit(self, script: str, key: str, arguments: tuple[Argument, ...]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._closed or len(self._pending) >= PENDING_MAX:
            _refuse(answer, Unavailable("the broker is closed" if self._closed else "too much is waiting for Redis"))
            return answer
        self._pending.append(_Call(script, key, arguments, answer))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._drain(), name="broker-pipeline")
        return answer

    async def _drain(self) -> None:
        # The task starts in the loop's next turn, so all that this turn submits shares the first pipeline.
        while self._pending:
            calls = [self._pending.popleft() for _ in range(min(BATCH_MAX, len(self._pending)))]
            try:
                await self._run(calls)
            except (RedisError, OSError, TimeoutError) as exc:
                _fail(calls, Unavailable(f"Redis cannot be reached: {exc}"))
            except asyncio.CancelledError:
                _fail(calls, Unavailable("the broker is closed"))
                raise
            except Exception as exc:  # whatever it is, what waits behind these calls must go on
                _fail(calls, exc)

    async def _run(self, calls: list[_Call]) -> None:
        for _ in range(BIND_ATTEMPTS):
            # What is repeated after an unloaded script keeps its order among itself: a stream lives on one server.
            calls = await self._attempt(calls)
            if not calls:
                return
        _fail(calls, Unavailable("Redis keeps losing its scripts"))

    async def _attempt(self, calls: list[_Call]) -> list[_Call]:
        """Run the calls once, settle those that were answered, and return those whose script is not loaded."""
        servers = await self._backend.server_names([call.key for call in calls])
        for server in dict.fromkeys(servers):
            if server not in self._bound:
                self._bound[server] = await self._bind(server)
        commands = [
            ("EVALSHA", self._bound[server][call.script], *call.arguments) if call.script else call.arguments
            for call, server in zip(calls, servers, strict=True)
        ]
        again: list[_Call] = []
        for call, server, answer in zip(calls, servers, await self._backend.execute(commands), strict=True):
            if isinstance(answer, Exception) and _not_loaded(answer):
                self._bound.pop(server, None)
                again.append(call)
            elif not call.answer.done():
                _settle(call.answer, answer)
        return again

    async def _bind(self, server: str) -> Mapping[str, str]:
        """Load the scripts into a server, bound to its run id, and return their hashes by name."""
        for _ in range(BIND_ATTEMPTS):
            run = await run_id(self._backend, server)
            shas = {}
            for name, source in self._sources.items():
                sha = await self._backend.ask(server, "SCRIPT", "LOAD", f"local RUN = '{run}'\n{source}")
                shas[name] = sha.decode() if isinstance(sha, bytes) else str(sha)
            if await run_id(self._backend, server) == run:
                return shas
        raise RedisError("the server restarted while its scripts were loaded")


async def run_id(backend: Backend, server: str) -> str:
    """Return the id of a server's process: it changes with every restart, and a replica has its own."""
    info = await backend.ask(server, "INFO", "server")
    if isinstance(info, dict):  # redis-py parses INFO
        found = str(info.get("run_id", ""))
    elif isinstance(info, bytes) and (match := _RUN_ID.search(info)):
        found = match[1].decode()
    else:
        found = ""
    if not re.fullmatch("[0-9a-f]{40}", found):
        raise RedisError("the server tells no run id")
    return found


def load_scripts() -> dict[str, str]:
    """Return the stream scripts by name, each with its prelude."""
    folder = files("realtime.broker")
    prelude = (folder / "head.lua").read_text()
    return {name: prelude + (folder / f"{name}.lua").read_text() for name in SCRIPTS}


def _not_loaded(answer: Exception) -> bool:
    return isinstance(answer, NoScriptError) or str(answer).startswith("NOSCRIPT")


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if isinstance(answer, ResponseError | hiredis.ReplyError):
        # READONLY, LOADING, CLUSTERDOWN, OOM and the like: the server is there, and cannot do it now.
        _refuse(future, Unavailable(f"Redis refused: {answer}"))
    elif isinstance(answer, Exception):
        _refuse(future, Unavailable(f"Redis cannot be reached: {answer}"))
    else:
        future.set_result(answer)


def _refuse(future: asyncio.Future[Any], error: Exception) -> None:
    future.set_exception(error)
    future.exception()  # a caller that has gone must not make the loop complain


def _fail(calls: Iterable[_Call], error: Exception) -> None:
    for call in calls:
        if not call.answer.done():
            _refuse(call.answer, error)
