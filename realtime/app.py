"""The composition root: builds every part of a node once, joins them, starts and ends them in order.

Nothing else builds parts, and no part imports this module. What it owns is the order: what must be there before what,
and who is told last.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import asyncpg
import msgspec
import structlog
from starlette.applications import Starlette

from billing.audit import Auditor
from billing.worker import MeterWorker
from presence.tracker import Tracker
from realtime.accounts.firebase import FirebaseVerifier
from realtime.accounts.handlers import AccountHandlers
from realtime.accounts.keys import KeyRing, load_keys
from realtime.accounts.service import Accounts
from realtime.accounts.tokens import JwtVerifier, Verifier, Verifiers
from realtime.broker import Broker, user_stream
from realtime.calls.handlers import CallHandlers
from realtime.catalog import Handlers
from realtime.channels.handlers import ChannelHandlers
from realtime.channels.service import Channels
from realtime.chat.handlers import ChatHandlers
from realtime.chat.service import Chat
from realtime.config import Settings
from realtime.database import open_pool
from realtime.dev import DevGrant, prepare_user
from realtime.dispatch import Dispatcher
from realtime.hub import Hub
from realtime.ids import new_id
from realtime.joints import Arrivals, BrokerPublisher, CallParts, Marks
from realtime.listening import listen_options, socket_options
from realtime.metrics import Metrics
from realtime.outbox import Outbox
from realtime.presence_api.handlers import PresenceHandlers
from realtime.presence_api.service import Presence
from realtime.protocol.envelope import CODECS
from realtime.protocol.principal import Principal
from realtime.push.handlers import PushHandlers
from realtime.push.parts import PushParts
from realtime.push.service import Pushes
from realtime.rates import Rates, SharedRates, read_limits
from realtime.session import Sessions
from realtime.transport.outbox import broadcast
from realtime.transport.server import Server
from realtime.upkeep import observe_audit, observe_meter_fault, purge
from realtime.wallet.errors import translate
from realtime.wallet.handlers import WalletHandlers
from realtime.wallet.service import Wallets
from realtime.web import http

log = structlog.get_logger()

HUB: Final = "hub"
JOBS: Final = "jobs"
READY_TIMEOUT_S: Final = 2.0
POOL_CLOSE_TIMEOUT_S: Final = 5.0
DEV_TOKEN_S: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What both roles of a node need, made once and joined."""

    pool: asyncpg.Pool
    broker: Broker
    hub: Hub
    keys: KeyRing
    accounts: Accounts
    presence: Presence
    marks: Marks
    outbox: Outbox
    calls: CallParts
    wallets: Wallets
    chat: Chat
    push: PushParts | None
    pushes: Pushes
    metrics: Metrics


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
        parts = await self._build()
        await parts.presence.start()
        self._stack.push_async_callback(parts.presence.close)
        self._stack.push_async_callback(parts.marks.close)
        parts.metrics.source("talkmeter_outbox_relayed_total", lambda: parts.outbox.relayed)
        self._spawn(parts.metrics.run(), "metrics")
        self._spawn(parts.outbox.run(), "outbox")
        if JOBS in self.roles:
            self._run_jobs(parts)
        if HUB in self.roles:
            await self._run_hub(parts, sock)

    async def _build(self) -> Parts:
        """Make what both roles need; nothing of it runs yet."""
        settings = self.settings
        pool = self._pool = await self._open_pool()
        broker = self._broker = Broker(settings.redis_url, settings.redis_prefix)
        self._stack.push_async_callback(broker.close)
        hub = Hub(broker, fan_out=broadcast)
        accounts = Accounts(pool, push_enabled=bool(settings.firebase_credentials))
        self._stack.push_async_callback(accounts.close)
        presence = Presence(
            broker,
            hub,
            node=self.node,
            profiles=accounts,
            resolve=accounts.resolve,
            busy_of=lambda users: calls.service.busy_of(users),
            woken_of=accounts.woken_of if accounts.push_enabled else None,
        )
        push = self._push_parts(pool, accounts, presence.tracker)
        outbox = Outbox(pool, BrokerPublisher(broker), push.planner if push else None)
        marks = Marks(presence.tracker, accounts)
        accounts.on_host_changed = presence.host_changed
        accounts.on_push_changed = marks.push_changed
        calls = CallParts(settings, pool, outbox, accounts, broker, marks)
        return Parts(
            pool=pool,
            broker=broker,
            hub=hub,
            keys=load_keys(settings.jwt_secret, settings.data_path),
            accounts=accounts,
            presence=presence,
            marks=marks,
            outbox=outbox,
            calls=calls,
            wallets=Wallets(
                pool=pool,
                outbox=outbox,
                people=accounts,
                calls=calls.service,
                commission_bp=settings.commission_bp,
            ),
            chat=Chat(pool, outbox, accounts, publish_ephemeral=partial(_whisper, broker)),
            push=push,
            pushes=Pushes(pool),
            metrics=Metrics(self.node, broker.backend.client, settings.redis_prefix),
        )

    def _run_jobs(self, parts: Parts) -> None:
        """Start what any node can do: every job claims its work in the database."""
        pool, calls, metrics = parts.pool, parts.calls, parts.metrics
        self._spawn(calls.deadlines.run(), "deadlines")
        self._spawn(calls.news.run(), "meter news")
        self._spawn(
            MeterWorker(pool, wake=calls.news.wake, on_fault=partial(observe_meter_fault, metrics)).run(), "meters"
        )
        self._spawn(purge(pool, parts.pushes), "purge")
        self._spawn(Auditor(pool, observe=partial(observe_audit, metrics)).run(), "audit")
        if parts.push is not None:
            self._spawn(parts.push.worker.run(), "push")

    async def _run_hub(self, parts: Parts, sock: socket.socket | None) -> None:
        """Start what holds sockets, and listen."""
        hub, calls, metrics = parts.hub, parts.calls, parts.metrics
        await hub.start()
        self._stack.push_async_callback(hub.close)
        channels = Channels(parts.broker, hub, node=self.node)
        self._stack.push_async_callback(channels.close)
        arrivals = Arrivals(parts.presence, channels)
        self._stack.push_async_callback(arrivals.settle)
        rates = self._rates(parts)
        sessions = Sessions(
            verifiers=self._verifiers(parts.keys),
            accounts=parts.accounts,
            hub=hub,
            node=self.node,
            arrivals=arrivals,
            rates=rates,
            snapshots={"calls": calls.service.snapshot, "wallet": parts.wallets.snapshot, "unread": parts.chat.unread},
            heartbeat_ms=self.settings.heartbeat_ms,
        )
        gifts = parts.wallets.desk
        self._spawn(gifts.run(), "gifts")  # before the dispatcher: it is stopped after the last request
        dispatcher = self._dispatcher(parts, sessions, rates)
        handlers: list[Handlers] = [
            sessions,
            AccountHandlers(parts.accounts, host_status=parts.presence.status_of),
            PresenceHandlers(parts.presence),
            CallHandlers(calls.service),
            WalletHandlers(parts.wallets),
            ChatHandlers(parts.chat),
            PushHandlers(parts.pushes),
            ChannelHandlers(channels, hub),
        ]
        for handler in handlers:
            dispatcher.add(handler.routes(), CODECS.values())
        self._spawn(channels.run(), "channels")
        self._spawn(calls.proofs.run(), "proofs")
        self._spawn(sessions.run(dispatcher.sessions.values), "sessions")
        metrics.source("talkmeter_connections", lambda: len(dispatcher.sessions))
        metrics.source("talkmeter_requests_total", lambda: dispatcher.handled)
        metrics.source("talkmeter_streams", hub.stream_count)
        metrics.source("talkmeter_stream_gaps_total", lambda: hub.gaps)
        metrics.source("talkmeter_resyncs_total", lambda: hub.resyncs)
        metrics.source("talkmeter_broker_connected", lambda: parts.broker.connected)
        metrics.source("talkmeter_call_sides", lambda: len(calls.liveness))
        metrics.source("talkmeter_gifts_total", lambda: gifts.booked)
        metrics.source("talkmeter_gift_batches_total", lambda: gifts.batches)
        metrics.source("talkmeter_gifts_waiting", lambda: gifts.waiting)
        mint_dev = partial(self._mint_dev, parts) if self.settings.dev else None
        await self._listen(dispatcher, http.build(ready=self._ready, metrics=metrics.page, mint_dev=mint_dev), sock)
        self._stack.callback(arrivals.drain)

    async def _open_pool(self) -> asyncpg.Pool:
        pool = await open_pool(
            self.settings.database_url,
            name=f"talkmeter-{self.node}",
            min_size=2,
            max_size=self.settings.database_pool_size,
        )
        self._stack.push_async_callback(_close_pool, pool)
        return pool

    def _push_parts(self, pool: asyncpg.Pool, accounts: Accounts, tracker: Tracker) -> PushParts | None:
        """Return the parts of push, or None when no service account is set: then nobody is woken."""
        settings = self.settings
        if not settings.firebase_credentials:
            return None
        push = PushParts(
            pool,
            accounts,
            online=tracker.online,
            certificate=settings.firebase_credentials,
            url=settings.fcm_url,
        )
        self._stack.push_async_callback(push.close)
        return push

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

    def _rates(self, parts: Parts) -> Rates:
        limits = read_limits(self.settings)
        shared = SharedRates(parts.broker.backend.client, self.settings.redis_prefix, limits.everywhere)
        rates = Rates(limits, shared)
        parts.metrics.by_label("talkmeter_rate_limited_total", lambda: rates.refused)
        parts.metrics.source("talkmeter_rates_unshared_total", lambda: shared.unshared)
        return rates

    def _dispatcher(self, parts: Parts, sessions: Sessions, rates: Rates) -> Dispatcher:
        async def acknowledged(who: Principal, event_ids: Sequence[str]) -> None:
            # First what stops a push, which must not depend on whether the call is still there.
            await parts.pushes.confirm(who.user_id, event_ids, now_ms=time.time_ns() // 1_000_000)
            await parts.calls.service.acknowledged(who, event_ids)

        dispatcher = Dispatcher(
            outbox=parts.outbox,
            pool=parts.pool,
            rates=rates,
            on_closed=sessions.closed,
            on_ack=acknowledged,
            translate=translate,
        )
        self._stack.push_async_callback(dispatcher.close)
        return dispatcher

    async def _listen(self, dispatcher: Dispatcher, app: Starlette, sock: socket.socket | None) -> None:
        server = Server(
            app, dispatcher, CODECS, listen=listen_options(self.settings, sock), sockets=socket_options(self.settings)
        )
        await server.start()
        self._server = server
        self._stack.push_async_callback(server.stop)
        self._stack.callback(dispatcher.drain)

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

    async def _mint_dev(self, parts: Parts, user: http.DevUser) -> dict[str, Any]:
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
        token = await prepare_user(self.settings, parts.keys, parts.accounts, parts.outbox, wish, ttl_s=DEV_TOKEN_S)
        return {"token": token, "user": user.user}


async def _whisper(broker: Broker, user_id: int, event: str, data: msgspec.Struct) -> None:
    """Send an event that may be lost to a user's live sockets."""
    await broker.publish_ephemeral(user_stream(user_id), event, msgspec.json.encode(data))


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _close_pool(pool: asyncpg.Pool) -> None:
    try:
        async with asyncio.timeout(POOL_CLOSE_TIMEOUT_S):
            await pool.close()
    except TimeoutError:
        pool.terminate()
