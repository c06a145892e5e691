"""Members of channels in Redis. Owns the keys `<prefix>:{c:<tenant>:<channel>}:members` and `:users`.

A node confirms its members every CONFIRM_S; what is not confirmed for TTL_MS is dropped by whichever node looks next,
so that a killed node's members leave without anybody keeping a list of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from presence.batch import Batch, Script
from realtime.broker import Keys

TTL_MS: Final = 15_000
CONFIRM_S: Final = 5.0
WRITE_MAX: Final = 1_000  # users of one script call: some milliseconds of the server's time


@dataclass(frozen=True, slots=True)
class Census:
    """Who is there: how many users, and who came and went by this step."""

    count: int
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class Members:
    """Members of all channels, seen from one node.

    Args:
        client: redis.asyncio Redis or RedisCluster; stays its maker's.
        keys: of the broker, so that a channel's members share its hash tag.
        node: name of this process, unique for every start; no `|`.
    """

    __slots__ = ("_batch", "_keys", "_node", "_script", "_ttl_ms")

    def __init__(self, client: Any, keys: Keys, node: str, *, ttl_ms: int = TTL_MS) -> None:
        self._batch = Batch(client)
        self._keys = keys
        self._node = node
        self._ttl_ms = ttl_ms
        self._script = Script("members", package="realtime.channels")

    async def close(self) -> None:
        await self._batch.close()

    async def change(self, stream: str, *, here: Sequence[str] = (), gone: Sequence[str] = ()) -> Census:
        """Enter or confirm users, and take users off. Raises PresenceUnavailable."""
        count = 0
        joined: list[str] = []
        left: list[str] = []
        steps: list[tuple[Sequence[str], Sequence[str]]] = [
            (here[i : i + WRITE_MAX], ()) for i in range(0, len(here), WRITE_MAX)
        ]
        steps += [((), gone[i : i + WRITE_MAX]) for i in range(0, len(gone), WRITE_MAX)]
        for enter, leave in steps or [((), ())]:
            answer = await self._batch.run(
                self._script, self._names(stream), self._node, self._ttl_ms, len(enter), *enter, *leave
            )
            count = answer[0]
            joined += [user.decode() for user in answer[1]]
            left += [user.decode() for user in answer[2]]
        return Census(count, tuple(joined), tuple(left))

    async def users(self, stream: str) -> list[str]:
        """Return everybody in the channel, sorted. Raises PresenceUnavailable."""
        found = await self._batch.command("HKEYS", self._names(stream)[1])
        return sorted(user.decode() for user in found)

    def _names(self, stream: str) -> tuple[str, str]:
        tag = f"{self._keys.prefix}:{{{stream}}}"
        return f"{tag}:members", f"{tag}:users"
