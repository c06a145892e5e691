"""Invites: who may ring whom, at what price, and what becomes of two invites that cross.

Owns the checks before a ring and the taking of both users. Part of the call service, which makes it; knows no media,
no sockets, and never imports another feature's store.
"""

from __future__ import annotations

from typing import Final

from realtime.accounts.models import HostProfile
from realtime.calls.conductor import Conductor
from realtime.calls.meters import Meters
from realtime.calls.model import Accept, Call, Limits, Media, State
from realtime.calls.ports import People, Presence
from realtime.calls.rules import deadline_of_invite
from realtime.calls.store import CallStore
from realtime.ids import new_id
from realtime.outbox import Tx
from realtime.protocol.errors import (
    Busy,
    CallOver,
    Conflict,
    HostUnavailable,
    InsufficientFunds,
    RateLimited,
    SelfCall,
)
from realtime.protocol.principal import Principal

# Rings that one caller may start in a minute, over all devices and nodes: a ring wakes a phone.
INVITES_MAX: Final = 60
INVITES_WINDOW_MS: Final = 60_000


class _Taken(Exception):
    """Somebody else's invite was first; rolls the savepoint back."""

    def __init__(self, users: frozenset[int]) -> None:
        self.users = users


class Invites:
    """Rings hosts. Works in the caller's transaction."""

    def __init__(
        self,
        *,
        people: People,
        presence: Presence,
        meters: Meters,
        conductor: Conductor,
        store: CallStore,
        limits: Limits,
    ) -> None:
        self._people = people
        self._presence = presence
        self._meters = meters
        self._conductor = conductor
        self._store = store
        self._limits = limits

    async def invite(self, tx: Tx, who: Principal, *, host: str, media: Media, shown_coins: int | None) -> Call:
        """Ring a host, and return the call.

        When the host is ringing the caller at this moment with the same media, the two invites have crossed: the
        first one that was stored stays, its caller stays the payer, and this one answers it (ADR 42).

        Args:
            shown_coins: the price of a pulse that the caller has seen; None when he takes any.

        Raises:
            NotFound, SelfCall, HostUnavailable, Busy, InsufficientFunds, RateLimited.
            Conflict: the host's price is not the one that was shown.
        """
        host_id = await self._people.resolve_one(who.tenant_id, host, conn=tx.conn)
        if host_id == who.user_id:
            raise SelfCall
        profile = await self._people.host_profile(host_id, conn=tx.conn)
        crossed = await self._answer_crossed(tx, who, host_id, media)
        if crossed is not None:
            return crossed
        await self._refuse_unavailable(tx, profile, host_id, media)
        if shown_coins is not None and shown_coins != profile.price_coins:
            raise Conflict("the price has changed", price_coins=profile.price_coins, pulse_ms=profile.pulse_ms)
        await self._refuse_poor(tx, who, profile)
        await self._refuse_flood(tx, who)
        call = await self._new_call(tx, who, host_id, profile, media)
        try:
            async with tx.conn.transaction():
                taken = await self._store.insert(tx.conn, call)
                if taken:
                    raise _Taken(taken)
        except _Taken as exc:
            crossed = await self._answer_crossed(tx, who, host_id, media)
            if crossed is not None:
                return crossed
            raise Busy(who="caller" if who.user_id in exc.users else "host") from None
        await self._conductor.ring(tx, call)
        return call

    async def _answer_crossed(self, tx: Tx, who: Principal, host_id: int, media: Media) -> Call | None:
        """Answer the other's invite if there is one; None when both are free.

        Raises:
            Busy: one of the two is in another call.
        """
        live = await self._store.live_of(tx.conn, [who.user_id, host_id])
        if not live:
            return None
        theirs = next((c for c in live if c.caller_id == host_id and c.host_id == who.user_id), None)
        if theirs is None or theirs.state not in (State.INVITING, State.RINGING):
            mine = next((c for c in live if c.side_of(who.user_id)), None)
            raise Busy(who="caller", call_id=str(mine.call_id)) if mine else Busy(who="host")
        if theirs.media != media:
            # It rings here, and can be answered; a camera is not opened without being asked for.
            raise Busy("this host is calling you", who="host", call_id=str(theirs.call_id))
        try:
            return await self._conductor.act(tx, who.user_id, theirs.call_id, Accept(who.device_id))
        except (CallOver, Conflict):
            raise Busy(who="caller") from None

    async def _refuse_unavailable(self, tx: Tx, profile: HostProfile, host_id: int, media: Media) -> None:
        if media not in profile.media:
            raise HostUnavailable(f"this host takes no {media} calls", media=list(profile.media))
        if profile.price_coins < 1:
            raise HostUnavailable("this host has set no price")
        if not (await self._presence.bookable([host_id], conn=tx.conn)).get(host_id, False):
            raise HostUnavailable

    async def _refuse_poor(self, tx: Tx, who: Principal, profile: HostProfile) -> None:
        needed = self._meters.first_coins(price_coins=profile.price_coins, pulse_ms=profile.pulse_ms)
        coins = await self._meters.coins(tx.conn, who.user_id)
        if coins < needed:
            raise InsufficientFunds("the first pulse cannot be paid", needed_coins=needed, coins=coins)

    async def _refuse_flood(self, tx: Tx, who: Principal) -> None:
        now_ms = await self._store.now_ms(tx.conn)
        invites, first_ms = await self._store.recent_invites(
            tx.conn, who.user_id, since_ms=now_ms - INVITES_WINDOW_MS, limit=INVITES_MAX
        )
        if invites >= INVITES_MAX:
            raise RateLimited("too many invites", retry_after_ms=max(first_ms + INVITES_WINDOW_MS - now_ms, 1))

    async def _new_call(self, tx: Tx, who: Principal, host_id: int, profile: HostProfile, media: Media) -> Call:
        now_ms = await self._store.now_ms(tx.conn)
        pushable = bool(await self._people.push_targets([host_id], conn=tx.conn))
        return Call(
            call_id=new_id(now_ms=now_ms),
            tenant_id=who.tenant_id,
            caller_id=who.user_id,
            host_id=host_id,
            media=media,
            price_coins=profile.price_coins,
            pulse_ms=profile.pulse_ms,
            created_ms=now_ms,
            ring_by_ms=now_ms + self._limits.ring_cap_ms,
            deadline_ms=deadline_of_invite(now_ms, pushable=pushable, limits=self._limits),
            pushable=pushable,
            caller_device=who.device_id,
        )
