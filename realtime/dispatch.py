"""From a message to its handler and back: one table, one try.

Owns what happens between a message and its handler: decoding by schema, who may ask, how much, in which order, and the
one place where exceptions become error replies. Sessions and requests are request.py's, transactions and stored replies
mutations.py's. Must never import a feature.

Order: requests of a connection are handled one after another, in the order in which they came, so that a client
may send without waiting. A handler that is a plain function is called at once when nothing of its connection waits
before it; inline operations (ping) do not even wait for that. A handler that returns a `Later` has done its part: the
next request begins, and the reply follows when the value is there.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import asyncpg
import msgspec
import redis.exceptions
import structlog
from msgspec import Struct

from realtime import database
from realtime.mutations import Mutations, Translate
from realtime.outbox import Outbox
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.envelope import Codec, ErrorReply, Frame, OkReply, error_body
from realtime.protocol.errors import (
    Draining,
    Forbidden,
    Internal,
    InvalidData,
    KeyRequired,
    Malformed,
    RateLimited,
    TalkmeterError,
    TooManyPending,
    Unauthenticated,
    Unavailable,
    UnknownOp,
)
from realtime.protocol.later import Later
from realtime.protocol.principal import Principal
from realtime.protocol.registry import Route
from realtime.rates import Rates
from realtime.request import Request, Session
from realtime.transport.interface import Socket

__all__ = ["Dispatcher", "Request", "Session"]

log = structlog.get_logger()

PENDING_MAX = 64  # requests of one connection that wait; more than any app has in flight
HANDLER_TIMEOUT_S = 15.0  # above every wait inside a handler, below a client's patience
MALFORMED_MAX = 20  # frames that are no requests before the socket is closed
ACK = "ack"  # what an acknowledgement, which is no operation, counts as
UNSIGNED_REQUESTS_MAX = 10  # requests before sign-in; a client needs one or two

UNREACHABLE = (*database.UNREACHABLE, redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)


class _Entry(NamedTuple):
    """A route as one codec's sockets reach it.

    Attributes:
        decode: from raw data to the route's schema.
        at_once: nothing has to be waited for before the reply, or a Later of it, is there.
    """

    route: Route
    decode: Callable[[Any], Any]
    at_once: bool


class Dispatcher:
    """Implements the transport's SocketHandler over a table of routes."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        pool: asyncpg.Pool,
        rates: Rates,
        on_closed: Callable[[Session], Awaitable[None]],
        on_ack: Callable[[Principal, Sequence[str]], Awaitable[None]],
        translate: Translate = lambda exc: None,
    ) -> None:
        """Make a dispatcher without routes.

        Args:
            on_closed: awaited once for a session that had signed in.
            on_ack: a signed-in device acknowledged these event ids.
            translate: turns a package's own exception (billing's) into ours, or None.
        """
        self._mutations = Mutations(outbox, pool, translate)
        self._rates = rates
        self._on_closed = on_closed
        self._on_ack = on_ack
        self._translate = translate
        self._routes: dict[str, Route] = {}
        self._entries: dict[str, dict[str, _Entry]] = {}  # by codec and operation
        self._tasks: set[asyncio.Task[None]] = set()
        self._later = 0  # replies that are under way
        self._none_later: asyncio.Event | None = None  # when somebody waits for that
        self.sessions: dict[int, Session] = {}
        self.handled = 0
        self._draining = False

    @property
    def routes(self) -> list[Route]:
        return list(self._routes.values())

    def add(self, routes: Iterable[Route], codecs: Iterable[Codec]) -> None:
        """Put routes into the table.

        Raises:
            ValueError: an op that is there already.
        """
        known = list(codecs)
        for route in routes:
            if route.op in self._routes:
                raise ValueError(f"two routes for {route.op}")
            self._routes[route.op] = route
            at_once = not (route.waits or route.mutation or self._rates.counts_everywhere(route.op))
            for codec in known:
                entry = _Entry(route, codec.data_decoder(route.data), at_once)
                self._entries.setdefault(codec.name, {})[route.op] = entry

    # What the transport calls.

    def connected(self, conn: Socket) -> None:
        session = Session(conn)
        conn.session = session
        self.sessions[conn.id] = session

    def received(self, conn: Socket, payload: bytes) -> None:
        session: Session = conn.session
        codec: Codec = conn.codec
        frame: Frame | None = None
        try:
            frame = codec.decode(payload)
            op = frame.op
            if op is None:
                self._acknowledged(session, frame)
                return
            entry = self._entries[codec.name].get(op)
            if entry is None:
                raise UnknownOp(f"there is no operation {op!r}", op=op)
            route, decode, at_once = entry
            wait_ms = self._rates.take(session, op, route.cost, time.monotonic())
            if wait_ms:
                raise RateLimited(retry_after_ms=wait_ms)
            if session.principal is None:
                self._let_in(session, route)
            if route.begins and self._draining:
                raise Draining
            data = decode(frame.data if len(frame.data) else codec.empty)
            if at_once and (session.queue is None or route.inline):
                self._answer_at_once(session, frame, route, data)
            else:
                self._enqueue(session, frame, route, data)
        except TalkmeterError as exc:
            self._refuse(session, frame, exc)
        except msgspec.DecodeError as exc:
            self._refuse(session, frame, _invalid_data(exc))
        except Exception as exc:
            self._refuse(session, frame, self._as_error(exc, str(frame.op) if frame else ""))

    def closed(self, conn: Socket, code: int) -> None:
        session: Session = conn.session
        session.closed = True
        self.sessions.pop(conn.id, None)
        if session.queue is not None:
            # What waits has not begun and will be repeated by the client, but for acknowledgements: they have no
            # reply. What runs goes on to its end: its transaction must not depend on the moment at which a phone
            # loses its network.
            acks = [each for each in session.queue if each[1] is None]
            session.queue.clear()
            session.queue.extend(acks)
        if session.principal is not None:
            self._spawn(self._after_close(session))

    def drain(self) -> None:
        """Begin nothing long from now on: this node is about to stop."""
        self._draining = True

    async def close(self) -> None:
        """Wait for running requests to end (each is bounded), then return."""
        while self._tasks or self._later:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=HANDLER_TIMEOUT_S)
            if self._later:
                self._none_later = asyncio.Event()
                await self._none_later.wait()

    # What happens to a request.

    def _let_in(self, session: Session, route: Route) -> None:
        """Refuse a stranger everything but a sign-in, and that too after too many from this address have failed."""
        if route.signed_in:
            raise Unauthenticated
        wait_ms = self._rates.sign_in_wait_ms(session.conn.remote, time.monotonic())
        if wait_ms:
            raise RateLimited("too many failed sign-ins from this address", retry_after_ms=wait_ms)

    def _acknowledged(self, session: Session, frame: Frame) -> None:
        if frame.ack is None:
            raise Malformed("neither op nor ack")
        if session.principal is None:
            raise Unauthenticated
        wait_ms = self._rates.take(session, ACK, 1, time.monotonic())
        if not wait_ms and frame.ack:
            self._enqueue(session, frame, None, frame.ack)

    def _answer_at_once(self, session: Session, frame: Frame, route: Route, data: Struct) -> None:
        if session.later >= PENDING_MAX and not route.inline:
            raise TooManyPending(retry_after_ms=1_000)
        try:
            request = Request(session, time.time_ns() // 1_000_000)
            if route.roles:
                _check_role(request, route)
            ok: Any = route.handler(request, data)
            if type(ok) is Later:
                self._answer_later(session, frame, route, ok)
                return
            reply = session.conn.codec.encode(OkReply(frame.id, ok))
        except Exception as exc:
            self._refuse(session, frame, self._as_error(exc, route.op))
        else:
            self.handled += 1
            session.conn.send_reply(reply)

    def _enqueue(self, session: Session, frame: Frame, route: Route | None, data: Any) -> None:
        if session.queue is None:
            session.queue = deque()
        if len(session.queue) + session.later >= PENDING_MAX:
            raise TooManyPending(retry_after_ms=1_000)
        session.queue.append((frame, route, data))
        if session.task is None:
            session.task = self._spawn(self._work(session))

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _work(self, session: Session) -> None:
        """Handle the queue of one connection until it is empty."""
        queue = session.queue
        try:
            while queue:
                frame, route, data = queue.popleft()
                if route is None:
                    await self._safely_ack(session, data)
                else:
                    await self._answer(session, frame, route, data)
        finally:
            session.task = None
            session.queue = None

    async def _answer(self, session: Session, frame: Frame, route: Route, data: Struct) -> None:
        codec: Codec = session.conn.codec
        try:
            async with asyncio.timeout(HANDLER_TIMEOUT_S):
                ok = await self._handle(session, frame, route, data)
            if type(ok) is Later:
                self._answer_later(session, frame, route, ok)
                return
            reply = codec.encode(OkReply(frame.id, ok))
        except Exception as exc:
            error = self._as_error(exc, route.op)
            if not route.signed_in and error.next_action == "sign_in":
                self._rates.sign_in_failed(session.conn.remote, time.monotonic())
            self._refuse(session, frame, error)
        else:
            self.handled += 1
            if not session.closed:
                session.conn.send_reply(reply)
        after, session.after_reply = session.after_reply, None
        if after is not None:
            after()

    def _answer_later(self, session: Session, frame: Frame, route: Route, ok: Later[Struct]) -> None:
        """Answer when the value is there; whoever promised it has bounded that."""

        def answer(value: Later[Struct]) -> None:
            session.later -= 1
            self._later -= 1
            if self._later == 0 and self._none_later is not None:
                self._none_later.set()
            try:
                reply = session.conn.codec.encode(OkReply(frame.id, value.value()))
            except Exception as exc:
                self._refuse(session, frame, self._as_error(exc, route.op))
                return
            self.handled += 1
            if not session.closed:
                session.conn.send_reply(reply)

        session.later += 1
        self._later += 1
        ok.on_settled(answer)

    async def _handle(self, session: Session, frame: Frame, route: Route, data: Struct) -> Any:
        request = Request(session, time.time_ns() // 1_000_000)
        if route.signed_in and session.principal is None:
            raise Unauthenticated
        if route.roles:
            _check_role(request, route)
        if self._rates.counts_everywhere(route.op):
            wait_ms = await self._rates.take_everywhere(request.principal.user_id, route.op)
            if wait_ms:
                raise RateLimited(retry_after_ms=wait_ms)
        if not route.mutation:
            ok: Any = route.handler(request, data)
            return (await ok) if route.waits else ok
        if frame.key is None:
            raise KeyRequired
        return await self._mutations.run(request, route, data, frame.key)

    async def _safely_ack(self, session: Session, event_ids: Sequence[str]) -> None:
        if session.principal is None:
            return
        try:
            async with asyncio.timeout(HANDLER_TIMEOUT_S):
                await self._on_ack(session.principal, event_ids)
        except Exception as exc:
            # An acknowledgement has no reply; what it should have stopped (a push) happens once too often.
            log.warning("ack_failed", error=repr(exc))

    async def _after_close(self, session: Session) -> None:
        try:
            async with asyncio.timeout(HANDLER_TIMEOUT_S):
                await self._on_closed(session)
        except Exception as exc:
            log.warning("close_failed", error=repr(exc))

    # What is said when it fails.

    def _as_error(self, exc: Exception, op: str) -> TalkmeterError:
        """The one map from exceptions to errors."""
        if isinstance(exc, TalkmeterError):
            return exc
        translated = self._translate(exc)
        if translated is not None:
            return translated
        if isinstance(exc, UNREACHABLE):
            log.warning("part_unreachable", op=op, error=repr(exc))
            return Unavailable(retry_after_ms=1_000)
        log.error("handler_failed", op=op, exc_info=exc)
        return Internal()

    def _refuse(self, session: Session, frame: Frame | None, error: TalkmeterError) -> None:
        conn = session.conn
        if session.closed:
            return
        conn.send_reply(conn.codec.encode(ErrorReply(frame.id if frame else None, error_body(error))))
        if isinstance(error, Malformed):
            session.malformed += 1
            if session.malformed >= MALFORMED_MAX:
                conn.close(CloseCode.MALFORMED, CloseCode.MALFORMED.reason)
        elif isinstance(error, Unauthenticated):
            session.unsigned += 1
            if session.unsigned >= UNSIGNED_REQUESTS_MAX:
                conn.close(CloseCode.UNAUTHENTICATED, CloseCode.UNAUTHENTICATED.reason)
        elif isinstance(error, Draining):
            # It would be closed soon anyway; at once, the client repeats its request where it can begin.
            conn.close(CloseCode.GOING_AWAY, CloseCode.GOING_AWAY.reason)


def _check_role(request: Request, route: Route) -> None:
    if not route.roles & request.principal.roles:
        raise Forbidden(needs=sorted(route.roles))


def _invalid_data(exc: msgspec.DecodeError) -> InvalidData:
    """`Expected int, got str - at $.coins` -> a message and the path of the field."""
    message, _, path = str(exc).partition(" - at ")
    return InvalidData(message, path=path.strip("`") or "$")
