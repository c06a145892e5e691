"""A stream as one node follows it: its sockets, and each socket's way into the flow of events. No I/O.

Imports the encoded events only. The hub owns these objects and decides what a gap or a lost epoch means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

from realtime.broker.entry import Logged, Replay
from realtime.encoded import EncodedEvent
from realtime.transport.interface import Socket

HELD_EVENTS_MAX: Final = 1_000  # events kept for a socket that is signing in, or while a gap is filled

FEW: Final = 8  # sockets up to which a tuple is smaller than a dict and as quick to change

NOBODY: Final[Mapping[Any, Any]] = MappingProxyType({})
V = TypeVar("V")
FanOut = Callable[[Iterable[Any], EncodedEvent], None]


class Opening:
    """A socket between its sign-in and the stream's flow: what comes meanwhile waits here."""

    __slots__ = ("epoch", "floor", "flowing", "held")

    def __init__(self) -> None:
        self.held: list[EncodedEvent] = []
        self.epoch = ""  # of its replay; stays empty when Redis could not be reached
        self.floor = -1  # the head at the time of its replay; what is not above it was replayed
        self.flowing = False

    def join(self, replay: Replay, missed: list[EncodedEvent]) -> None:
        """Put what was held behind what was missed.

        Before the position was known, news was held as it came: perhaps twice, or in another order.
        """
        self.epoch, self.floor = replay.epoch, replay.offset
        later = {e.offset: e for e in self.held if e.epoch and e.epoch == replay.epoch and e.offset > replay.offset}
        ephemeral = [event for event in self.held if not event.epoch]
        self.held = [*missed, *(later[offset] for offset in sorted(later)), *ephemeral]

    def hold(self, event: EncodedEvent) -> None:
        # What does not fit leaves a gap, which `Stream.continuous` sees.
        if len(self.held) < HELD_EVENTS_MAX:
            self.held.append(event)


class Stream:
    """A stream that sockets of this node follow.

    Attributes:
        key: in the broker.
        name: on the wire.
        epoch, offset: the position up to which events were given out; offset is -1 until it is known.
        live: sockets for whom the position is all there is to know.
        opening: sockets on their way to that.
        doomed: sockets that will be told to come again, with the timers that do it.
        waiting: events that came while a gap is being filled.
        repair: the task that fills it.
        idle_since: loop time at which the last socket left.
    """

    __slots__ = (
        "doomed", "epoch", "idle_since", "key", "live", "name", "offset", "opening", "repair", "waiting",
    )  # fmt: skip

    def __init__(self, key: str, name: str) -> None:
        self.key = key
        self.name = name
        self.epoch = ""
        self.offset = -1
        # A node has a stream for every signed-in user, nearly always with one socket and nothing else: what is empty
        # is shared, and a few sockets are a tuple.
        self.live: Collection[Socket] = ()
        self.opening: Mapping[Socket, Opening] = NOBODY
        self.doomed: Mapping[Socket, asyncio.TimerHandle] = NOBODY
        self.waiting: Sequence[Logged] = ()
        self.repair: asyncio.Task[None] | None = None
        self.idle_since = 0.0

    @property
    def empty(self) -> bool:
        return not (self.live or self.opening or self.doomed)

    def begin(self, conn: Socket) -> Opening:
        """Attach a socket, and hold for it what comes."""
        self._leave_flow(conn)
        opening = self.opening.get(conn)
        if opening is None:
            opening = Opening()
            self.opening = _with(self.opening, conn, opening)
        return opening

    def doom(self, conn: Socket, timer: asyncio.TimerHandle) -> None:
        """Give a socket nothing more; the timer sends it away."""
        self._leave_flow(conn)
        self.opening = _without(self.opening, conn)
        self.doomed = _with(self.doomed, conn, timer)

    def spare(self, conn: Socket) -> asyncio.TimerHandle | None:
        """Take a socket off the doomed; return its timer."""
        timer = self.doomed.get(conn)
        self.doomed = _without(self.doomed, conn)
        return timer

    def leave(self, conn: Socket) -> None:
        """Detach a socket."""
        self._leave_flow(conn)
        self.opening = _without(self.opening, conn)
        timer = self.spare(conn)
        if timer is not None:
            timer.cancel()

    def wait(self, event: Logged) -> bool:
        """Keep an event until a gap is filled; return False when there are too many."""
        if len(self.waiting) >= HELD_EVENTS_MAX:
            return False
        if not isinstance(self.waiting, list):
            self.waiting = []
        self.waiting.append(event)
        return True

    def take_waiting(self) -> Sequence[Logged]:
        waiting, self.waiting = self.waiting, ()
        return waiting

    def followers(self) -> list[Socket]:
        return [*self.live, *self.opening]

    def without_position(self) -> list[Socket]:
        """Return the sockets that began while Redis was down: once it is back they must come again for a position."""
        return [conn for conn, opening in self.opening.items() if opening.flowing and not opening.epoch]

    def in_flow(self) -> list[Socket]:
        """Return the sockets that events reach."""
        return [*self.live, *(conn for conn, opening in self.opening.items() if opening.flowing)]

    def send(self, event: EncodedEvent, fan_out: FanOut) -> None:
        """Give an event to all sockets; one that was part of a socket's replay is left out for it."""
        fan_out(self.live, event)
        if not self.opening:
            return
        for conn, opening in self.opening.items():
            if event.offset and event.offset <= opening.floor:
                continue
            if opening.flowing:
                conn.send_event(event)
            else:
                opening.hold(event)
        self.promote()

    def hold(self, event: EncodedEvent) -> None:
        """Keep an event for every opening socket, each to judge by its own replay: the position is not known yet."""
        for opening in self.opening.values():
            opening.hold(event)

    def continuous(self, opening: Opening) -> bool:
        """Whether replayed and held events reach from the replay's head to the stream's position without a gap."""
        at = opening.floor
        for event in opening.held:
            if event.offset > at + 1 and event.offset > opening.floor:
                return False
            at = max(at, event.offset)
        return self.offset < 0 or at >= self.offset

    def promote(self) -> None:
        """Make live the sockets for whom the stream's position is all there is to know."""
        if self.offset < 0:
            return
        for conn, opening in list(self.opening.items()):
            if opening.flowing and self.offset >= opening.floor:
                self.opening = _without(self.opening, conn)
                self._enter_flow(conn)

    def _enter_flow(self, conn: Socket) -> None:
        if isinstance(self.live, tuple):
            if len(self.live) < FEW:
                self.live = (*self.live, conn)
                return
            self.live = dict.fromkeys(self.live)
        assert isinstance(self.live, dict)
        self.live[conn] = None

    def _leave_flow(self, conn: Socket) -> None:
        if isinstance(self.live, dict):
            self.live.pop(conn, None)
        elif conn in self.live:
            self.live = tuple(other for other in self.live if other is not conn)


def _with(those: Mapping[Socket, V], conn: Socket, value: V) -> Mapping[Socket, V]:
    own = those if isinstance(those, dict) else {}
    own[conn] = value
    return own


def _without(those: Mapping[Socket, V], conn: Socket) -> Mapping[Socket, V]:
    if isinstance(those, dict):
        those.pop(conn, None)
    return those or NOBODY


def one_by_one(conns: Iterable[Any], event: EncodedEvent) -> None:
    """Fan out as any socket can; the transport has something quicker."""
    for conn in conns:
        conn.send_event(event)
