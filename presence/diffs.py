"""Joins and leaves, coalesced. Pure; imports nothing of the project.

Between two flushes only the newest state of a subject counts.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Diff(Generic[K, S]):
    """What changed: subjects that are here (new or changed) with their states, and subjects that have gone."""

    joins: dict[K, S]
    leaves: dict[K, S]

    def __bool__(self) -> bool:
        return bool(self.joins or self.leaves)


class Coalescer(Generic[K, S]):
    """Collects changes of many subjects for one audience.

    Args:
        settle: leave out what came back to where it was. Only when all of the audience was told the same: somebody
            who looked in between would miss it.
    """

    __slots__ = ("_pending", "_settle", "_told", "_versions")

    def __init__(self, *, settle: bool = True) -> None:
        self._settle = settle
        self._told: dict[K, tuple[bool, S]] = {}
        self._pending: dict[K, tuple[bool, S]] = {}
        self._versions: dict[K, int] = {}

    def seed(self, subject: K, state: S, *, here: bool, version: int) -> None:
        """Note what the audience was told outside of diffs, as in the answer to its request."""
        if version >= self._versions.get(subject, -1):
            self._versions[subject] = version
            self._told[subject] = (here, state)
            self._pending.pop(subject, None)

    def note(self, subject: K, state: S, *, here: bool, version: int) -> bool:
        """Take in a change; return whether there is something to flush because of it.

        A version that is not above the last one is a late message, and ignored.
        """
        if version <= self._versions.get(subject, -1):
            return False
        self._versions[subject] = version
        if self._settle and self._told.get(subject) == (here, state):
            self._pending.pop(subject, None)
            return False
        self._pending[subject] = (here, state)
        return True

    def forget(self, subject: K) -> None:
        self._told.pop(subject, None)
        self._pending.pop(subject, None)
        self._versions.pop(subject, None)

    def take(self) -> Diff[K, S]:
        """Return what has changed since the last take, and begin anew."""
        pending, self._pending = self._pending, {}
        if self._settle:
            self._told.update(pending)
        joins = {subject: state for subject, (here, state) in pending.items() if here}
        leaves = {subject: state for subject, (here, state) in pending.items() if not here}
        return Diff(joins, leaves)
