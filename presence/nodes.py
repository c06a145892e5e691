"""Which nodes live. Owns the list of nodes in Redis and this node's place in it; imports batch only.

A node counts as dead when it has not been heard of for TTL_MS. One that was counted as dead, or finds itself missing,
comes back under a new name: whoever clears up after the old name can never hit the new one's registrations.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from presence.batch import Batch, Script

HEARTBEAT_S: Final = 3.0
TTL_MS: Final = 9_000  # three missed heartbeats; with the next one of another node, which sweeps, 12 s
STALE_S: Final = 2 * HEARTBEAT_S  # a process that only asks has no heartbeat of its own
UNKNOWN_MAX: Final = 1_000  # names of nodes long dead, remembered until the next heartbeat


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat brought.

    Attributes:
        known: this node was counted as alive until now.
        dead: nodes to clear up after, with the unix ms at which each was heard of last.
    """

    known: bool
    dead: dict[str, int]


class Nodes:
    """This node among the others.

    Args:
        batch: to Redis.
        key: of the list.
        base: this process's name, unique for every start.
        ttl_ms: until a silent node counts as dead.

    Attributes:
        alive: names of the living nodes, this one included.
    """

    __slots__ = (
        "_alive",
        "_base",
        "_batch",
        "_beat",
        "_enlist",
        "_key",
        "_lives",
        "_looked_at",
        "_ttl_ms",
        "_unknown",
        "alive",
        "name",
    )

    def __init__(self, batch: Batch, key: str, base: str, *, ttl_ms: int = TTL_MS) -> None:
        self._batch = batch
        self._key = key
        self._base = base
        self._ttl_ms = ttl_ms
        self._lives = 0
        self.name = f"{base}.0"
        self._alive: frozenset[str] = frozenset()
        self.alive = frozenset({self.name})
        self._unknown: set[str] = set()
        self._looked_at = 0.0
        self._beat = Script("heartbeat")
        self._enlist = Script("enlist")

    async def beat(self) -> Beat:
        """Say that this node lives.

        Raises:
            PresenceUnavailable: Redis cannot be reached.
        """
        known, alive, dead = await self._batch.run(self._beat, (self._key,), self.name, self._ttl_ms)
        self._alive = frozenset(name.decode() for name in alive)
        self.alive = self._alive | {self.name}
        self._unknown.clear()
        self._looked_at = time.monotonic()
        silent = {dead[i].decode(): int(float(dead[i + 1])) - self._ttl_ms for i in range(0, len(dead), 2)}
        silent.pop(self.name, None)
        return Beat(bool(known), silent)

    async def join(self) -> None:
        """Enter the list under a new name."""
        self._lives += 1
        self.name = f"{self._base}.{self._lives}"
        self.alive = self._alive | {self.name}
        await self._batch.run(self._enlist, (self._key,), self.name, self._ttl_ms)

    async def quit(self, name: str) -> None:
        """Strike a node off the list: this one at its end, or a dead one whose registrations are cleared up."""
        await self._batch.command("ZREM", self._key, name)

    async def look_up(self, names: Iterable[str]) -> bool:
        """See to it that it is known of each name whether it lives; return whether that brought anything new.

        A node that has just started is in records before the next heartbeat tells of it.
        """
        news = {name for name in names if name not in self._alive and name != self.name} - self._unknown
        if not news and time.monotonic() - self._looked_at < STALE_S:
            return False
        await self.beat()
        if len(self._unknown) < UNKNOWN_MAX:
            self._unknown |= news - self._alive
        return True
