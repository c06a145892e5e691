"""One timer for the deadlines of all sockets. Owns a wheel of slots; knows nothing of what is due, imports nothing.

A `loop.call_later` per socket would cost an object and a heap entry each time a message pushes the deadline back.
Here nothing moves when messages come: an item sits in one slot, and when that slot is reached the item is asked what
is due and when it wants to be asked again. Deadlines are kept to within one tick.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

SLOTS = 512  # times a tick of 250 ms: about two minutes, beyond every interval in use; longer ones are asked twice


class Timed(Protocol):
    """Something with deadlines. `wheel_slot` belongs to the wheel; start it at -1."""

    wheel_slot: int

    def due(self, now: float) -> float:
        """Do what is due at `now` (monotonic seconds); return seconds until the next question, 0 for never."""
        ...


class Wheel:
    """Deadlines in slots of `tick_ms`. Runs between `start` and `stop`, with one timer handle in all."""

    __slots__ = ("_handle", "_loop", "_position", "_slots", "_tick", "_ticked_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tick_ms: int) -> None:
        self._loop = loop
        self._tick = tick_ms / 1_000
        self._slots: list[set[Timed]] = [set() for _ in range(SLOTS)]
        self._position = 0
        self._ticked_at = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._slots))

    def start(self) -> None:
        """Start ticking; needs the running loop."""
        self._ticked_at = monotonic()
        self._handle = self._loop.call_later(self._tick, self._on_timer)

    def stop(self) -> None:
        """Stop ticking and forget every item."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        for slot in self._slots:
            slot.clear()

    def add(self, item: Timed, in_s: float) -> None:
        """Ask `item` after `in_s` seconds at the earliest; replaces an earlier wish."""
        self.discard(item)
        ticks = min(SLOTS - 1, int(in_s / self._tick) + 1)
        item.wheel_slot = (self._position + ticks) % SLOTS
        self._slots[item.wheel_slot].add(item)

    def discard(self, item: Timed) -> None:
        """Ask `item` no more."""
        if item.wheel_slot >= 0:
            self._slots[item.wheel_slot].discard(item)
            item.wheel_slot = -1

    def _on_timer(self) -> None:
        # A loop that was held up catches up slot by slot, so that no deadline is skipped.
        # After a very long one (a suspended process) one round is enough.
        now = monotonic()
        self._ticked_at = max(self._ticked_at, now - SLOTS * self._tick)
        while now - self._ticked_at >= self._tick:
            self._ticked_at += self._tick
            self.turn(now)
        self._handle = self._loop.call_later(max(0.0, self._ticked_at + self._tick - now), self._on_timer)

    def turn(self, now: float) -> None:
        """Advance by one slot and ask everything in it."""
        self._position = (self._position + 1) % SLOTS
        slot = self._slots[self._position]
        if not slot:
            return
        self._slots[self._position] = set()
        for item in slot:
            # An item that an earlier one of this turn discarded has been marked; it is not asked.
            if item.wheel_slot != self._position:
                continue
            item.wheel_slot = -1
            wait = item.due(now)
            if wait > 0:
                self.add(item, wait)
