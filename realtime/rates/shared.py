"""Buckets that count over all nodes, in Redis: `<prefix>:{u:<user>}:rate:<op>`, one script call each.

Owns these keys and what happens without Redis: nothing is refused, for each node's own bucket of the same rate has been
asked before. Must never import a feature.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import redis.exceptions

from realtime.rates.table import Rate

# A script takes microseconds; whoever waits longer for a rate than for the work itself is served worse than unbounded.
ANSWER_TIMEOUT_S: Final = 0.25
MICROS: Final = 1_000_000


class SharedRates:
    """The buckets of actions over all nodes.

    Args:
        client: redis.asyncio Redis or RedisCluster; stays its maker's.
        prefix: of all keys.
        rates: by operation.

    Attributes:
        unshared: requests that only this node has judged, because Redis did not answer.
    """

    __slots__ = ("_prefix", "_rates", "_script", "unshared")

    def __init__(self, client: Any, prefix: str, rates: Mapping[str, Rate]) -> None:
        self._prefix = prefix
        self._rates = rates
        self._script = client.register_script(Path(__file__).with_name("take.lua").read_text())
        self.unshared = 0

    @property
    def ops(self) -> Collection[str]:
        return self._rates

    async def take(self, user_id: int, op: str) -> int:
        """Take one token; return 0, or the milliseconds to wait. 0 too while Redis is away."""
        rate = self._rates[op]
        key = f"{self._prefix}:{{u:{user_id}}}:rate:{op}"
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return int(
                    await self._script(keys=[key], args=[int(rate.interval_s * MICROS), int(rate.room_s * MICROS)])
                )
        except (redis.exceptions.RedisError, OSError, TimeoutError):
            self.unshared += 1
            return 0
