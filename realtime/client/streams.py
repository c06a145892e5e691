"""Where we are in each event stream: what is a repeat, what is a gap, and what to tell the server at sign-in.

Pure; imports the client's wire module only. A position moves only over events that were handed on, one by one, so a
sign-in with it replays exactly what is missing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum
from typing import Any

from realtime.client.wire import Event

SEEN_MAX = 2_000  # event ids remembered; the server's log keeps fewer events than that for a user
STREAMS_MAX = 1_000  # streams of one connection, oldest forgotten first


class Verdict(Enum):
    """What to do with an event."""

    NEW = "new"  # hand it on
    REPEAT = "repeat"  # drop it
    GAP = "gap"  # something before it is missing: reconnect and resume


class Streams:
    """Positions by stream, and the ids of events seen lately."""

    __slots__ = ("_excused", "_positions", "_seen")

    def __init__(self) -> None:
        self._positions: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._excused: tuple[str, str, int] | None = None  # a gap that a resume did not close is the server's word

    def judge(self, event: Event) -> Verdict:
        """Return what to do with `event`; a GAP moves nothing, and is one only once at the same place."""
        epoch, offset = self._positions.get(event.stream, ("", 0))
        if event.offset and epoch == event.epoch:
            if event.offset <= offset:
                return Verdict.REPEAT
            here = (event.stream, epoch, offset)
            if event.offset > offset + 1 and self._excused != here:
                self._excused = here
                return Verdict.GAP
        if event.offset:
            self.place(event.stream, event.epoch, event.offset)
        if not event.event_id:
            return Verdict.NEW
        if event.event_id in self._seen:
            return Verdict.REPEAT
        self._seen[event.event_id] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        return Verdict.NEW

    def signed_in(self, stream: str, head: Mapping[str, Any] | None, *, recovered: bool) -> None:
        """Take the server's word at sign-in: its head where nothing could be recovered or nothing was known."""
        if head and (not recovered or stream not in self._positions):
            self.place(stream, str(head["epoch"]), int(head["offset"]))

    def place(self, stream: str, epoch: str, offset: int) -> None:
        """Set a position, as after joining a channel."""
        self._positions[stream] = (epoch, offset)
        self._positions.move_to_end(stream)
        if len(self._positions) > STREAMS_MAX:
            self._positions.popitem(last=False)

    def leave(self, stream: str) -> None:
        """Forget a stream."""
        self._positions.pop(stream, None)

    def position(self, stream: str) -> dict[str, str | int] | None:
        """Return the position in one stream, if there is any."""
        epoch, offset = self._positions.get(stream, ("", 0))
        return {"epoch": epoch, "offset": offset} if epoch else None

    def positions(self) -> list[dict[str, str | int]]:
        """Return what sign-in tells the server: `[{stream, epoch, offset}]`."""
        return [
            {"stream": stream, "epoch": epoch, "offset": offset}
            for stream, (epoch, offset) in self._positions.items()
            if epoch
        ]
