"""The session.* operations: signing in and out, refreshing a token, and the end of one that expired.

Owns the way from a token to a signed-in connection with its event stream open. Imports accounts and presence through
their services; the snapshot of each feature is given by app.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta, Struct

from realtime.accounts.models import Device
from realtime.accounts.service import Accounts
from realtime.accounts.tokens import Verifiers
from realtime.broker import Position, user_stream
from realtime.dispatch import Request, Session
from realtime.hub import Hub
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.envelope import Event
from realtime.protocol.errors import Conflict, Unauthenticated
from realtime.protocol.principal import Principal
from realtime.protocol.registry import Empty, EventType, Route
from realtime.transport.interface import Socket

USER_STREAM = "user"
CLOSE_ORDER = "_close"
EXPIRY_CHECK_S = 1.0
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

    async def connected(self, principal: Principal, conn: Socket) -> None: ...

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
        snapshots: Mapping[str, Snapshot],
        heartbeat_ms: int,
    ) -> None:
        self._verifiers = verifiers
        self._accounts = accounts
        self._hub = hub
        self._node = node
        self._arrivals = arrivals
        self._snapshots = snapshots
        self._heartbeat_ms = heartbeat_ms
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
        identity = await self._verifiers.verify(token, now_ms=rq.now_ms)
        device = Device(device_id=msg.device_id, platform=msg.platform, app_version=msg.app_version)
        signed = await self._accounts.sign_in(identity, device)
        principal = signed.principal
        position = next((Position(p.epoch, p.offset) for p in msg.streams if p.stream == USER_STREAM), None)
        conn.sign_in(principal)
        replay = await self._hub.open_stream(conn, principal.user_id, position)
        session.after_reply = partial(self._hub.flow, conn)
        session.principal = principal
        if session.closed:
            self._hub.detach(conn)  # gone while it signed in: nobody else will
            raise Unauthenticated("the connection closed while it signed in")
        await self._arrivals.connected(principal, conn)
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
        """Warn and end sessions whose token runs out, until cancelled."""
        while True:
            await asyncio.sleep(EXPIRY_CHECK_S)
            now_ms = time.time_ns() // 1_000_000
            for session in list(sessions()):
                if session.principal is not None:
                    _expire(session, session.principal.expires_at_ms, now_ms)


def _expire(session: Session, expires_at_ms: int, now_ms: int) -> None:
    if now_ms >= expires_at_ms:
        session.conn.close(CloseCode.TOKEN_EXPIRED, CloseCode.TOKEN_EXPIRED.reason)
    elif now_ms >= expires_at_ms - EXPIRY_WARNING_MS and session.warned_of_ms != expires_at_ms:
        session.warned_of_ms = expires_at_ms
        event = Event("session.token_expiring", USER_STREAM, TokenExpiring(expires_at_ms), ts_ms=now_ms)
        session.conn.send_reply(session.conn.codec.encode(event))


def _bearer(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
