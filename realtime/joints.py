"""Adapters between parts that do not know each other. app.py makes them; they own nothing but the translation.

Each is what one part needs of others, in that part's words: the outbox publishes through the broker, sessions tell
presence and channels, calls ask presence.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

import asyncpg

from billing.tariffs import Tariff
from presence.batch import PresenceUnavailable
from presence.tracker import Arrival, Tracker
from realtime.accounts.service import Accounts
from realtime.broker import Broker, Outgoing
from realtime.calls.conductor import Conductor
from realtime.calls.liveness import Liveness
from realtime.calls.meters import Meters
from realtime.calls.model import Limits
from realtime.calls.service import Calls
from realtime.calls.store import CallStore
from realtime.calls.workers import Deadlines, MeterNews, Proofs
from realtime.channels.service import Channels
from realtime.config import Settings, SettingsError, split
from realtime.media.agora import AgoraProvider
from realtime.media.provider import MediaError, MediaProvider
from realtime.media.webrtc import WebRtcProvider
from realtime.outbox import Outbox, OutboxRow
from realtime.presence_api.service import Presence
from realtime.protocol.errors import Unavailable
from realtime.protocol.principal import Principal
from realtime.transport.interface import Socket

RECONNECT_S: Final = 1.0  # a client comes back within half a second (its backoff's first bound), and signs in


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


class Arrivals:
    """Tells presence and channels of sockets that come and go.

    While this node drains, those who go are on their way to another node. To presence they stay here until it is
    closed, so that a host can be rung while she reconnects: the ring is in her log when she arrives.
    """

    def __init__(self, presence: Presence, channels: Channels) -> None:
        self._presence = presence
        self._channels = channels
        self._draining = False
        self._left_at = -RECONNECT_S  # monotonic seconds, of the last socket that went in the drain

    def drain(self) -> None:
        """From now on sockets go because the node does."""
        self._draining = True

    async def settle(self) -> None:
        """Give whoever left during the drain the time to arrive elsewhere; at once when nobody did."""
        wait_s = self._left_at + RECONNECT_S - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def connected(self, principal: Principal, conn: Socket) -> Arrival:
        return self._presence.connected(principal, conn)

    async def revoked(self, user_id: int, issued_before_ms: int) -> None:
        await self._presence.revoked(user_id, issued_before_ms)

    async def disconnected(self, principal: Principal, conn: Socket) -> None:
        self._channels.forget(conn)
        if self._draining:
            self._left_at = time.monotonic()
            self._presence.forget(conn)
        else:
            await self._presence.disconnected(principal, conn)


class Marks:
    """What calls and accounts tell presence after a commit, and what calls ask of it.

    Owns the marks that are being written. While Redis is away they are lost, and healed from the database later.
    """

    def __init__(self, tracker: Tracker, accounts: Accounts) -> None:
        self._tracker = tracker
        self._accounts = accounts
        self._writing: set[asyncio.Task[None]] = set()

    async def bookable(self, user_ids: Sequence[int], *, conn: asyncpg.Connection) -> Mapping[int, bool]:
        """Return whether each may be rung now; a user whom presence has forgotten may be, if a push can wake them."""
        try:
            states = await self._tracker.states(user_ids)
        except PresenceUnavailable as exc:
            raise Unavailable(f"presence: {exc}") from exc
        forgotten = [user_id for user_id, state in states.items() if not state.tenant_id]
        targets = await self._accounts.push_targets(forgotten, conn=conn) if forgotten else []
        woken = {target.user_id for target in targets}
        return {user_id: state.rings or user_id in woken for user_id, state in states.items()}

    def busy(self, user_ids: Sequence[int], busy: bool) -> None:
        self._write(self._tracker.set_busy(tuple(user_ids), busy))

    def push_changed(self, user_id: int) -> None:
        self._write(self._set_push_reachable(user_id))

    async def _set_push_reachable(self, user_id: int) -> None:
        woken = await self._accounts.woken_of((user_id,))
        await self._tracker.set_push_reachable((user_id,), bool(woken))

    def _write(self, mark: Coroutine[Any, Any, None]) -> None:
        async def write() -> None:
            with contextlib.suppress(PresenceUnavailable, asyncpg.InterfaceError, OSError):
                await mark

        task = asyncio.get_running_loop().create_task(write(), name="presence mark")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def close(self) -> None:
        """Wait for the marks that are being written; each is one bounded command."""
        await asyncio.gather(*self._writing, return_exceptions=True)


class CallParts:
    """Everything that calls are made of, joined."""

    def __init__(
        self,
        settings: Settings,
        pool: asyncpg.Pool,
        outbox: Outbox,
        accounts: Accounts,
        broker: Broker,
        presence: Marks,
    ) -> None:
        def tariff_of(price_coins: int, pulse_ms: int) -> Tariff:
            return Tariff(
                price_coins=price_coins,
                pulse_ms=pulse_ms,
                commission_bp=settings.commission_bp,
                low_balance_ms=settings.low_balance_thresholds_ms,
                grace_ms=settings.proof_grace_ms,
            )

        limits = Limits(
            ring_timeout_ms=settings.ring_timeout_ms,
            ring_cap_ms=settings.ring_cap_ms,
            connect_timeout_ms=settings.connect_timeout_ms,
        )
        store = CallStore()
        meters = Meters(tariff_of)
        liveness = self.liveness = Liveness(grace_ms=settings.proof_grace_ms)
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
        self.news = MeterNews(outbox=outbox, pool=pool, store=store, meters=meters, conductor=conductor)
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
            stun_urls=split(settings.stun_urls),
            turn_urls=split(settings.turn_urls),
            turn_secret=settings.turn_secret,
        )
    except MediaError as exc:
        raise SettingsError(f"the media settings are wrong: {exc}") from None
