"""Channels of this node: who has joined which, publishing, and telling who comes and goes.

Owns the local membership and the queue of comings and goings to tell. Must never import another feature.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from uuid import NAMESPACE_OID, uuid5

import msgspec
import structlog

from presence.batch import PresenceUnavailable
from realtime.broker import Broker, Position, StreamEvent, channel_stream
from realtime.channels.members import CONFIRM_S, Census, Members
from realtime.channels.messages import (
    ChannelJoinOk,
    ChannelMessage,
    ChannelPresenceDiff,
    ChannelPresenceOk,
    ChannelPublishOk,
    HistoryEntry,
)
from realtime.channels.policy import Action, OpenPolicy, Policy
from realtime.hub import Hub
from realtime.ids import random_id
from realtime.protocol.errors import Forbidden, PayloadTooLarge, TooManyPending, Unavailable
from realtime.protocol.later import Later
from realtime.protocol.principal import Principal
from realtime.transport.interface import Socket

CHANNELS_MAX: Final = 100  # that one connection may be in
DATA_BYTES_MAX: Final = 8 * 1024  # a message goes to thousands of sockets and stays in memory
NAMED_MAX: Final = 100  # comings and goings that a diff names; beyond it only the count is of use
FLUSH_S: Final = 0.2
CONFIRM_STEPS: Final = 20  # over which a node confirms its channels, so that it never stops for all of them at once
MESSAGE: Final = "channel.message"
DIFF: Final = "channel.presence"

log = structlog.get_logger()
_encode = msgspec.json.encode


@dataclass(slots=True)
class _Room:
    """A channel with members on this node: user -> their connections here, and what is not told yet."""

    name: str
    members: dict[str, set[Socket]] = field(default_factory=dict)
    joins: dict[str, None] = field(default_factory=dict)
    leaves: dict[str, None] = field(default_factory=dict)
    count: int = 0


class _Joined(NamedTuple):
    """What a connection is in a channel: the user it joined as, and whether it may publish."""

    user: str
    publishes: bool


class Channels:
    """All channels of this node. `run` is the owner's task.

    Args:
        broker, hub: of this node.
        node: name of this process, unique for every start.
        policy: who may join and publish.
    """

    def __init__(self, broker: Broker, hub: Hub, *, node: str, policy: Policy | None = None, ttl_ms: int = 0) -> None:
        options = {"ttl_ms": ttl_ms} if ttl_ms else {}
        self._broker = broker
        self._hub = hub
        self._policy = policy or OpenPolicy()
        self._members = Members(broker.backend.client, broker.keys, node, **options)
        self._confirm_s = ttl_ms / 3_000 if ttl_ms else CONFIRM_S
        self._rooms: dict[str, _Room] = {}
        self._joined: dict[Socket, dict[str, _Joined]] = {}  # connection -> stream -> what it is there
        self._untold: set[str] = set()
        self._goodbyes: dict[tuple[str, str], str] = {}  # (stream, user) -> channel: to be taken off in Redis
        self._wake = asyncio.Event()

    async def close(self) -> None:
        """Leave every channel in the name of all that are still here."""
        try:
            for stream, room in list(self._rooms.items()):
                census = await self._members.change(stream, gone=list(room.members))
                await self._tell(stream, room.name, (), census.left, census.count)
        except PresenceUnavailable:
            log.info("channels_left_unsaid")  # they expire
        await self._members.close()

    # What clients ask.

    async def join(
        self, conn: Socket, principal: Principal, name: str, position: Position | None, history: int
    ) -> ChannelJoinOk:
        """Join a channel; the caller sends the answer and then calls `Hub.flow(conn, key(principal, name))`.

        Raises:
            Forbidden: the policy refuses.
            TooManyPending: more than CHANNELS_MAX on this connection.
            Unavailable: Redis cannot be reached.
        """
        if not await self._policy.may(principal, name, Action.JOIN):
            raise Forbidden("you may not join here", channel=name)
        publishes = await self._policy.may(principal, name, Action.PUBLISH)
        stream = key(principal, name)
        joined = self._joined.get(conn, {})
        if stream not in joined and len(joined) >= CHANNELS_MAX:
            raise TooManyPending(f"a connection joins at most {CHANNELS_MAX} channels", limit=CHANNELS_MAX)
        replay = await self._hub.open(conn, stream, f"channel:{name}", position)
        if not replay.epoch:
            self._hub.leave(conn, stream)
            raise Unavailable("channels need Redis, which cannot be reached")
        try:
            entries = [] if replay.recovered or not history else await self._history(stream, history, replay.offset)
            census = await self._enter(conn, _Joined(principal.user, publishes), stream, name)
        except BaseException as exc:
            self._hub.leave(conn, stream)
            if isinstance(exc, PresenceUnavailable):
                raise Unavailable(str(exc)) from exc
            raise
        return ChannelJoinOk(name, replay.epoch, replay.offset, replay.recovered, census.count, entries)

    def leave(self, conn: Socket, principal: Principal, name: str) -> None:
        """Leave a channel; nothing happens to one who is not in it."""
        stream = key(principal, name)
        joined = self._joined.get(conn, {}).pop(stream, None)
        if joined is not None:
            self._hub.leave(conn, stream)
            self._exit(conn, joined.user, stream)

    def forget(self, conn: Socket) -> None:
        """A connection is gone: leave everything it has joined."""
        for stream, joined in self._joined.pop(conn, {}).items():
            self._hub.leave(conn, stream)
            self._exit(conn, joined.user, stream)

    def publish(
        self, conn: Socket, principal: Principal, name: str, data: Any, *, ephemeral: bool, message_id: str | None
    ) -> ChannelPublishOk | Later[ChannelPublishOk]:
        """Publish to a channel that the connection has joined; it has its place in the order when this returns.

        What is ephemeral is on its way then, and may be lost.

        Raises:
            Forbidden: it has not, or the policy refused when it joined.
            PayloadTooLarge: more than DATA_BYTES_MAX.

        The Later raises Unavailable when Redis cannot be reached; repeating it with the same `message_id` is safe.
        """
        stream = key(principal, name)
        joined = self._joined[conn].get(stream) if conn in self._joined else None
        if joined is None:
            raise Forbidden("join the channel before you publish to it")
        if not joined.publishes:
            raise Forbidden("you may not publish here", channel=name)
        body = _encode(ChannelMessage(name, principal.user, data, message_id or ""))
        if len(body) > DATA_BYTES_MAX:
            raise PayloadTooLarge(f"a channel's message has at most {DATA_BYTES_MAX} bytes", limit=DATA_BYTES_MAX)
        if ephemeral:
            self._broker.begin_announce(stream, MESSAGE, body)
            return ChannelPublishOk()
        event_id = _event_id(principal.user_id, stream, message_id)
        event = StreamEvent(event_id, MESSAGE, 0, time.time_ns() // 1_000_000, body)
        return self._broker.begin_append(stream, [event], repeatable=message_id is not None).then(
            lambda places: ChannelPublishOk(places[0].epoch, places[0].offset, event.event_id)
        )

    async def presence(
        self, conn: Socket, principal: Principal, name: str, after: str | None, limit: int
    ) -> ChannelPresenceOk:
        """Return who is in a channel that the connection has joined.

        Raises:
            Forbidden: it has not joined.
            Unavailable: Redis cannot be reached.
        """
        stream = key(principal, name)
        if stream not in self._joined.get(conn, {}):
            raise Forbidden("join the channel to see who is in it")
        try:
            users = await self._members.users(stream)
        except PresenceUnavailable as exc:
            raise Unavailable(str(exc)) from exc
        rest = [user for user in users if after is None or user > after]
        return ChannelPresenceOk(len(users), rest[:limit], len(rest) > limit)

    async def announce(self, tenant_id: int, name: str, event: StreamEvent) -> Position:
        """Publish in the server's name to a channel of a tenant. Raises Unavailable."""
        return (await self._broker.append(channel_stream(tenant_id, name), [event]))[0]

    # Inside.

    async def _history(self, stream: str, count: int, head: int) -> list[HistoryEntry]:
        """Return the last messages up to the head at which the events go on."""
        past = await self._broker.history(stream, count)
        return [
            HistoryEntry(event.offset, event.event_id, event.ts_ms, msgspec.json.decode(event.data))
            for event in past.events
            if event.offset <= head
        ]

    async def _enter(self, conn: Socket, joined: _Joined, stream: str, name: str) -> Census:
        user = joined.user
        room = self._rooms.setdefault(stream, _Room(name))
        room.members.setdefault(user, set()).add(conn)
        self._joined.setdefault(conn, {})[stream] = joined
        self._goodbyes.pop((stream, user), None)
        census = await self._members.change(stream, here=[user])
        self._note(stream, room, census)
        return census

    def _exit(self, conn: Socket, user: str, stream: str) -> None:
        room = self._rooms.get(stream)
        here = room.members.get(user) if room is not None else None
        if room is None or here is None:
            return
        here.discard(conn)
        if not here:
            del room.members[user]
            self._goodbyes[stream, user] = room.name
            self._wake.set()
        if not room.members:
            del self._rooms[stream]

    def _note(self, stream: str, room: _Room, census: Census) -> None:
        """Remember who came and went, to be told together with others."""
        room.count = census.count
        for user in census.joined:
            room.leaves.pop(user, None)
            room.joins[user] = None
        for user in census.left:
            room.joins.pop(user, None)
            room.leaves[user] = None
        if census.joined or census.left:
            self._untold.add(stream)
            self._wake.set()

    # Upkeep.

    async def run(self) -> None:
        """Tell of comings and goings, and confirm this node's members, until cancelled."""
        loop = asyncio.get_running_loop()
        confirm_at = round_at = loop.time() + self._confirm_s
        left: list[str] = []  # of this round of confirming
        size = 0  # of its steps
        while True:
            try:
                async with asyncio.timeout_at(confirm_at):  # not wait_for: before 3.12 it may swallow a cancel
                    await self._wake.wait()
                await asyncio.sleep(FLUSH_S)
            except TimeoutError:
                if not left:
                    left = list(self._rooms)
                    size = -(-len(left) // CONFIRM_STEPS)
                    round_at = loop.time() + self._confirm_s * random.uniform(0.8, 1.0)
                due, left = left[:size], left[size:]
                confirm_at = loop.time() + self._confirm_s * 0.8 / CONFIRM_STEPS if left else round_at
                await self._safely(self._confirm(due))
            self._wake.clear()
            await self._safely(self._flush())

    async def _safely(self, work: Any) -> None:
        try:
            await work
        except PresenceUnavailable:
            log.info("channels_wait_for_redis")  # confirmed again in CONFIRM_S, which makes all of it good
        except Exception:  # one bad channel must not end the upkeep of all
            log.exception("channels_upkeep_failed")

    async def _confirm(self, streams: Sequence[str]) -> None:
        """Say who is here, in one round trip for all of these channels."""
        rooms = [(stream, self._rooms[stream]) for stream in streams if stream in self._rooms]
        asked = [self._members.change(stream, here=list(room.members)) for stream, room in rooms]
        for (stream, room), census in zip(rooms, await asyncio.gather(*asked), strict=True):
            self._note(stream, room, census)

    async def _flush(self) -> None:
        goodbyes, self._goodbyes = self._goodbyes, {}
        by_stream: dict[str, list[str]] = {}
        for stream, user in goodbyes:
            by_stream.setdefault(stream, []).append(user)
        for stream, users in by_stream.items():
            room = self._rooms.get(stream)
            census = await self._members.change(stream, gone=users)
            if room is not None:
                self._note(stream, room, census)
            elif census.left:
                await self._tell(stream, goodbyes[stream, users[0]], (), census.left, census.count)
        untold, self._untold = self._untold, set()
        for stream in untold:
            room = self._rooms.get(stream)
            if room is not None and (room.joins or room.leaves):
                joins, leaves = list(room.joins), list(room.leaves)
                room.joins.clear()
                room.leaves.clear()
                await self._tell(stream, room.name, joins, leaves, room.count)

    async def _tell(self, stream: str, name: str, joins: Sequence[str], leaves: Sequence[str], count: int) -> None:
        partial = len(joins) + len(leaves) > NAMED_MAX
        named = ([], []) if partial else (list(joins), list(leaves))
        await self._broker.publish_ephemeral(stream, DIFF, _encode(ChannelPresenceDiff(name, *named, count, partial)))


def key(principal: Principal, name: str) -> str:
    """Return the channel's stream; a name is unique within its tenant."""
    return channel_stream(principal.tenant_id, name)


def _event_id(user_id: int, stream: str, message_id: str | None) -> str:
    """A repeat of a sender's message gets the same id, which the stream has then seen."""
    return random_id() if message_id is None else str(uuid5(NAMESPACE_OID, f"{stream} {user_id} {message_id}"))
