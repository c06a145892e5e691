"""Mutations: the handler's work, its events and its stored reply in one transaction, repeated when PostgreSQL asks.

Owns what a repeat of a request is answered: the first answer, also when that was a refusal (docs/decisions/0005). Must
never import a feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import asyncpg
import msgspec
from msgspec import Raw, Struct

from realtime.idempotency import Repeated, RequestKey, ok_reply, recall, remember, request_key
from realtime.outbox import Outbox
from realtime.protocol.envelope import error_body
from realtime.protocol.errors import Conflict, TalkmeterError
from realtime.protocol.registry import Route
from realtime.request import Request

ATTEMPTS_MAX: Final = 4  # of a transaction that PostgreSQL asks to repeat
REPEATABLE: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

Translate = Callable[[Exception], TalkmeterError | None]


class Mutations:
    """Runs handlers that change something.

    Args:
        translate: turns a package's own exception (billing's) into ours, or None.
    """

    __slots__ = ("_outbox", "_pool", "_translate")

    def __init__(self, outbox: Outbox, pool: asyncpg.Pool, translate: Translate) -> None:
        self._outbox = outbox
        self._pool = pool
        self._translate = translate

    async def run(self, request: Request, route: Route, data: Struct, key_text: str) -> Any:
        """Return the handler's answer, or the one that is stored under the key.

        Raises:
            TalkmeterError: the refusal, of now or of the first time.
        """
        principal = request.principal
        key = request_key(principal.tenant_id, principal.user_id, key_text, route.op, data)
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return await self._once(request, route, data, key)
            except REPEATABLE:
                if attempt == ATTEMPTS_MAX:
                    raise Conflict("too much happened at once; try again") from None
        raise AssertionError("unreachable")

    async def _once(self, request: Request, route: Route, data: Struct, key: RequestKey) -> Any:
        """Run the handler and store its reply in one transaction, or give the reply that is stored."""
        try:
            if route.shared:
                request.key_ = key
                return await route.handler(request, data)  # type: ignore[misc]
            async with self._outbox.transaction(key.tenant_id) as tx:
                request.tx_ = tx
                ok = await route.handler(request, data)  # type: ignore[misc]
                await remember(tx.conn, key, ok_reply(ok), tx.take_unwritten())
            return ok
        except Repeated:
            return await self._first_reply(key)
        except TalkmeterError as exc:
            return await self._refused(key, exc)
        except Exception as exc:
            translated = self._translate(exc)
            if translated is None:
                raise
            return await self._refused(key, translated)

    async def _first_reply(self, key: RequestKey) -> Any:
        async with self._pool.acquire() as conn:
            stored = await recall(conn, key)
        if stored is None:
            raise Conflict("the first request under this key was rolled back; try again")
        return _unpack(stored)

    async def _refused(self, key: RequestKey, error: TalkmeterError) -> Any:
        """A repeat is answered with the first answer, also when the work can no longer be done, or was refused."""
        async with self._pool.acquire() as conn:
            stored = await recall(conn, key)
            if stored is not None:
                return _unpack(stored)
            if not error.retryable:
                try:
                    await remember(conn, key, msgspec.json.encode({"error": error_body(error)}))
                except Repeated:
                    stored = await recall(conn, key)
                    if stored is not None:
                        return _unpack(stored)
        raise error


class _StoredError(TalkmeterError):
    """A refusal that was stored with its key."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body["message"], **body["details"])
        self.code = body["code"]  # type: ignore[misc]
        self.retryable = body["retryable"]  # type: ignore[misc]
        self.next_action = body["next_action"]  # type: ignore[misc]


def _unpack(stored: bytes) -> Any:
    reply = msgspec.json.decode(stored, type=dict[str, Raw])
    if "ok" in reply:
        return msgspec.json.decode(reply["ok"])
    raise _StoredError(msgspec.json.decode(reply["error"], type=dict[str, Any]))
