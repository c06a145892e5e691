"""The hub: which sockets of this node follow which streams, and handing them events in order, once each.

Owns local fan-out and the positions of local streams. Must never import dispatch or a feature. Whatever is lost on the
way from Redis is noticed by its offset, at the latest when positions are rechecked, and then filled from the log; when
the log cannot fill it, the sockets are told to reconnect (4004), and their sign-in gets a snapshot.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from realtime.broker import EPHEMERAL, Broker, Logged, Position, Replay, user_stream
from realtime.encoded import EncodedEvent
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.errors import Unavailable
from realtime.streams import FanOut, Stream, one_by_one
from realtime.transport.interface import Socket

__all__ = ["CONTROL", "EncodedEvent", "Hub"]

UNSUBSCRIBE_DELAY_S: Final = 5.0  # a phone that changes its network is back within this
SWEEP_S: Final = 1.0
RECHECK_S: Final = 20.0  # how long a lost publish may stay unnoticed
DOUBT_RETRY_S: Final = 0.3  # while the subscription stands but commands fail, as in a failover
RECHECK_BATCH: Final = 100  # streams of one look at positions: some 2 ms, for which all others wait at Redis
RESYNC_SPREAD_S: Final = 2.0  # sockets that must come back do not all come at once
USER: Final = "user"  # the wire's name of a user's own stream
CONTROL: Final = "_"  # events whose names begin so are for hubs, not for sockets

Control = Callable[[str, bytes], None]


class Hub:
    """The sockets of this node by stream. Everything but `open*` is synchronous.

    Args:
        broker: brings events; the hub starts it and is its sink.
        fan_out: hands an event to many sockets; the transport has one that is quicker than one by one.
    """

    def __init__(self, broker: Broker, fan_out: FanOut | None = None) -> None:
        self.broker = broker
        self._fan_out = fan_out or one_by_one
        self._streams: dict[str, Stream] = {}
        self._of: dict[Socket, tuple[Stream, ...]] = {}
        self._listeners: dict[str, Control] = {}
        self._restorers: list[Callable[[Sequence[str]], None]] = []
        self._idle: set[Stream] = set()
        self.gaps = 0  # lost publishes that were noticed and filled
        self.resyncs = 0  # sockets that were sent for a snapshot
        self._doubtful: set[str] = set()
        self._doubting = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the broker and the upkeep."""
        self.broker.start(self)
        for work, name in ((self._sweep(), "hub-sweep"), (self._recheck(), "hub-recheck")):
            self._own(work, name)

    async def close(self) -> None:
        """Stop the upkeep; the broker is closed by who made it."""
        tasks = [*self._tasks, *(s.repair for s in self._streams.values() if s.repair is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in self._streams.values():
            for timer in stream.doomed.values():
                timer.cancel()

    # Who is here.

    def connections(self, user_id: int) -> list[Socket]:
        """Return this node's signed-in sockets of a user."""
        return self.following(user_stream(user_id))

    def following(self, key: str) -> list[Socket]:
        """Return this node's sockets that follow a stream."""
        stream = self._streams.get(key)
        return stream.followers() if stream is not None else []

    def sockets(self) -> Iterable[Socket]:
        """Return every signed-in socket of this node."""
        return list(self._of)

    def stream_count(self) -> int:
        return len(self._streams)

    # Opening and leaving.

    async def open_stream(
        self, conn: Socket, user_id: int, position: Position | None, *, listening: Callable[[], None] | None = None
    ) -> Replay:
        """Attach a socket to its user's stream; see `open`."""
        return await self.open(conn, user_stream(user_id), USER, position, listening=listening)

    async def open(
        self,
        conn: Socket,
        key: str,
        name: str,
        position: Position | None,
        *,
        listening: Callable[[], None] | None = None,
    ) -> Replay:
        """Attach a socket to a stream and find out what it has missed since `position`.

        From now on events are held for this socket. The caller sends its reply (with a snapshot that is read after
        this returned, unless `recovered`) and then calls `flow`, which sends what was missed and what was held.

        Args:
            key: of the stream in the broker.
            name: of the stream on the wire.
            position: the last the device has seen, or None.
            listening: called as soon as what is published reaches this socket (or Redis cannot be reached), before
                the answer about what was missed: what it submits to Redis shares that round trip.

        Returns:
            With an empty epoch when Redis cannot be reached: the socket works without events until Redis is back,
            and is then told to reconnect.
        """
        stream = self._attach(conn, key, name)
        opening = stream.begin(conn)
        try:
            subscribed = await self.broker.subscribe(key)
            if listening is not None:
                listening()
            replay = await self.broker.replay(key, position) if subscribed else Replay(False, "", 0)
        except Unavailable:
            replay = Replay(False, "", 0)
        except BaseException:
            self._leave(conn, stream)
            raise
        if replay.epoch:
            self._place(stream, Position(replay.epoch, replay.offset))
        opening.join(replay, [EncodedEvent.of(event, name) for event in replay.events])
        return replay

    def flow(self, conn: Socket, key: str | None = None) -> None:
        """Let events reach the socket: first what it missed, then what was held, then what comes.

        Args:
            key: of one stream; every stream of the socket when None.
        """
        for stream in self._of.get(conn, ()):
            opening = stream.opening.get(conn)
            if opening is None or (key is not None and stream.key != key) or opening.flowing:
                continue
            if opening.epoch != stream.epoch or not stream.continuous(opening):
                self._doom(stream, [conn], spread=False)
                continue
            for event in opening.held:
                conn.send_event(event)
            opening.held = []
            opening.flowing = True
            stream.promote()

    def detach(self, conn: Socket) -> None:
        """Forget a socket that is gone."""
        for stream in self._of.pop(conn, ()):
            self._drop(stream, conn)

    def leave(self, conn: Socket, key: str) -> None:
        """Detach a socket from one stream."""
        stream = self._streams.get(key)
        if stream is not None:
            self._leave(conn, stream)

    # Giving out.

    def deliver_user(self, user_id: int, event: EncodedEvent) -> int:
        """Send an event that is in no log to this node's sockets of a user; return how many there are."""
        return self.deliver(user_stream(user_id), event)

    def deliver(self, key: str, event: EncodedEvent) -> int:
        """Send an event that is in no log to this node's sockets of a stream; return how many there are."""
        stream = self._streams.get(key)
        if stream is None:
            return 0
        stream.send(event, self._fan_out)
        return len(stream.live) + len(stream.opening)

    def listen(self, event: str, control: Control) -> None:
        """Call `control(stream key, data)` for each ephemeral event of a name that begins with CONTROL.

        Such an event is a word between hubs; sockets never see it.
        """
        if not event.startswith(CONTROL):
            raise ValueError(f"the name of a control event begins with {CONTROL!r}, not {event!r}")
        self._listeners[event] = control

    def on_restored(self, restored: Callable[[Sequence[str]], None]) -> None:
        """Call `restored(streams)` when subscriptions stand again that were lost for a while, whoever made them."""
        self._restorers.append(restored)

    # Broker's sink.

    def delivered(self, stream: str, event: Logged) -> None:
        here = self._streams.get(stream)
        if here is None:
            control = self._listeners.get(event.event)
            if control is not None:
                control(stream, event.data)
            return
        if event.epoch == EPHEMERAL:
            if event.event.startswith(CONTROL):
                control = self._listeners.get(event.event)
                if control is not None:
                    control(stream, event.data)
                return
            here.send(EncodedEvent.of(event, here.name), self._fan_out)
        else:
            if here.doomed:
                self._close_doomed(here)
            self._take(here, event)

    def restored(self, streams: Sequence[str]) -> None:
        self._doubt(key for key in streams if key in self._streams)
        for restored in self._restorers:
            restored(streams)

    # Positions.

    def _take(self, stream: Stream, event: Logged) -> None:
        """Give out a logged event if it is the next one; fill the gap before it if not."""
        if stream.repair is not None:
            self._wait(stream, event)
        elif stream.offset < 0:
            self._hold(stream, event)
        elif event.epoch != stream.epoch:
            self._broken(stream)
            self._close_doomed(stream)
        elif event.offset == stream.offset + 1:
            stream.offset = event.offset
            stream.send(EncodedEvent.of(event, stream.name), self._fan_out)
        elif event.offset > stream.offset:
            self._wait(stream, event)
            self._repair(stream)
        # At or below the position: it came before.

    def _wait(self, stream: Stream, event: Logged) -> None:
        if not stream.wait(event):
            self._broken(stream)

    def _hold(self, stream: Stream, event: Logged) -> None:
        """The position is not known yet, so every socket is still opening: each judges by its own replay."""
        self._doom(stream, stream.without_position(), spread=False)
        stream.hold(EncodedEvent.of(event, stream.name))

    def _place(self, stream: Stream, head: Position) -> None:
        """Take the first position that is learnt; a later one only shows whether the stream is still the same."""
        if stream.offset < 0:
            self._doom(stream, stream.without_position(), spread=True)
            stream.epoch, stream.offset = head
            openings = stream.opening.values()
            held = {event.offset for opening in openings for event in opening.held if event.epoch == head.epoch}
            while stream.offset + 1 in held:  # they came between the replay and its answer, and were held
                stream.offset += 1
        elif head.epoch != stream.epoch:
            self._broken(stream)
            stream.epoch, stream.offset = head

    def _repair(self, stream: Stream) -> None:
        if stream.repair is None:
            self.gaps += 1
            stream.repair = asyncio.get_running_loop().create_task(self._fill(stream), name="hub-repair")

    async def _fill(self, stream: Stream) -> None:
        """Fetch what lies between the position and the head, and give it out in order."""
        at = Position(stream.epoch, stream.offset)
        try:
            replay = await self.broker.replay(stream.key, at)
        except Unavailable:
            stream.take_waiting()
            self._doubt([stream.key])
            return
        finally:
            stream.repair = None
        if Position(stream.epoch, stream.offset) != at:
            stream.take_waiting()
            return  # broken or placed anew meanwhile
        if not replay.recovered:
            self._broken(stream)
            self._close_doomed(stream)
            return
        for event in (*replay.events, *stream.take_waiting()):
            self._take(stream, event)

    def _doubt(self, keys: Iterable[str]) -> None:
        """These streams may have missed something: check them, again and again until Redis says."""
        self._doubtful.update(keys)
        if self._doubtful and not self._doubting:
            self._doubting = True
            self._own(self._resolve_doubts(), "hub-doubts")

    async def _resolve_doubts(self) -> None:
        try:
            while self._doubtful:
                keys = list(self._doubtful)
                self._doubtful.clear()
                await self._check(keys)
                if self._doubtful:
                    await asyncio.sleep(DOUBT_RETRY_S * random.uniform(0.8, 1.2))
        finally:
            self._doubting = False

    async def _check(self, keys: Sequence[str]) -> None:
        """Compare positions with the heads in Redis; fill gaps, and give up streams whose epoch is over."""
        for start in range(0, len(keys), RECHECK_BATCH):
            batch = [self._streams[key] for key in keys[start : start + RECHECK_BATCH] if key in self._streams]
            asked_at = [Position(stream.epoch, stream.offset) for stream in batch]
            try:
                heads = await self.broker.positions([stream.key for stream in batch])
            except Unavailable:
                self._doubt(stream.key for stream in batch)
                continue
            for stream, then, head in zip(batch, asked_at, heads, strict=True):
                self._compare(stream, then, head)

    def _compare(self, stream: Stream, then: Position, head: Position) -> None:
        """Judge a stream by its head; `then` is the position at which the head was asked for.

        News may have overtaken the answer, so only what was known before may prove that the head is behind it.
        """
        if stream.epoch != then.epoch:
            return
        if stream.offset < 0:
            self._doom(stream, stream.without_position(), spread=True)
        elif stream.epoch != head.epoch or head.offset < then.offset:
            self._broken(stream)
        elif head.offset > stream.offset:
            self._repair(stream)

    def _broken(self, stream: Stream) -> None:
        """History may be lost: every socket has to come back and be told where it stands."""
        stream.epoch, stream.offset = "", -1
        stream.take_waiting()
        self._doom(stream, stream.in_flow(), spread=True)

    def _doom(self, stream: Stream, conns: Sequence[Socket], *, spread: bool) -> None:
        loop = asyncio.get_running_loop()
        for conn in conns:
            delay = random.uniform(0, RESYNC_SPREAD_S) if spread else 0
            stream.doom(conn, loop.call_later(delay, self._resync, stream, conn))

    def _close_doomed(self, stream: Stream) -> None:
        """Something happened that they must know: no waiting."""
        for conn, timer in list(stream.doomed.items()):
            timer.cancel()
            self._resync(stream, conn)

    def _resync(self, stream: Stream, conn: Socket) -> None:
        stream.spare(conn)
        self.resyncs += 1
        conn.close(CloseCode.RESYNC, CloseCode.RESYNC.reason)

    # Sockets.

    def _attach(self, conn: Socket, key: str, name: str) -> Stream:
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Stream(key, name)
        self._idle.discard(stream)
        followed = self._of.get(conn, ())
        if stream not in followed:
            self._of[conn] = (*followed, stream)
        return stream

    def _leave(self, conn: Socket, stream: Stream) -> None:
        followed = tuple(other for other in self._of.get(conn, ()) if other is not stream)
        if followed:
            self._of[conn] = followed
        else:
            self._of.pop(conn, None)
        self._drop(stream, conn)

    def _drop(self, stream: Stream, conn: Socket) -> None:
        stream.leave(conn)
        if stream.empty:
            stream.idle_since = asyncio.get_running_loop().time()
            self._idle.add(stream)

    # Upkeep.

    def _own(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        """Unsubscribe from streams that nobody has followed for a while."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            before = loop.time() - UNSUBSCRIBE_DELAY_S
            over = [stream for stream in self._idle if stream.idle_since < before]
            self._idle.difference_update(over)
            for stream in over:
                del self._streams[stream.key]
                if stream.repair is not None:
                    stream.repair.cancel()
            self.broker.unsubscribe(stream.key for stream in over)

    async def _recheck(self) -> None:
        """Look at every local stream's position once in RECHECK_S, a batch at a time."""
        while True:
            keys = list(self._streams)
            pause = RECHECK_S / max(1, -(-len(keys) // RECHECK_BATCH))
            if not keys:
                await asyncio.sleep(pause)
            for start in range(0, len(keys), RECHECK_BATCH):
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))
                await self._check([key for key in keys[start : start + RECHECK_BATCH] if key in self._streams])
