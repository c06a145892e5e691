"""Scripts and commands on Redis in natural batches: what comes while a pipeline is under way leaves in the next.

Imports nothing of the project. Works on a plain client, one from Sentinel, a cluster's, or whatever else runs commands
in one go.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol

from redis.exceptions import NoScriptError, RedisError

BATCH_MAX: Final = 500  # commands of one pipeline: some milliseconds of the server's time
PENDING_MAX: Final = 100_000  # a whole node's sockets coming back at once, several times over
CLOSE_TIMEOUT_S: Final = 4.0  # for the pipeline that is under way; above what a client gives Redis to answer

Argument = str | bytes | int


class Redis(Protocol):
    """Who runs commands. redis-py's clients are taken as well, and cost several times as much (ADR 63)."""

    async def execute(self, commands: Sequence[tuple[Argument, ...]]) -> Sequence[Any]:
        """Run commands in one go; refusals are exceptions among the replies.

        Raises:
            OSError, redis.exceptions.RedisError: Redis cannot be reached.
        """
        ...


class PresenceUnavailable(Exception):
    """Redis cannot be reached; what is registered here is kept, and written again when it is back."""

    code = "unavailable"
    retryable = True
    next_action = "wait"


class Script:
    """A Lua file of a package; its text goes along only where the server has not seen it."""

    __slots__ = ("sha", "source")

    def __init__(self, name: str, *, package: str = "presence") -> None:
        self.source = (files(package) / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class _Call:
    __slots__ = ("answer", "arguments", "script")

    def __init__(self, script: Script | None, arguments: tuple[Argument, ...], answer: asyncio.Future[Any]) -> None:
        self.script = script
        self.arguments = arguments
        self.answer = answer


class Batch:
    """Runs what is submitted in order, on one event loop. The client stays its maker's."""

    __slots__ = ("_closed", "_pending", "_redis", "_task")

    def __init__(self, client: Any) -> None:
        """`client` is a `Redis`, or redis.asyncio's Redis or RedisCluster."""
        self._redis: Redis = _Pipelines(client) if hasattr(client, "pipeline") else client
        self._closed = False
        self._pending: deque[_Call] = deque()
        self._task: asyncio.Task[None] | None = None

    def run(self, script: Script, keys: Sequence[str], *arguments: Argument) -> asyncio.Future[Any]:
        """Submit a script; the future raises PresenceUnavailable when Redis cannot be reached."""
        return self._submit(script, (len(keys), *keys, *arguments))

    def command(self, *arguments: Argument) -> asyncio.Future[Any]:
        """Submit a plain command on one key."""
        return self._submit(None, arguments)

    async def close(self) -> None:
        """Wait for what is under way, and take nothing more."""
        self._closed = True
        _fail(self._pending, PresenceUnavailable("presence is closed"))
        self._pending.clear()
        if self._task is not None:
            # Not cancelled at once: the connection under it may be shared, and is given up when a batch is.
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _submit(self, script: Script | None, arguments: tuple[Argument, ...]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        call = _Call(script, arguments, loop.create_future())
        if self._closed or len(self._pending) >= PENDING_MAX:
            why = "presence is closed" if self._closed else "too much is waiting for Redis"
            _fail([call], PresenceUnavailable(why))
            return call.answer
        self._pending.append(call)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._drain(), name="presence-batch")
        return call.answer

    async def _drain(self) -> None:
        while self._pending:
            calls = [self._pending.popleft() for _ in range(min(BATCH_MAX, len(self._pending)))]
            try:
                unknown = await self._attempt(calls, load=False)
                if unknown:
                    await self._attempt(unknown, load=True)
            except (RedisError, OSError, TimeoutError) as exc:
                _fail(calls, PresenceUnavailable(f"Redis cannot be reached: {exc}"))
            except asyncio.CancelledError:
                _fail(calls, PresenceUnavailable("presence is closed"))
                raise
            except Exception as exc:  # whatever it is, what waits behind these calls must go on
                _fail(calls, exc)

    async def _attempt(self, calls: list[_Call], *, load: bool) -> list[_Call]:
        """Run the calls; return those whose script the server does not know. `load`: send the text along."""
        commands: list[tuple[Argument, ...]] = []
        for call in calls:
            if call.script is None:
                commands.append(call.arguments)
            elif load:
                commands.append(("EVAL", call.script.source, *call.arguments))
            else:
                commands.append(("EVALSHA", call.script.sha, *call.arguments))
        unknown: list[_Call] = []
        for call, answer in zip(calls, await self._redis.execute(commands), strict=True):
            if not isinstance(answer, Exception):
                if not call.answer.done():
                    call.answer.set_result(answer)
            elif not load and (isinstance(answer, NoScriptError) or str(answer).startswith("NOSCRIPT")):
                unknown.append(call)
            else:
                _fail([call], PresenceUnavailable(f"Redis refused: {answer}"))
        return unknown


class _Pipelines:
    """redis-py's client as a `Redis`."""

    __slots__ = ("_client", "_options")

    def __init__(self, client: Any) -> None:
        self._client = client
        self._options = {} if hasattr(client, "get_node_from_key") else {"transaction": False}

    async def execute(self, commands: Sequence[tuple[Argument, ...]]) -> Sequence[Any]:
        pipe = self._client.pipeline(**self._options)
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        return replies


def _fail(calls: Iterable[_Call], error: Exception) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(error)
            call.answer.exception()  # a caller that has gone must not make the loop complain
