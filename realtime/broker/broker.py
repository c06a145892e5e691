"""The broker: append to streams, publish, replay, listen. What each node's hub is built on.

Owns putting keys.py, entry.py, pipeline.py and subscriber.py together. Must never import the hub or a feature.

Delivery: a logged event reaches every subscribed node at most once by pub/sub, and exactly once by offset when its
reader watches positions: `positions` tells where the head is, `replay` gives what was missed. A publish that raised
Unavailable may have happened; repeating it with the same event id is safe.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

from realtime.broker.backend import Backend
from realtime.broker.entry import (
    Logged,
    Outgoing,
    Position,
    Replay,
    StreamEvent,
    pack_ephemeral,
    unpack,
    unpack_news,
)
from realtime.broker.keys import Keys, user_stream
from realtime.broker.pipeline import Pipeline
from realtime.broker.subscriber import Subscriber
from realtime.protocol.errors import Unavailable
from realtime.protocol.later import Later

LOG_EVENTS: Final = 1_000  # what a phone may miss in a tunnel; more is better told by a snapshot
LOG_TTL_MS: Final = 24 * 3_600_000  # a device that was away for a day gets a snapshot
EPOCH_BYTES: Final = 8

T = TypeVar("T")


class Sink(Protocol):
    """Who hears what was published; called from a connection's read, so each method returns at once."""

    def delivered(self, stream: str, event: Logged) -> None:
        """An event of a subscribed stream came; possibly again, or after a gap."""
        ...

    def restored(self, streams: Sequence[str]) -> None:
        """These streams were without subscription for a while: their positions must be checked."""
        ...


class Broker:
    """One node's end of the event streams. Usable while Redis is down: calls raise Unavailable, and it heals.

    Args:
        url: of Redis (address.py).
        prefix: of all keys.
        log_events: events that a stream's log keeps at least.
        log_ttl_ms: that an untouched stream is kept for at least.
    """

    __slots__ = (
        "_epoch_head",
        "_epochs",
        "_log_events",
        "_log_ttl_ms",
        "_pipeline",
        "_publish",
        "_sink",
        "_subscriber",
        "backend",
        "keys",
    )

    def __init__(
        self, url: str, prefix: str = "tm", *, log_events: int = LOG_EVENTS, log_ttl_ms: int = LOG_TTL_MS
    ) -> None:
        self.backend = Backend(url)
        self.keys = Keys(prefix)
        self._epoch_head = secrets.token_hex(EPOCH_BYTES)  # of this broker's epochs; none is used twice
        self._epochs = itertools.count()
        self._log_events = log_events
        self._log_ttl_ms = log_ttl_ms
        self._publish = "SPUBLISH" if self.backend.sharded else "PUBLISH"
        self._pipeline = Pipeline(self.backend)
        self._subscriber = Subscriber(self.backend, message=self._message, restored=self._restored)
        self._sink: Sink | None = None

    def start(self, sink: Sink | None = None) -> None:
        """Begin to listen; a process that only publishes gives no sink."""
        self._sink = sink
        self._subscriber.start()

    async def close(self) -> None:
        await self._subscriber.close()
        await self._pipeline.close()
        await self.backend.close()

    @property
    def connected(self) -> bool:
        """Whether every stream that is listened to has its subscription."""
        return self._subscriber.connected

    async def ping(self) -> None:
        """Raise Unavailable unless Redis answers."""
        key = self.keys.channel("ping")
        await self._pipeline.command("EXISTS", key, key=key)

    # Publishing.

    async def publish(self, batch: Sequence[Outgoing]) -> list[int]:
        """Append each event to its user's log and tell the nodes that listen.

        Events of one user keep their order. Users are independent: the batch is not one step.

        Returns:
            For each event the number of nodes that were told, or -1 when the log had it already.

        Raises:
            Unavailable: some may not have been appended; repeat the batch later.
        """
        groups: dict[int, list[tuple[int, StreamEvent]]] = {}
        for index, out in enumerate(batch):
            event = StreamEvent(str(out.event_id), out.event, out.v, out.ts_ms, out.data)
            groups.setdefault(out.user_id, []).append((index, event))
        waiting = [
            (group, self._append(user_stream(user_id), [event for _, event in group], repeatable=True, read=_receivers))
            for user_id, group in groups.items()
        ]
        receivers = [0] * len(batch)
        failed: Unavailable | None = None
        for group, answer in waiting:
            try:
                told = await answer
            except Unavailable as exc:
                failed = exc
                continue
            for (index, _), count in zip(group, told, strict=True):
                receivers[index] = count
        if failed is not None:
            raise failed
        return receivers

    async def append(self, stream: str, events: Sequence[StreamEvent]) -> list[Position]:
        """Append events to any stream and publish them; return the place of each.

        Raises:
            Unavailable: they may not have been appended.
        """
        return await self.begin_append(stream, events)

    def begin_append(
        self, stream: str, events: Sequence[StreamEvent], *, repeatable: bool = True
    ) -> Later[list[Position]]:
        """Do as `append`, in the order of the calls, and let the caller go on before the answer is there.

        Args:
            repeatable: somebody may append these events again, with the same ids; if not, the ids are not remembered.
        """
        return self._append(stream, events, repeatable=repeatable, read=_places)

    async def publish_ephemeral(self, stream: str, event: str, data: bytes) -> int:
        """Tell the nodes that listen, and keep nothing.

        Returns:
            The number of nodes; 0 as well when Redis cannot be reached: what is not logged may get lost.
        """
        try:
            return await self.announce(stream, event, data)
        except Unavailable:
            return 0

    async def announce(self, stream: str, event: str, data: bytes) -> int:
        """Do as `publish_ephemeral`, for who wants to try again.

        Raises:
            Unavailable: nobody may have been told.
        """
        return await self.begin_announce(stream, event, data)

    def begin_announce(self, stream: str, event: str, data: bytes) -> Later[int]:
        """Do as `announce`, and let the caller go on before the answer is there."""
        channel = self.keys.channel(stream)
        payload = pack_ephemeral(event, time.time_ns() // 1_000_000, data)
        return self._pipeline.command(self._publish, channel, payload, key=channel, read=int)

    # Listening.

    async def subscribe(self, stream: str) -> bool:
        """Listen to a stream.

        Returns:
            Whether the subscription stands; if not, `Sink.restored` names the stream once it does.
        """
        return await self._subscriber.subscribe(self.keys.channel(stream))

    def unsubscribe(self, streams: Iterable[str]) -> None:
        self._subscriber.unsubscribe([self.keys.channel(stream) for stream in streams])

    # Positions.

    async def replay(self, stream: str, position: Position | None, *, limit: int | None = None) -> Replay:
        """Return what a reader at `position` has missed; without a position only where the head is.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        at = position or Position("", 0)
        keys = self.keys.stream(stream)
        most = self._log_events if limit is None else limit
        answer: Sequence[Any] = await self._pipeline.script(
            "replay", (keys.meta, keys.log, keys.seen), self._fresh(), at.epoch, at.offset, most, self._log_ttl_ms
        )
        epoch, head, recovered = answer[0].decode(), answer[1], bool(answer[2])
        events = tuple(unpack(epoch, at.offset + index, entry) for index, entry in enumerate(answer[3:], 1))
        return Replay(recovered, epoch, head, events)

    async def positions(self, streams: Sequence[str]) -> list[Position]:
        """Return the heads of streams.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        answers = []
        for keys in map(self.keys.stream, streams):
            of = (keys.meta, keys.log, keys.seen)
            answers.append(self._pipeline.script("position", of, self._fresh(), self._log_ttl_ms, read=_place))
        return [await answer for answer in answers]

    async def history(self, stream: str, count: int) -> Replay:
        """Return the last `count` events of a stream's log, oldest first.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        head = (await self.positions([stream]))[0]
        return await self.replay(stream, Position(head.epoch, max(0, head.offset - count)), limit=count * 2)

    def _append(
        self, stream: str, events: Sequence[StreamEvent], *, repeatable: bool, read: Callable[[Any], T]
    ) -> Later[T]:
        keys = self.keys.stream(stream)
        remembered = repeatable or self.backend.sharded  # a cluster's client may send a command a second time
        arguments: list[str | bytes | int] = [self._fresh(), self._log_events, self._log_ttl_ms, self._publish]
        for event in events:
            arguments += (event.event_id if remembered else "", event.pack())
        return self._pipeline.script("append", (keys.meta, keys.log, keys.seen, keys.channel), *arguments, read=read)

    def _fresh(self) -> str:
        """Return an epoch that no stream was ever in."""
        return f"{self._epoch_head}{next(self._epochs):x}"

    def _message(self, channel: bytes, payload: bytes) -> None:
        if self._sink is None:
            return
        try:
            event = unpack_news(payload)
        except ValueError:
            return  # somebody else's message on our channel
        self._sink.delivered(self.keys.stream_of(channel.decode()), event)

    def _restored(self, channels: list[str]) -> None:
        if self._sink is not None:
            self._sink.restored([self.keys.stream_of(channel) for channel in channels])


def _receivers(answer: Sequence[Any]) -> Sequence[int]:
    return answer[2::2]


def _place(answer: Sequence[Any]) -> Position:
    epoch, offset = answer
    return Position(epoch.decode(), offset)


def _places(answer: Sequence[Any]) -> list[Position]:
    epoch, *rest = answer
    return [Position(epoch.decode(), offset) for offset in rest[::2]]
