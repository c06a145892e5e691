"""The channels that we are in: joined again on every new connection, where the events left off.

A join belongs to a connection, so the server forgets it with the socket; the client does not. Imports the client's
modules only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

from realtime.client.streams import Streams
from realtime.client.wire import Event

REJOIN = "join:"  # ids of our own requests; those of the app are numbers


def with_message_id(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a channel.publish with a `message_id`, by which a repeat is known, unless it is ephemeral."""
    if data.get("ephemeral") or data.get("message_id"):
        return dict(data)
    return {**data, "message_id": uuid4().hex}


class Channels:
    """Channels by name, with the data that they were joined with."""

    __slots__ = ("_joined", "_streams")

    def __init__(self, streams: Streams) -> None:
        self._joined: dict[str, Mapping[str, Any]] = {}
        self._streams = streams

    def answered(self, op: str, data: Mapping[str, Any], ok: Mapping[str, Any]) -> None:
        """Take note of the app's own joins and leaves, before any event that follows the answer."""
        name = str(data.get("channel"))
        if op == "channel.join":
            self._joined[name] = data
            self._place(name, ok)
        elif op == "channel.leave":
            self._joined.pop(name, None)
            self._streams.leave(_stream(name))

    def rejoins(self) -> Iterator[dict[str, Any]]:
        """Return the requests to send first on a new connection."""
        for name, data in self._joined.items():
            position = self._streams.position(_stream(name))
            asked = {**data, "position": position} if position else dict(data)
            yield {"id": f"{REJOIN}{name}", "op": "channel.join", "data": asked}

    def rejoined(self, reply: Mapping[str, Any]) -> Event:
        """Take the answer to one of `rejoins`; returns what to tell the app."""
        name = str(reply["re"]).removeprefix(REJOIN)
        if "error" in reply:
            self._joined.pop(name, None)
            self._streams.leave(_stream(name))
            return Event("client.channel_lost", data={"channel": name, "error": reply["error"]})
        self._place(name, reply["ok"])
        return Event("client.channel", data=reply["ok"])

    def _place(self, name: str, ok: Mapping[str, Any]) -> None:
        self._streams.signed_in(_stream(name), ok, recovered=bool(ok.get("recovered")))


def _stream(name: str) -> str:
    return f"channel:{name}"
