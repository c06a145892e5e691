"""The composition root: builds every part of a node once, joins them, starts and ends them in order.

Nothing else builds parts, and no part imports this module. What it owns is the order: what must be there before what,
and who is told last.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, cast

import asyncpg
import msgspec
import structlog
from starlette.applications import Starlette

from billing.tariffs import Tariff
from billing.worker import MeterWorker
from presence.batch import PresenceUnavailable
from presence.tracker import Person, Tracker
from realtime.accounts.firebase import FirebaseVerifier
from realtime.accounts.handlers import EVENTS as ACCOUNT_EVENTS
from realtime.accounts.handlers import AccountHandlers
from realtime.accounts.keys import KeyRing, load_keys
from realtime.accounts.service import HOST_ROLE, Accounts
from realtime.accounts.tokens import JwtVerifier, Verifier, Verifiers
from realtime.broker import Broker, Outgoing, user_stream
from realtime.calls.conductor import Conductor
from realtime.calls.handlers import EVENTS as CALL_EVENTS
from realtime.calls.handlers import CallHandlers
from realtime.calls.liveness import Liveness
from realtime.calls.meters import Meters
from realtime.calls.model import Limits
from realtime.calls.service import Calls
from realtime.calls.store import CallStore
from realtime.calls.workers import Deadlines, MeterNews, Proofs
from realtime.chat.handlers import EVENTS as CHAT_EVENTS
from realtime.chat.handlers import ChatHandlers
from realtime.chat.service import Chat
from realtime.config import Settings, SettingsError
from realtime.dev import DevGrant, prepare_user
from realtime.dispatch import Dispatcher, Rates
from realtime.hub import Hub
from realtime.idempotency import purge
from realtime.ids import new_id
from realtime.media.agora import AgoraProvider
from realtime.media.provider import MediaError, MediaProvider
from realtime.media.webrtc import WebRtcProvider
from realtime.outbox import Outbox, OutboxRow
from realtime.protocol.envelope import CODECS
from realtime.protocol.principal import Principal
from realtime.protocol.registry import EventType, Route
from realtime.session import EVENTS as SESSION_EVENTS
from realtime.session import Sessions, Snapshot
from realtime.transport.interface import Socket
from realtime.transport.options import SocketOptions
from realtime.transport.server import ListenOptions, Server
from realtime.wallet.errors import translate
from realtime.wallet.handlers import EVENTS as WALLET_EVENTS
from realtime.wallet.handlers import WalletHandlers
from realtime.wallet.service import Wallets
from realtime.web import http

log = structlog.get_logger()

HUB: Final = "hub"
JOBS: Final = "jobs"
APP_ROLE: Final = "talkmeter_app"
COMMAND_TIMEOUT_S: Final = 20.0  # of one statement; above every lock wait that is healthy
READY_TIMEOUT_S: Final = 2.0
POOL_CLOSE_TIMEOUT_S: Final = 5.0
PURGE_EVERY_S: Final = 300.0
PURGE_BATCHES_MAX: Final = 1_000  # what 5 minutes of the busiest node leave, with room to catch up
DEV_TOKEN_S: Final = 86_400


class Handlers(Protocol):
    """What a feature gives to dispatch."""

    def routes(self) -> list[Route]: ...


class BrokerPublisher:
    """The outbox's publisher: one log entry for each user of the audience."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def publish_rows(self, rows: Sequence[OutboxRow]) -> None:
        await self._broker.publish(
            [
                Outgoing(row.id, user_id, row.event, row.v, row.ts_ms, row.data)
                for row in rows
                for user_id in row.audience
            ]
        )


class TrackedArrivals:
    """Tells presence of sockets that come and go."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    async def connected(self, principal: Principal, conn: Socket) -> None:
        person = Person(principal.user_id, principal.tenant_id, principal.user, HOST_ROLE in principal.roles)
        await self._tracker.connected(person, conn.id, principal.device_id)

    async def disconnected(self, principal: Principal, conn: Socket) -> None:
        await self._tracker.disconnected(principal.user_id, conn.id)


class TrackedPresence:
    """What calls ask of presence. Owns the marks that are being written."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._marks: set[asyncio.Task[None]] = set()

    async def bookable(self, user_ids: Sequence[int]) -> Mapping[int, bool]:
        states = await self._tracker.states(user_ids)
        return {user_id: state.rings for user_id, state in states.items()}

    def busy(self, user_ids: Sequence[int], busy: bool) -> None:
        task = asyncio.get_running_loop().create_task(self._mark(tuple(user_ids), busy), name="busy mark")
        self._marks.add(task)
        task.add_done_callback(self._marks.discard)

    async def _mark(self, user_ids: Sequence[int], busy: bool) -> None:
        # Redis is away: the mark is healed from the calls when it is back.
        with contextlib.suppress(PresenceUnavailable):
            await self._tracker.set_busy(user_ids, busy)


class CallParts:
    """Everything that calls are made of, joined."""

    def __init__(
        self,
        settings: Settings,
        pool: asyncpg.Pool,
        outbox: Outbox,
        accounts: Accounts,
        broker: Broker,
        tracker: Tracker,
    ) -> None:
        def tariff_of(price_coins: int, pulse_ms: int) -> Tariff:
            return Tariff(
                price_coins=price_coins,
                pulse_ms=pulse_ms,
                commission_bp=settings.commission_bp,
                low_balance_ms=settings.low_balance_ms,
                grace_ms=settings.proof_grace_ms,
            )

        limits = Limits(
            ring_timeout_ms=settings.ring_timeout_ms,
            ring_cap_ms=settings.ring_cap_ms,
            connect_timeout_ms=settings.connect_timeout_ms,
        )
        store = CallStore()
        meters = Meters(tariff_of)
        liveness = Liveness()
        presence = TrackedPresence(tracker)
        conductor = Conductor(
            store=store,
            meters=meters,
            people=accounts,
            presence=presence,
            limits=limits,
            on_over=lambda call: liveness.forget(call.call_id, (call.caller_id, call.host_id)),
        )
        self.service = Calls(
            pool=pool,
            outbox=outbox,
            people=accounts,
            presence=presence,
            signals=broker,
            media=media_provider(settings),
            meters=meters,
            conductor=conductor,
            store=store,
            liveness=liveness,
            limits=limits,
        )
        self.deadlines = Deadlines(outbox=outbox, pool=pool, store=store, conductor=conductor)
        self.news = MeterNews(outbox=outbox, store=store, meters=meters, conductor=conductor)
        self.proofs = Proofs(pool=pool, meters=meters, liveness=liveness)


def media_provider(settings: Settings) -> MediaProvider:
    """Return the provider that the settings name.

    Raises:
        SettingsError: its own settings are wrong.
    """
    try:
        if settings.media_provider == "agora":
            return AgoraProvider(
                app_id=settings.agora_app_id,
                certificate=settings.agora_certificate,
                version=settings.agora_token_version,
            )
        return WebRtcProvider(
            stun_urls=_split(settings.stun_urls),
            turn_urls=_split(settings.turn_urls),
            turn_secret=settings.turn_secret,
        )
    except MediaError as exc:
        raise SettingsError(f"the media settings are wrong: {exc}") from None


def route_table() -> list[Route]:
    """Return the rows of every operation, for the documents; their handlers have no parts behind them."""
    nothing = cast(Any, None)
    handlers: list[Handlers] = [
        Sessions.__new__(Sessions),
        AccountHandlers(nothing),
        CallHandlers(nothing),
        WalletHandlers(nothing),
        ChatHandlers(nothing),
    ]
    return [route for handler in handlers for route in handler.routes()]


def event_table() -> list[EventType]:
    """Return the rows of every event."""
    return [*SESSION_EVENTS, *ACCOUNT_EVENTS, *CALL_EVENTS, *WALLET_EVENTS, *CHAT_EVENTS]


class App:
    """One node: what its roles need, started in order.

    Args:
        roles: HUB holds sockets; JOBS does the work that any node can do (metering, relay, push, deadlines).
    """

    def __init__(self, settings: Settings, roles: frozenset[str]) -> None:
        self.settings = settings
        self.roles = roles
        self.node = new_id().hex[-12:]
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []
        self._pool: asyncpg.Pool | None = None
        self._broker: Broker | None = None
        self._server: Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return self._server.url

    def failed(self) -> str | None:
        """Return the name of a task that ended, which none does while all is well."""
        return next((task.get_name() for task in self._tasks if task.done()), None)

    async def start(self, sock: socket.socket | None = None) -> None:
        """Start everything; when it returns, the node serves.

        Args:
            sock: a listening socket of the supervisor; without it the settings' address is bound.
        """
        try:
            await self._start(sock)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Drain the sockets, end the tasks, close what is open: the reverse of the start."""
        await self._stack.aclose()
        self._tasks.clear()

    # Building.

    async def _start(self, sock: socket.socket | None) -> None:
        settings = self.settings
        pool = self._pool = await self._open_pool()
        broker = self._broker = Broker(settings.redis_url, settings.redis_prefix)
        self._stack.push_async_callback(broker.close)
        hub = Hub(broker)
        outbox = Outbox(pool, BrokerPublisher(broker))
        keys = load_keys(settings.jwt_secret, settings.data_path)
        accounts = Accounts(pool)
        tracker = await self._open_tracker(broker)
        calls = CallParts(settings, pool, outbox, accounts, broker, tracker)
        wallets = Wallets(pool=pool, people=accounts, calls=calls.service, commission_bp=settings.commission_bp)
        chat = Chat(pool, outbox, accounts, publish_ephemeral=partial(_whisper, broker))
        snapshots: dict[str, Snapshot] = {
            "calls": calls.service.snapshot,
            "wallet": wallets.snapshot,
            "unread": chat.unread,
        }
        sessions = Sessions(
            verifiers=self._verifiers(keys),
            accounts=accounts,
            hub=hub,
            node=self.node,
            arrivals=TrackedArrivals(tracker),
            snapshots=snapshots,
            heartbeat_ms=settings.heartbeat_ms,
        )
        handlers: list[Handlers] = [
            sessions,
            AccountHandlers(accounts),
            CallHandlers(calls.service),
            WalletHandlers(wallets),
            ChatHandlers(chat),
        ]
        if JOBS in self.roles:
            self._run_jobs(pool, calls)
        self._spawn(outbox.run(), "outbox")
        if HUB in self.roles:
            self._spawn(calls.proofs.run(), "proofs")
            dispatcher = self._dispatcher(pool, outbox, sessions, calls)
            for handler in handlers:
                dispatcher.add(handler.routes(), CODECS.values())
            await hub.start()
            self._stack.push_async_callback(hub.close)
            self._spawn(sessions.run(dispatcher.sessions.values), "sessions")
            mint_dev = partial(self._mint_dev, keys, accounts, outbox) if settings.dev else None
            await self._listen(dispatcher, http.build(ready=self._ready, mint_dev=mint_dev), sock)

    async def _open_pool(self) -> asyncpg.Pool:
        pool = await asyncpg.create_pool(
            self.settings.database_url,
            min_size=2,
            max_size=self.settings.database_pool_size,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings={"role": APP_ROLE, "application_name": f"talkmeter-{self.node}"},
        )
        self._stack.push_async_callback(_close_pool, pool)
        return pool

    async def _open_tracker(self, broker: Broker) -> Tracker:
        tracker = Tracker(broker.backend.client, node=self.node, prefix=self.settings.redis_prefix)
        if HUB in self.roles:
            await tracker.start()
            self._stack.push_async_callback(tracker.close)
        return tracker

    def _verifiers(self, keys: KeyRing) -> Verifiers:
        settings = self.settings
        verifiers: list[Verifier] = [
            JwtVerifier(
                keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience, default_tenant=settings.tenant
            )
        ]
        if settings.firebase_project_id:
            firebase = FirebaseVerifier(
                settings.firebase_project_id,
                default_tenant=settings.tenant,
                clock_skew_s=settings.firebase_clock_skew_s,
                dev=settings.dev,
            )
            self._stack.callback(firebase.close)
            verifiers.append(firebase)
        return Verifiers(verifiers)

    def _dispatcher(self, pool: asyncpg.Pool, outbox: Outbox, sessions: Sessions, calls: CallParts) -> Dispatcher:
        dispatcher = Dispatcher(
            outbox=outbox,
            pool=pool,
            rates=Rates(self.settings.requests_per_s, self.settings.requests_burst),
            on_closed=sessions.closed,
            on_ack=calls.service.acknowledged,
            translate=translate,
        )
        self._stack.push_async_callback(dispatcher.close)
        return dispatcher

    def _run_jobs(self, pool: asyncpg.Pool, calls: CallParts) -> None:
        self._spawn(calls.deadlines.run(), "deadlines")
        self._spawn(calls.news.run(), "meter news")
        self._spawn(MeterWorker(pool, wake=calls.news.wake).run(), "meters")
        self._spawn(_purge(pool), "purge")

    async def _listen(self, dispatcher: Dispatcher, app: Starlette, sock: socket.socket | None) -> None:
        settings = self.settings
        server = Server(
            app,
            dispatcher,
            CODECS,
            listen=ListenOptions(
                host=settings.host,
                port=settings.port,
                sock=sock,
                tls_certificate=settings.tls_certificate,
                tls_key=settings.tls_key,
                trusted_proxies=_split(settings.trusted_proxies),
                drain_ms=settings.drain_ms,
            ),
            sockets=SocketOptions(
                origins=_split(settings.allowed_origins),
                trusted_proxies=_split(settings.trusted_proxies),
                message_bytes_max=settings.frame_bytes_max,
                outbox_bytes_max=settings.outbox_bytes_max,
                connections_max=settings.connections_max,
                unauthenticated_max=settings.unauthenticated_max,
                unauthenticated_per_ip_max=settings.unauthenticated_per_ip_max,
                sign_in_timeout_ms=settings.sign_in_timeout_ms,
                heartbeat_ms=settings.heartbeat_ms,
                compression=settings.compression,
            ),
        )
        await server.start()
        self._server = server
        self._stack.push_async_callback(server.stop)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        self._stack.push_async_callback(_cancel, task)

    # What HTTP asks for.

    async def _ready(self) -> dict[str, str]:
        async def database() -> None:
            assert self._pool is not None
            await self._pool.fetchval("select 1")

        async def redis() -> None:
            assert self._broker is not None
            await self._broker.ping()

        async def state(check: Callable[[], Awaitable[None]]) -> str:
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await check()
            except Exception as exc:
                return f"{type(exc).__name__}: {exc}".strip()
            return "ok"

        return {"database": await state(database), "redis": await state(redis)}

    async def _mint_dev(self, keys: KeyRing, accounts: Accounts, outbox: Outbox, user: http.DevUser) -> dict[str, Any]:
        wish = DevGrant(
            user=user.user,
            name=user.name,
            host=user.host,
            coins=user.coins,
            price_coins=user.price_coins,
            pulse_ms=user.pulse_ms,
            languages=tuple(user.languages),
            tags=tuple(user.tags),
            media=tuple(user.media),
        )
        token = await prepare_user(self.settings, keys, accounts, outbox, wish, ttl_s=DEV_TOKEN_S)
        return {"token": token, "user": user.user}


async def _whisper(broker: Broker, user_id: int, event: str, data: msgspec.Struct) -> None:
    """Send an event that may be lost to a user's live sockets."""
    await broker.publish_ephemeral(user_stream(user_id), event, msgspec.json.encode(data))


async def _purge(pool: asyncpg.Pool) -> None:
    """Forget old replies, in small batches, until cancelled."""
    while True:
        await asyncio.sleep(PURGE_EVERY_S)
        try:
            async with pool.acquire() as conn:
                for _ in range(PURGE_BATCHES_MAX):
                    if not await purge(conn):
                        break
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as exc:
            log.warning("purge_failed", error=repr(exc))


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _close_pool(pool: asyncpg.Pool) -> None:
    try:
        async with asyncio.timeout(POOL_CLOSE_TIMEOUT_S):
            await pool.close()
    except TimeoutError:
        pool.terminate()


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
