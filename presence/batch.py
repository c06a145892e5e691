"""Scripts and commands on Redis in natural batches: what comes while a pipeline is under way leaves in the next.

Imports nothing of the project. Works on a plain client, one from Sentinel, or a cluster's.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, Final

from redis.exceptions import NoScriptError, RedisError

BATCH_MAX: Final = 500  # commands of one pipeline: some milliseconds of the server's time
PENDING_MAX: Final = 100_000  # a whole node's sockets coming back at once, several times over

Argument = str | bytes | int


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

    __slots__ = ("_client", "_pending", "_sharded", "_task")

    def __init__(self, client: Any) -> None:
        """`client` is a redis.asyncio Redis or RedisCluster."""
        self._client = client
        self._sharded = hasattr(client, "get_node_from_key")
        self._pending: deque[_Call] = deque()
        self._task: asyncio.Task[None] | None = None

    def run(self, script: Script, keys: Sequence[str], *arguments: Argument) -> asyncio.Future[Any]:
        """Submit a script; the future raises PresenceUnavailable when Redis cannot be reached."""
        return self._submit(script, (len(keys), *keys, *arguments))

    def command(self, *arguments: Argument) -> asyncio.Future[Any]:
        """Submit a plain command on one key."""
        return self._submit(None, arguments)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        _fail(self._pending, PresenceUnavailable("presence is closed"))
        self._pending.clear()

    def _submit(self, script: Script | None, arguments: tuple[Argument, ...]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        call = _Call(script, arguments, loop.create_future())
        if len(self._pending) >= PENDING_MAX:
            _fail([call], PresenceUnavailable("too much is waiting for Redis"))
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
        pipe = self._client.pipeline() if self._sharded else self._client.pipeline(transaction=False)
        for call in calls:
            if call.script is None:
                pipe.execute_command(*call.arguments)
            elif load:
                pipe.execute_command("EVAL", call.script.source, *call.arguments)
            else:
                pipe.execute_command("EVALSHA", call.script.sha, *call.arguments)
        unknown: list[_Call] = []
        for call, answer in zip(calls, await pipe.execute(raise_on_error=False), strict=True):
            if isinstance(answer, NoScriptError) and not load:
                unknown.append(call)
            elif isinstance(answer, Exception):
                _fail([call], PresenceUnavailable(f"Redis refused: {answer}"))
            elif not call.answer.done():
                call.answer.set_result(answer)
        return unknown


def _fail(calls: Iterable[_Call], error: Exception) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(error)
            call.answer.exception()  # a caller that has gone must not make the loop complain
