"""A bounded cache of what never changes. Imports nothing of the project."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Keeps the `size_max` entries used last. Not for threads."""

    __slots__ = ("_entries", "_size_max")

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._entries: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return the value and count this as a use, or None."""
        value = self._entries.pop(key, None)
        if value is not None:
            self._entries[key] = value
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value, at the price of the one unused for longest."""
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > self._size_max:
            del self._entries[next(iter(self._entries))]
