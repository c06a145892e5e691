"""Who was heard when, in the calls of this node's sockets: the evidence by which time is charged or not.

Owns the notes of this process, in memory only: a node that dies leaves no evidence, which is what its death means.
Never imports the dispatcher or a store. A node tells intervals ("heard 800 ms ago"), never points in time, so its
clock does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from realtime.calls.model import Side
from realtime.calls.ports import Heard
from realtime.calls.views import CallView

# A client reports media every 5 s. While its last report is younger than two of those and a slow network, the socket
# speaks for it; later the last report itself is the evidence.
MEDIA_FRESH_MS: Final = 12_000
# Above every grace: nothing is left to prove of a side that was silent for so long.
FORGET_AFTER_MS: Final = 120_000
# How long a repeated report is answered from memory before the database is asked again.
VIEW_FRESH_MS: Final = 30_000
NOTES_MAX: Final = 100_000  # far above the sockets of one node; two sides a call
GRACE_MS: Final = 15_000  # the settings' default
LOOK_EVERY_MS: Final = 1_000  # how often a node looks for what is due; two looks may be missed or slow
NEWER_MS: Final = 500  # evidence that is younger by less is not worth a report
SILENT_AGAIN_MS: Final = 2_000  # a silent side is reported this often: its call ends that soon after the grace
NEVER: Final = float("-inf")


@dataclass(slots=True)
class Note:
    """What is known of one side: its device and socket, when it said that media flows, and the view it was given.

    Attributes:
        told_ms: when it was reported last.
        told_heard_ms: the last sign of life that was reported.
    """

    call_id: UUID
    side: Side
    device_id: str
    conn: Heard
    media_ms: float
    up: bool
    view: CallView
    view_ms: float
    told_ms: float = NEVER
    told_heard_ms: float = NEVER


@dataclass(frozen=True, slots=True)
class Sign:
    """One side of one call was heard `heard_ago_ms` ago."""

    call_id: UUID
    side: Side
    heard_ago_ms: int


class Liveness:
    """The notes of one node.

    A pulse is charged when both sides were heard within half of the grace, as far as the database knows. So a side is
    reported when it has news (it came up, or media stopped), when what the database knows gets old and there is newer
    evidence, and when it is silent. Nothing is repeated that the database knows.
    """

    def __init__(
        self, *, grace_ms: int = GRACE_MS, clock_ms: Callable[[], float] = lambda: time.monotonic() * 1000
    ) -> None:
        """Args: grace_ms: the smallest of any tariff; clock_ms: a clock that never goes back, in milliseconds."""
        self._silent_ms = grace_ms / 2
        self._old_ms = grace_ms / 2 - 2 * LOOK_EVERY_MS
        self._clock_ms = clock_ms
        self._notes: dict[tuple[UUID, int], Note] = {}

    def __len__(self) -> int:
        return len(self._notes)

    def media_up(self, call_id: UUID, user_id: int, side: Side, *, device_id: str, conn: Heard, view: CallView) -> None:
        """A side's device, which has the call, says through `conn` that media flows.

        Args:
            view: the call as it stood in the database then.
        """
        now = self._clock_ms()
        if len(self._notes) >= NOTES_MAX:
            self._forget_silent(now)
        if len(self._notes) >= NOTES_MAX:
            del self._notes[next(iter(self._notes))]
        self._notes[call_id, user_id] = Note(call_id, side, device_id, conn, now, True, view, now)

    def media_again(self, call_id: UUID, user_id: int, *, device_id: str, conn: Heard) -> CallView | None:
        """Note a repeated report, and return the view to answer it with; None when the database must be asked.

        Only the device that has the call may repeat: no other one can prove that somebody is there.
        """
        note = self._notes.get((call_id, user_id))
        now = self._clock_ms()
        if note is None or note.device_id != device_id or not note.up:
            return None
        if note.view.state != "connected" or now - note.view_ms > VIEW_FRESH_MS:
            return None
        note.conn = conn
        note.media_ms = now
        return note.view

    def media_down(self, call_id: UUID, user_id: int) -> None:
        """A side reports that media has stopped: from now on its silence is known."""
        note = self._notes.get((call_id, user_id))
        if note is not None and note.up:
            note.up = False
            note.media_ms = self._clock_ms()
            note.told_heard_ms = NEVER

    def forget(self, call_id: UUID, user_ids: tuple[int, int]) -> None:
        """The call is over."""
        for user_id in user_ids:
            self._notes.pop((call_id, user_id), None)

    def due(self) -> list[Sign]:
        """Return what the database has to be told now; it counts as told, unless `tell_again` is called."""
        now = self._clock_ms()
        self._forget_silent(now)
        return [
            Sign(note.call_id, note.side, heard_ago_ms)
            for note in self._notes.values()
            if now - note.told_heard_ms >= self._old_ms and (heard_ago_ms := self._told(note, now)) is not None
        ]

    def tell_again(self) -> None:
        """The database knows nothing any more, or it is not known what it knows: everything is due."""
        for note in self._notes.values():
            note.told_heard_ms = NEVER

    def _told(self, note: Note, now: float) -> int | None:
        """Note that a side is told, and return how long ago it was heard; None when there is nothing to tell."""
        heard_ago_ms = _heard_ago_ms(note, now)
        newer = now - note.told_heard_ms - heard_ago_ms >= NEWER_MS
        silent = heard_ago_ms >= self._silent_ms and now - note.told_ms >= SILENT_AGAIN_MS
        if not newer and not silent:
            return None
        note.told_ms = now
        note.told_heard_ms = now - heard_ago_ms
        return heard_ago_ms

    def _forget_silent(self, now: float) -> None:
        silent = [key for key, note in self._notes.items() if now - note.media_ms > FORGET_AFTER_MS]
        for key in silent:
            del self._notes[key]


def _heard_ago_ms(note: Note, now: float) -> int:
    media_ago_ms = int(now - note.media_ms)
    if note.up and media_ago_ms <= MEDIA_FRESH_MS:
        return min(note.conn.heard_ms_ago(), media_ago_ms)
    return media_ago_ms
