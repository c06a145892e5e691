"""Names of streams and of their keys in Redis. Pure; imports nothing of the project.

A stream is `u:<user id>`, `c:<tenant id>:<channel>`, or a topic that only carries ephemeral events: `p:<user id>` (a
user's presence), `h:<tenant id>` (the directory of hosts). All keys of one stream share the hash tag `{<stream>}`, so
that one script may touch them all on a Redis Cluster, and the sharded channel lives on the same node.
"""

from __future__ import annotations

from typing import NamedTuple


class StreamKeys(NamedTuple):
    """The keys of one stream.

    Attributes:
        meta: hash of epoch (e), head offset (n) and the run of the server that began the epoch (r).
        log: Redis stream of the last events; the entry's id is `<offset>-0`.
        seen: sorted set of event ids by offset.
        channel: pub/sub channel, sharded on a cluster.
    """

    meta: str
    log: str
    seen: str
    channel: str


class Keys:
    """Makes key names below one prefix."""

    __slots__ = ("_channel_head", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._channel_head = len(prefix) + 2

    def stream(self, stream: str) -> StreamKeys:
        tag = f"{self.prefix}:{{{stream}}}:"
        return StreamKeys(tag + "meta", tag + "log", tag + "seen", tag + "news")

    def channel(self, stream: str) -> str:
        return f"{self.prefix}:{{{stream}}}:news"

    def stream_of(self, channel: str) -> str:
        """Return the stream whose news this channel carries."""
        return channel[self._channel_head : -len("}:news")]


def user_stream(user_id: int) -> str:
    return f"u:{user_id}"


def channel_stream(tenant_id: int, name: str) -> str:
    return f"c:{tenant_id}:{name}"


def presence_topic(user_id: int) -> str:
    return f"p:{user_id}"


def directory_topic(tenant_id: int) -> str:
    return f"h:{tenant_id}"
