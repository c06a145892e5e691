"""Delivery between nodes: the resumable log of each stream in Redis, and the news of what was appended to it.

Owns the keys `<prefix>:{<stream>}:*`, their Lua scripts and the connections that use them. Must never import the hub,
transport, dispatch or a feature: whoever listens hands in a `Sink`.
"""

from realtime.broker.broker import Broker, Sink
from realtime.broker.entry import EPHEMERAL, Logged, Outgoing, Position, Replay, StreamEvent
from realtime.broker.keys import Keys, channel_stream, directory_topic, presence_topic, user_stream

__all__ = [
    "EPHEMERAL",
    "Broker",
    "Keys",
    "Logged",
    "Outgoing",
    "Position",
    "Replay",
    "Sink",
    "StreamEvent",
    "channel_stream",
    "directory_topic",
    "presence_topic",
    "user_stream",
]
