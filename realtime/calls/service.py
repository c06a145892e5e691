"""Calls: everything that users do with them, each in one transaction with its events.

Owns who may do what with which call. The rules are in rules.py, their effects in conductor.py; time-outs and the
meter's news are in workers.py. Never touches sockets; never imports another feature's store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from realtime.broker import Outgoing
from realtime.calls.conductor import Conductor
from realtime.calls.invites import Invites
from realtime.calls.liveness import Liveness
from realtime.calls.meters import Meters
from realtime.calls.model import (
    Accept,
    Call,
    Cancel,
    Decline,
    HangUp,
    Limits,
    Media,
    MediaDown,
    MediaUp,
    Received,
    Side,
    State,
)
from realtime.calls.ports import Heard, People, Presence, Signals
from realtime.calls.receipts import ReceiptView, receipt_view
from realtime.calls.store import CallStore
from realtime.calls.views import CallSignal, CallView, call_view, incoming_event_id
from realtime.ids import new_id
from realtime.media.provider import Grant, MediaCredentials, MediaProvider
from realtime.outbox import Outbox, Tx
from realtime.protocol.errors import (
    CallOver,
    Forbidden,
    InvalidData,
    InvalidTransition,
    NotFound,
    PayloadTooLarge,
)
from realtime.protocol.principal import Principal

SIGNAL_BYTES_MAX: Final = 16 * 1024  # a session description of a video call with all codecs is about 8 KB
HISTORY_PAGE_MAX: Final = 100
TALKING: Final = (State.ACCEPTED, State.CONNECTED)


@dataclass(frozen=True, slots=True)
class Invited:
    """The answer to an invite: the call, and credentials when it connected two invites that had crossed."""

    call: Call
    media: MediaCredentials | None = None


class Calls:
    """The service. Methods that take `tx` belong to the caller's transaction; the others open their own."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        outbox: Outbox,
        people: People,
        presence: Presence,
        signals: Signals,
        media: MediaProvider,
        meters: Meters,
        conductor: Conductor,
        store: CallStore,
        liveness: Liveness,
        limits: Limits,
    ) -> None:
        self._pool = pool
        self._outbox = outbox
        self._people = people
        self._signals = signals
        self._provider = media
        self._meters = meters
        self._conductor = conductor
        self._store = store
        self._liveness = liveness
        self._limits = limits
        self._invites = Invites(
            people=people, presence=presence, meters=meters, conductor=conductor, store=store, limits=limits
        )

    # Ringing.

    async def invite(
        self, tx: Tx, who: Principal, *, host: str, media: Media, shown_coins: int | None = None
    ) -> Invited:
        """Ring a host; see `Invites.invite`, also for what it raises."""
        call = await self._invites.invite(tx, who, host=host, media=media, shown_coins=shown_coins)
        if call.state is not State.ACCEPTED:
            return Invited(call)
        return Invited(call, self._credentials(call, Side.HOST, await self._store.now_ms(tx.conn)))

    async def acknowledged(self, who: Principal, event_ids: Sequence[str]) -> None:
        """A device has confirmed events; the first that confirms a ring starts the ring clock."""
        async with self._pool.acquire() as conn:
            live = await self._store.live_of(conn, [who.user_id])
        rung = [c for c in live if c.state is State.INVITING and c.host_id == who.user_id]
        for call in rung:
            if str(incoming_event_id(call)) in event_ids:
                async with self._outbox.transaction(who.tenant_id) as tx:
                    await self._conductor.act(tx, who.user_id, call.call_id, Received())

    async def accept(self, tx: Tx, who: Principal, call_id: UUID) -> tuple[Call, MediaCredentials]:
        """Answer on this device: the first one wins.

        Raises:
            NotFound, Forbidden, CallOver, Conflict (another device has answered).
        """
        call = await self._conductor.act(tx, who.user_id, call_id, Accept(who.device_id), only=Side.HOST)
        return call, self._credentials(call, Side.HOST, await self._store.now_ms(tx.conn))

    async def decline(self, tx: Tx, who: Principal, call_id: UUID) -> Call:
        """Refuse a ringing call. Raises NotFound, Forbidden, CallOver, InvalidTransition."""
        return await self._conductor.act(tx, who.user_id, call_id, Decline(), only=Side.HOST)

    async def cancel(self, tx: Tx, who: Principal, call_id: UUID) -> Call:
        """Give up before the answer. Raises NotFound, Forbidden, CallOver, InvalidTransition (then hang up)."""
        return await self._conductor.act(tx, who.user_id, call_id, Cancel(), only=Side.CALLER)

    async def hang_up(
        self, tx: Tx, who: Principal, call_id: UUID, *, sent_ms_ago: int
    ) -> tuple[Call, ReceiptView | None]:
        """End a call in any state; it takes effect when it was sent, at most 5 s back. Ended already: no error."""
        side = (await self._mine(tx.conn, who, call_id))[1]
        call = await self._conductor.act(tx, who.user_id, call_id, HangUp(side, sent_ms_ago))
        return call, await self._receipt(tx.conn, call, side)

    # Talking.

    async def media_up(self, who: Principal, call_id: UUID, conn: Heard) -> CallView:
        """A side says that media flows: the first time it may start the meter, later it is proof of life.

        Raises:
            NotFound, Forbidden (another device has the call), CallOver, InvalidTransition (not answered yet).
        """
        known = self._liveness.media_again(call_id, who.user_id, device_id=who.device_id, conn=conn)
        if known is not None:
            return known
        async with self._outbox.transaction(who.tenant_id) as tx:
            call, side = await self._mine(tx.conn, who, call_id)
            _refuse_other_device(call, side, who)
            call = await self._conductor.act(tx, who.user_id, call_id, MediaUp(side))
            view = await self._view(tx.conn, call, side)
        if call.live:
            self._liveness.media_up(call_id, who.user_id, side, device_id=who.device_id, conn=conn, view=view)
        return view

    async def media_down(self, who: Principal, call_id: UUID) -> CallView:
        """A side says that media has stopped. Raises NotFound, Forbidden, InvalidTransition."""
        async with self._outbox.transaction(who.tenant_id) as tx:
            call, side = await self._mine(tx.conn, who, call_id)
            _refuse_other_device(call, side, who)
            self._liveness.media_down(call_id, who.user_id)
            call = await self._conductor.act(tx, who.user_id, call_id, MediaDown(side))
            return await self._view(tx.conn, call, side)

    async def signal(self, who: Principal, call_id: UUID, *, kind: str, payload: Any, now_ms: int) -> None:
        """Pass a WebRTC message to the other side's device, unread.

        Raises:
            PayloadTooLarge, InvalidData, NotFound, Forbidden, CallOver, InvalidTransition (not answered yet).
        """
        _refuse_unfit(payload)
        async with self._pool.acquire() as conn:
            call, side = await self._mine(conn, who, call_id)
        _refuse_unless_talking(call)
        _refuse_other_device(call, side, who)
        to_device = call.accepted_device if side is Side.CALLER else call.caller_device
        data = CallSignal(str(call_id), kind, payload, who.device_id, to_device or "")
        event = Outgoing(
            event_id=new_id(),
            user_id=call.user_of(side.other),
            event="call.signal",
            v=0,
            ts_ms=now_ms,
            data=msgspec.json.encode(data),
        )
        await self._signals.publish([event])

    async def credentials(self, who: Principal, call_id: UUID) -> MediaCredentials:
        """Return media credentials that last as long as the call is funded.

        Raises:
            NotFound, Forbidden, CallOver, InvalidTransition (not answered yet).
        """
        async with self._pool.acquire() as conn:
            call, side = await self._mine(conn, who, call_id)
            now_ms = await self._store.now_ms(conn)
        _refuse_unless_talking(call)
        _refuse_other_device(call, side, who)
        return self._credentials(call, side, now_ms)

    # Looking.

    async def get(self, who: Principal, call_id: UUID) -> CallView:
        """Return one call of this user. Raises NotFound."""
        async with self._pool.acquire() as conn:
            call, side = await self._mine(conn, who, call_id)
            return await self._view(conn, call, side)

    async def active(self, user_id: int) -> list[CallView]:
        """Return the call that the user is in, if any: what a device needs that signs in without a stream."""
        async with self._pool.acquire() as conn:
            return await self._views(conn, await self._store.live_of(conn, [user_id]), user_id)

    async def snapshot(self, who: Principal) -> list[CallView]:
        """Return the calls of a sign-in's snapshot."""
        return await self.active(who.user_id)

    async def busy_of(self, user_ids: Collection[int]) -> set[int]:
        """Return which of these users are in a call now: what presence mends its marks by."""
        async with self._pool.acquire() as conn:
            return await self._store.busy_of(conn, user_ids)

    async def history(self, user_id: int, *, before: UUID | None, limit: int) -> tuple[list[CallView], UUID | None]:
        """Return ended calls, newest first, and the cursor of the next page if there may be one."""
        async with self._pool.acquire() as conn:
            calls = await self._store.history(conn, user_id, before=before, limit=limit)
            views = await self._views(conn, calls, user_id)
        return views, calls[-1].call_id if len(calls) == limit else None

    async def receipt(self, who: Principal, call_id: UUID) -> ReceiptView:
        """Return what a call cost and why. Raises NotFound (also for a call that never connected)."""
        async with self._pool.acquire() as conn:
            call, side = await self._mine(conn, who, call_id)
            receipt = await self._receipt(conn, call, side)
        if receipt is None:
            raise NotFound("this call was never connected, so nothing was charged")
        return receipt

    async def between(self, conn: asyncpg.Connection, call_id: UUID, users: tuple[int, int]) -> bool:
        """Return whether these two are the sides of that call."""
        call = await self._store.get(conn, call_id)
        return call is not None and {call.caller_id, call.host_id} == set(users)

    async def view_for(self, conn: asyncpg.Connection, call: Call, user_id: int) -> CallView:
        """Return the call as one of its users sees it."""
        return (await self._views(conn, [call], user_id))[0]

    # Inside.

    async def _mine(self, conn: asyncpg.Connection, who: Principal, call_id: UUID) -> tuple[Call, Side]:
        call = await self._store.get(conn, call_id)
        side = call.side_of(who.user_id) if call is not None else None
        if call is None or side is None:
            raise NotFound("there is no such call")
        return call, side

    async def _view(self, conn: asyncpg.Connection, call: Call, side: Side) -> CallView:
        return await self.view_for(conn, call, call.user_of(side))

    async def _views(self, conn: asyncpg.Connection, calls: Sequence[Call], user_id: int) -> list[CallView]:
        sides = [call.side_of(user_id) or Side.CALLER for call in calls]
        peers = {call.user_of(side.other) for call, side in zip(calls, sides, strict=True)}
        cards = await self._people.user_cards(peers, conn=conn)
        return [call_view(call, side, cards) for call, side in zip(calls, sides, strict=True)]

    async def _receipt(self, conn: asyncpg.Connection, call: Call, side: Side) -> ReceiptView | None:
        if call.connected_ms is None or call.live:
            return None
        return receipt_view(call, side, await self._meters.receipt(conn, call.call_id))

    def _credentials(self, call: Call, side: Side, now_ms: int) -> MediaCredentials:
        return self._provider.issue(
            Grant(
                call_id=call.call_id,
                side=side.value,
                media=call.media,
                now_ms=now_ms,
                funded_until_ms=call.funded_until_ms or now_ms + self._limits.connect_timeout_ms,
            )
        )


def _refuse_unfit(payload: Any) -> None:
    try:
        size = len(msgspec.json.encode(payload))
    except (TypeError, ValueError, OverflowError, RecursionError):
        # MessagePack knows values, such as extension types, that the JSON of the other side cannot say.
        raise InvalidData("the payload has no form in JSON", path="$.payload") from None
    if size > SIGNAL_BYTES_MAX:
        raise PayloadTooLarge(limit_bytes=SIGNAL_BYTES_MAX)


def _refuse_other_device(call: Call, side: Side, who: Principal) -> None:
    """Two devices talk; the user's others only watch, and may hang up."""
    device = call.caller_device if side is Side.CALLER else call.accepted_device
    if device is not None and device != who.device_id:
        raise Forbidden("another of your devices has this call", device=device)


def _refuse_unless_talking(call: Call) -> None:
    if call.state is State.ENDED:
        raise CallOver(call_id=str(call.call_id), reason=call.reason)
    if call.state not in TALKING:
        raise InvalidTransition("the call has not been answered yet", state=call.state)
