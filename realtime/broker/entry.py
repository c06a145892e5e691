"""What travels through the broker: events on their way in, in the log, and on their way out. Pure; imports nothing of
the project.

An entry is stored and published as `<event id> <event> <v> <ts ms> <JSON data>`; what is published has
`<epoch> <offset> ` before it. None of the fields before the data can hold a space, so one split reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

EPHEMERAL: Final = "-"  # stands for the epoch of an event that is in no log
_FIELDS: Final = 4


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One event for one user.

    Attributes:
        event_id: the broker drops an id that the stream has seen.
        event: name, as `call.ended`; no spaces.
        v: version of the thing it tells of.
        ts_ms: unix milliseconds.
        data: JSON.
    """

    event_id: UUID | str
    user_id: int
    event: str
    v: int
    ts_ms: int
    data: bytes


class StreamEvent(NamedTuple):
    """One event for any stream; fields as in `Outgoing`."""

    event_id: str
    event: str
    v: int
    ts_ms: int
    data: bytes

    def pack(self) -> bytes:
        return f"{self.event_id} {self.event} {self.v} {self.ts_ms} ".encode() + self.data


class Logged(NamedTuple):
    """An event with its place: `epoch` is EPHEMERAL and `offset` 0 for one that is in no log."""

    epoch: str
    offset: int
    event_id: str
    event: str
    v: int
    ts_ms: int
    data: bytes


class Position(NamedTuple):
    """A place in a stream: the offset of the last event that was taken, in the numbering of one epoch."""

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What a reader at some position has missed.

    Attributes:
        recovered: `events` is all of it, in order; when false the reader needs a snapshot.
        epoch: of the stream now; empty when the broker cannot be reached.
        offset: the head, which the reader is at after `events`.
        events: oldest first.
    """

    recovered: bool
    epoch: str
    offset: int
    events: tuple[Logged, ...] = ()


def unpack(epoch: str, offset: int, entry: bytes) -> Logged:
    """Return the event of a log entry.

    Raises:
        ValueError: it was not made by `StreamEvent.pack`.
    """
    event_id, event, v, ts_ms, data = entry.split(b" ", _FIELDS)
    return Logged(epoch, offset, event_id.decode(), event.decode(), int(v), int(ts_ms), data)


def unpack_news(payload: bytes) -> Logged:
    """Return the event of a published message.

    Raises:
        ValueError: it is none of ours.
    """
    epoch, offset, event_id, event, v, ts_ms, data = payload.split(b" ", _FIELDS + 2)
    return Logged(epoch.decode(), int(offset), event_id.decode(), event.decode(), int(v), int(ts_ms), data)


def pack_ephemeral(event: str, ts_ms: int, data: bytes) -> bytes:
    """Return the message that publishes an event without logging it."""
    return f"{EPHEMERAL} 0 {EPHEMERAL} {event} 0 {ts_ms} ".encode() + data
