"""The session.* operations: signing in and out, refreshing a token, and the end of one that expired.

Owns the way from a token to a signed-in connection with its event stream open. Imports accounts and presence through
their services; the snapshot of each feature is given by app.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Protocol

import msgspec
import structlog
from msgspec import Meta, Struct

from presence.tracker import Arrived
from realtime.accounts.models import Device
from realtime.accounts.service import Accounts
from realtime.accounts.service import SignedIn as Admitted
from realtime.accounts.tokens import Identity, Verifiers
from realtime.broker import Position, Replay, user_stream
from realtime.hub import Hub
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.envelope import Event
from realtime.protocol.errors import (
    Conflict,
    RateLimited,
    TalkmeterError,
    TokenExpired,
    TokenInvalid,
    Unauthenticated,
)
from realtime.protocol.principal import Principal
from realtime.protocol.registry import Empty, EventType, Route
from realtime.rates import Rates
from realtime.request import Request, Session
from realtime.transport.interface import Socket

log = structlog.get_logger()

USER_STREAM = "user"
CLOSE_ORDER = "_close"
EXPIRY_CHECK_S = 1.0
CONFIRM_S = 60.0  # the longest that a signed-out device stays connected when Redis has lost the order to close it
CONFIRM_BATCH = 500
EXPIRY_WARNING_MS = 60_000  # time for an app to fetch a new token from its backend

Text = Annotated[str, Meta(max_length=128)]


class Place(Struct):
    """Where a client stands in a stream: the last epoch and offset that it has seen."""

    stream: Annotated[str, Meta(max_length=200)]
    epoch: Annotated[str, Meta(max_length=64)]
    offset: Annotated[int, Meta(ge=0)]


class SignIn(Struct):
    """`token` may be left out when the upgrade carried an Authorization header."""

    device_id: Annotated[str, Meta(min_length=1, max_length=128)]
    token: Annotated[str, Meta(max_length=8192)] | None = None
    app_version: Text = ""
    platform: Text = ""
    streams: Annotated[list[Place], Meta(max_length=100)] = []


class SelfView(Struct):
    """The user who signed in."""

    id: str
    name: str
    avatar_url: str


class StreamPosition(Struct):
    """The head of a stream at this moment; what is missed follows up to it."""

    epoch: str
    offset: int


class SignedIn(Struct, omit_defaults=True):
    """`recovered`: the missed events follow. Otherwise `snapshot` says how things stand now, by feature."""

    user: SelfView
    tenant: str
    roles: list[str]
    stream: StreamPosition
    recovered: bool
    heartbeat_ms: int
    server_time_ms: int
    token_expires_ms: int
    snapshot: dict[str, Any] | None = None


class Refresh(Struct):
    token: Annotated[str, Meta(max_length=8192)]


class Refreshed(Struct):
    token_expires_ms: int


class Ping(Struct, omit_defaults=True):
    """`payload` comes back unchanged."""

    payload: Any = None


class Pong(Struct, omit_defaults=True):
    server_time_ms: int
    payload: Any = None


class SignOut(Struct):
    """`everywhere`: on all devices, and no token that was issued before now is taken again."""

    everywhere: bool = False


class TokenExpiring(Struct):
    """Send session.refresh before `expires_ms`, or the connection is closed with token_expired."""

    expires_ms: int


EVENTS = (
    EventType(
        name="session.token_expiring",
        data=TokenExpiring,
        durable=False,
        summary="The token ends within a minute; refresh it in-band.",
    ),
)


Snapshot = Callable[[Principal], Awaitable[Any]]


class CloseOrder(Struct):
    """A word between hubs: close sockets of `devices` (None: all of the user), but not connection `but` of `node`."""

    code: int
    devices: list[str] | None
    node: str
    but: int


class Arrivals(Protocol):
    """What a session tells presence."""

    def connected(self, principal: Principal, conn: Socket) -> Awaitable[Arrived | None]:
        """Register a connection; submitted at once. Gives None while Redis is down."""
        ...

    async def revoked(self, user_id: int, issued_before_ms: int) -> None:
        """Let sign-ins under way on any node know which tokens are refused from now on."""
        ...

    async def disconnected(self, principal: Principal, conn: Socket) -> None: ...


class Sessions:
    """Signs connections in and out. `run` is the owner's task: it ends sessions whose token has expired."""

    def __init__(
        self,
        *,
        verifiers: Verifiers,
        accounts: Accounts,
        hub: Hub,
        node: str,
        arrivals: Arrivals,
        rates: Rates,
        snapshots: Mapping[str, Snapshot],
        heartbeat_ms: int,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        self._verifiers = verifiers
        self._accounts = accounts
        self._hub = hub
        self._node = node
        self._arrivals = arrivals
        self._rates = rates
        self._snapshots = snapshots
        self._heartbeat_ms = heartbeat_ms
        self._confirm_s = confirm_s
        hub.listen(CLOSE_ORDER, self._obey)

    def routes(self) -> list[Route]:
        return [
            Route(
                op="session.sign_in",
                data=SignIn,
                ok=SignedIn,
                handler=self.sign_in,
                signed_in=False,
                summary="The first message of a connection: who, on which device, and where it left off.",
            ),
            Route(
                op="session.refresh",
                data=Refresh,
                ok=Refreshed,
                handler=self.refresh,
                summary="Replace the connection's token by a fresh one of the same user.",
            ),
            Route(
                op="session.ping",
                data=Ping,
                ok=Pong,
                handler=self.ping,
                inline=True,
                summary="Answered at once; a round trip, and the server's clock.",
            ),
            Route(
                op="session.sign_out",
                data=SignOut,
                ok=Empty,
                handler=self.sign_out,
                summary="End this session, or every session of the user.",
            ),
        ]

    async def sign_in(self, rq: Request, msg: SignIn) -> SignedIn:
        session, conn = rq.session, rq.session.conn
        if session.principal is not None:
            raise Conflict("this connection has signed in already")
        token = msg.token or _bearer(conn.authorization)
        if not token:
            raise Unauthenticated("no token, neither in session.sign_in nor in the upgrade's Authorization header")
        try:
            identity, signed = await self._admit(token, msg, rq.now_ms)
            principal = signed.principal
            conn.sign_in(principal)
            replay = await self._enter(session, identity, principal, msg.streams)
        except BaseException as exc:
            session.after_reply = partial(_end, conn, exc)
            raise
        session.principal = principal
        session.after_reply = partial(self._hub.flow, conn)
        if signed.replaced:
            await self._close_sockets(principal, signed.replaced, CloseCode.REPLACED, conn)
        snapshot = None
        if not replay.recovered:
            snapshot = {name: await take(principal) for name, take in self._snapshots.items()}
        return SignedIn(
            user=SelfView(principal.user, signed.card.name, signed.card.avatar_url),
            tenant=principal.tenant,
            roles=sorted(principal.roles),
            stream=StreamPosition(replay.epoch, replay.offset),
            recovered=replay.recovered,
            heartbeat_ms=self._heartbeat_ms,
            server_time_ms=rq.now_ms,
            token_expires_ms=principal.expires_at_ms,
            snapshot=snapshot,
        )

    async def _admit(self, token: str, msg: SignIn, now_ms: int) -> tuple[Identity, Admitted]:
        """Judge token and device. Both are judged at the same moment in the database (see sign_ins.py)."""
        identity = await self._verifiers.verify(token, now_ms=now_ms)
        wait_ms = self._rates.take_sign_in(identity.tenant, identity.user, time.monotonic())
        if wait_ms:
            raise RateLimited("this user signs in too often", retry_after_ms=wait_ms)
        device = Device(device_id=msg.device_id, platform=msg.platform, app_version=msg.app_version)
        signed = await self._accounts.sign_in(identity, device)
        if _now_ms() >= identity.expires_at_ms:  # it waited for the database meanwhile
            raise TokenExpired
        return identity, signed

    async def _enter(
        self, session: Session, identity: Identity, principal: Principal, places: Sequence[Place]
    ) -> Replay:
        """Open the user's stream and register with presence, in one round trip, as soon as the stream is listened to.

        From then on a word to close this connection reaches it. What was said before that is in the presence record:
        tokens refused since this one was judged, and the device's other connections.
        """
        conn = session.conn
        position = next((Position(p.epoch, p.offset) for p in places if p.stream == USER_STREAM), None)
        arrival: Awaitable[Arrived | None] | None = None

        def listening() -> None:
            nonlocal arrival
            arrival = self._arrivals.connected(principal, conn)

        try:
            replay = await self._hub.open_stream(conn, principal.user_id, position, listening=listening)
            arrived = await (arrival or self._arrivals.connected(principal, conn))
            if arrived is not None and identity.issued_at_ms < arrived.revoked_ms:
                raise TokenInvalid("signed out everywhere after this token was issued")
            if arrived is not None and arrived.twins:
                await self._close_sockets(principal, (principal.device_id,), CloseCode.REPLACED, conn)
            if session.closed:
                raise Unauthenticated("the connection closed while it signed in")
        except BaseException:
            self._hub.detach(conn)  # nobody else will, for the session has no principal yet
            await self._arrivals.disconnected(principal, conn)
            raise
        return replay

    async def refresh(self, rq: Request, msg: Refresh) -> Refreshed:
        identity = await self._verifiers.verify(msg.token, now_ms=rq.now_ms)
        principal = await self._accounts.refresh(rq.principal, identity)
        rq.session.principal = principal
        rq.session.conn.sign_in(principal)
        return Refreshed(principal.expires_at_ms)

    def ping(self, rq: Request, msg: Ping) -> Pong:
        return Pong(rq.now_ms, msg.payload)

    async def sign_out(self, rq: Request, msg: SignOut) -> Empty:
        conn, principal = rq.session.conn, rq.principal
        if msg.everywhere:
            await self._accounts.sign_out_everywhere(principal.user_id, now_ms=rq.now_ms)
            await self._arrivals.revoked(principal.user_id, rq.now_ms)
            await self._close_sockets(principal, None, CloseCode.SIGNED_OUT, conn)
        else:
            await self._accounts.sign_out(principal)
        rq.session.after_reply = lambda: conn.close(CloseCode.SIGNED_OUT, CloseCode.SIGNED_OUT.reason)
        return Empty()

    async def closed(self, session: Session) -> None:
        """A signed-in connection is gone."""
        self._hub.detach(session.conn)
        if session.principal is not None:
            await self._arrivals.disconnected(session.principal, session.conn)

    async def _close_sockets(
        self, principal: Principal, devices: tuple[str, ...] | None, code: CloseCode, but: Socket
    ) -> None:
        """Close the user's sockets on all nodes: of these devices (None: all), but not `but`."""
        order = CloseOrder(code, None if devices is None else list(devices), self._node, but.id)
        stream = user_stream(principal.user_id)
        await self._hub.broker.publish_ephemeral(stream, CLOSE_ORDER, msgspec.json.encode(order))

    def _obey(self, stream: str, data: bytes) -> None:
        order = msgspec.json.decode(data, type=CloseOrder)
        for conn in self._hub.following(stream):
            spared = order.node == self._node and order.but == conn.id
            if not spared and (order.devices is None or conn.principal.device_id in order.devices):
                conn.close(order.code, CloseCode(order.code).reason)

    async def run(self, sessions: Callable[[], Iterable[Session]]) -> None:
        """Until cancelled: warn and end sessions whose token runs out, and end those whose device was signed out."""
        async with asyncio.TaskGroup() as upkeep:
            upkeep.create_task(self._expire(sessions), name="sessions-expiry")
            upkeep.create_task(self._confirm(sessions), name="sessions-devices")

    async def _expire(self, sessions: Callable[[], Iterable[Session]]) -> None:
        while True:
            await asyncio.sleep(EXPIRY_CHECK_S)
            now_ms = _now_ms()
            for session in list(sessions()):
                if session.principal is not None:
                    _expire(session, session.principal.expires_at_ms, now_ms)

    async def _confirm(self, sessions: Callable[[], Iterable[Session]]) -> None:
        """Compare every signed-in device with the database once in `confirm_s`: for its "last seen", and because an
        order to close it is lost while Redis is away.
        """
        while True:
            present = list(sessions())
            batches = [present[start : start + CONFIRM_BATCH] for start in range(0, len(present), CONFIRM_BATCH)]
            for batch in batches:
                await asyncio.sleep(self._confirm_s / len(batches))
                try:
                    await self._confirm_batch([one for one in batch if one.principal is not None and not one.closed])
                except Exception as exc:  # the database is away, mostly; the next look makes it good
                    log.warning("devices_not_confirmed", error=repr(exc))
            if not batches:
                await asyncio.sleep(self._confirm_s)

    async def _confirm_batch(self, sessions: Sequence[Session]) -> None:
        devices = {(one.principal.user_id, one.principal.device_id): one for one in sessions if one.principal}
        gone = await self._accounts.touch_devices(list(devices)) if devices else ()
        for device in gone:
            devices[device].conn.close(CloseCode.SIGNED_OUT, CloseCode.SIGNED_OUT.reason)


def _expire(session: Session, expires_at_ms: int, now_ms: int) -> None:
    if now_ms >= expires_at_ms:
        session.conn.close(CloseCode.TOKEN_EXPIRED, CloseCode.TOKEN_EXPIRED.reason)
    elif now_ms >= expires_at_ms - EXPIRY_WARNING_MS and session.warned_of_ms != expires_at_ms:
        session.warned_of_ms = expires_at_ms
        event = Event("session.token_expiring", USER_STREAM, TokenExpiring(expires_at_ms), ts_ms=now_ms)
        session.conn.send_reply(session.conn.codec.encode(event))


def _end(conn: Socket, error: BaseException) -> None:
    """End a connection whose sign-in failed half-way, or for a reason that passes: waiting on it would lead nowhere."""
    if isinstance(error, RateLimited):
        conn.close(CloseCode.RATE_LIMITED, CloseCode.RATE_LIMITED.reason)
    elif not isinstance(error, TalkmeterError) or error.retryable:
        conn.close(CloseCode.OVERLOADED, CloseCode.OVERLOADED.reason)
    elif conn.principal is not None:
        conn.close(CloseCode.SIGNED_OUT, CloseCode.SIGNED_OUT.reason)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _bearer(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
