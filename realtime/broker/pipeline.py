"""Scripts and commands sent to Redis in natural batches: what comes while a pipeline is under way leaves in the next.

Owns loading the scripts, each bound to the run of the server that it is loaded into (see head.lua), and the order of
commands. Must never import the hub or a feature.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, Final, TypeVar

import hiredis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from realtime.broker.backend import Backend
from realtime.broker.wire import Command
from realtime.protocol.errors import Unavailable
from realtime.protocol.later import Later

BATCH_MAX: Final = 500  # commands of one pipeline: about 5 ms of the server's time
PENDING_MAX: Final = 50_000  # beyond this the caller is told at once; the outbox keeps what matters
BIND_ATTEMPTS: Final = 3  # a server may restart between the loading of a script and its use, hardly three times

SCRIPTS: Final = ("append", "replay", "position")
ALONE: Final = ""  # the name of the only server
_RUN_ID: Final = re.compile(rb"run_id:([0-9a-f]{40})")
Argument = str | bytes | int
T = TypeVar("T")


def _as_it_is(reply: Any) -> Any:
    return reply


@dataclass(slots=True)
class _Call:
    """One script (`script` is its name) or plain command (`script` is empty) that waits for its answer."""

    script: str
    key: str
    arguments: tuple[Argument, ...]
    answer: Later[Any]

    def command(self, bound: Mapping[str, str]) -> Command:
        return ("EVALSHA", bound[self.script], *self.arguments) if self.script else self.arguments


class Pipeline:
    """Runs scripts and commands, in the order in which they were submitted. Lives on one event loop.

    One batch is under way at a time. Where a connection stands and the scripts are loaded, it is sent and settled
    from callbacks; a task is only made for what has to be waited for: connecting, loading, and all of a cluster.
    """

    __slots__ = ("_backend", "_bound", "_busy", "_closed", "_loop", "_pending", "_sources", "_task", "_under_way")

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._sources = load_scripts()
        self._bound: dict[str, Mapping[str, str]] = {}
        self._pending: deque[_Call] = deque()
        self._under_way: list[_Call] = []
        self._busy = False  # a batch is under way, or about to leave
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def script(
        self, name: str, keys: Sequence[str], *arguments: Argument, read: Callable[[Any], T] = _as_it_is
    ) -> Later[T]:
        """Submit a script; all keys have one hash tag.

        Args:
            read: makes a value of what the script returns.

        Returns:
            That value, later; it raises Unavailable when Redis cannot be reached. The script may have run all the same.
        """
        return self._submit(name, keys[0], (len(keys), *keys, *arguments), Later(read))

    def command(self, *arguments: Argument, key: str, read: Callable[[Any], T] = _as_it_is) -> Later[T]:
        """Submit a plain command that belongs to `key`'s server."""
        return self._submit("", key, arguments, Later(read))

    async def close(self) -> None:
        """Fail what still waits and stop."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        _fail([*self._under_way, *self._pending], Unavailable("the broker is closed"))
        self._pending.clear()

    def _submit(self, script: str, key: str, arguments: tuple[Argument, ...], answer: Later[T]) -> Later[T]:
        if self._closed or len(self._pending) >= PENDING_MAX:
            answer.fail(Unavailable("the broker is closed" if self._closed else "too much is waiting for Redis"))
            return answer
        self._pending.append(_Call(script, key, arguments, answer))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._next)  # in the loop's next turn, so all that this turn submits shares the batch
        return answer

    def _next(self) -> None:
        """Let the next batch leave, if something waits."""
        pending = self._pending
        if not pending:
            self._busy = False
            self._under_way = []
            return
        calls = [pending.popleft() for _ in range(min(BATCH_MAX, len(pending)))]
        self._under_way = calls
        bound = self._bound.get(ALONE)
        try:
            if bound is not None and self._backend.send(
                [call.command(bound) for call in calls], partial(self._answered, calls)
            ):
                return
        except Exception as exc:  # an argument that cannot be packed; what waits behind these calls must go on
            _fail(calls, exc)
            self._loop.call_soon(self._next)
            return
        self._wait_for(calls)

    def _answered(self, calls: list[_Call], replies: list[Any] | OSError) -> None:
        """Let the next batch leave, and settle this one in the loop's next turn.

        By then what this batch published has often come back, and a publisher's reply and copy share a write.
        """
        if isinstance(replies, OSError):
            _fail(calls, Unavailable(f"Redis cannot be reached: {replies}"))
        elif any(isinstance(reply, Exception) and _not_loaded(reply) for reply in replies):
            del self._bound[ALONE]
            self._wait_for(_unsettled(calls, replies))
            return
        else:
            self._loop.call_soon(_unsettled, calls, replies)
        if not self._closed:
            self._next()

    def _wait_for(self, calls: list[_Call]) -> None:
        """Run a batch in a task."""
        self._task = self._loop.create_task(self._patiently(calls), name="broker-pipeline")

    async def _patiently(self, calls: list[_Call]) -> None:
        try:
            await self._run(calls)
        except (RedisError, OSError, TimeoutError) as exc:
            _fail(calls, Unavailable(f"Redis cannot be reached: {exc}"))
        except asyncio.CancelledError:
            _fail(calls, Unavailable("the broker is closed"))
            raise
        except Exception as exc:  # whatever it is, what waits behind these calls must go on
            _fail(calls, exc)
        self._next()

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
        commands = [call.command(self._bound[server]) for call, server in zip(calls, servers, strict=True)]
        again = _unsettled(calls, await self._backend.execute(commands))
        if again:
            names = dict(zip(map(id, calls), servers, strict=True))
            for call in again:
                self._bound.pop(names[id(call)], None)
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


def _unsettled(calls: Sequence[_Call], replies: Sequence[Any]) -> list[_Call]:
    """Give calls their answers; return those that have to be repeated, because their script is not loaded."""
    again = []
    for call, reply in zip(calls, replies, strict=True):
        if not isinstance(reply, Exception):
            call.answer.settle(reply)
        elif _not_loaded(reply):
            again.append(call)
        elif isinstance(reply, ResponseError | hiredis.ReplyError):
            # READONLY, LOADING, CLUSTERDOWN, OOM and the like: the server is there, and cannot do it now.
            call.answer.fail(Unavailable(f"Redis refused: {reply}"))
        else:
            call.answer.fail(Unavailable(f"Redis cannot be reached: {reply}"))
    return again


def _fail(calls: Iterable[_Call], error: Exception) -> None:
    for call in calls:
        call.answer.fail(error)
