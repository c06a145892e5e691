"""What travels: the event record, the two codecs, and which operations need a key. Imports realtime.protocol only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from realtime.protocol.envelope import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL

CodecName = Literal["json", "msgpack"]

# Operations that change something: each travels with an idempotency key, and is repeated with the same one.
MUTATIONS: Final = frozenset(
    {
        "hosts.update",
        "call.invite",
        "call.accept",
        "call.decline",
        "call.cancel",
        "call.hang_up",
        "gift.send",
        "chat.send",
        "device.register",
        "device.unregister",
        "profile.update",
        "push.mute",
    }
)
# Events that the server must know to have arrived: a ring's clock starts with its receipt.
ACKED_EVENTS: Final = frozenset({"call.incoming"})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        name: `feature.what_happened`; names that begin with `client.` come from the client itself.
        stream: `user`, `channel:NAME`, `hosts` or `presence`; empty for the client's own.
        data: as docs/protocol.md says.
        event_id: the same in every repeat of a durable event; else empty.
        epoch, offset: its place in the stream; empty and 0 for an ephemeral event.
        v: version of the thing it tells of; ignore a lower one than you have.
        ts_ms: server's time, milliseconds UTC.
    """

    name: str
    stream: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    event_id: str = ""
    epoch: str = ""
    offset: int = 0
    v: int = 0
    ts_ms: int = 0

    @classmethod
    def from_frame(cls, frame: Mapping[str, Any]) -> Event:
        """Read an event frame; missing fields take their defaults."""
        return cls(
            name=str(frame["event"]),
            stream=str(frame.get("stream") or ""),
            data=frame.get("data") or {},
            event_id=str(frame.get("event_id") or ""),
            epoch=str(frame.get("epoch") or ""),
            offset=int(frame.get("offset") or 0),
            v=int(frame.get("v") or 0),
            ts_ms=int(frame.get("ts_ms") or 0),
        )


@dataclass(frozen=True, slots=True)
class Codec:
    """Encodes a frame to what `websockets` sends (text or bytes) and back."""

    subprotocol: str
    encode: Callable[[Mapping[str, Any]], str | bytes]
    decode: Callable[[str | bytes], Any]


def _json_text(frame: Mapping[str, Any]) -> str:
    return msgspec.json.encode(frame).decode()


def _msgpack(payload: str | bytes) -> Any:
    return msgspec.msgpack.decode(payload.encode() if isinstance(payload, str) else payload)


CODECS: Final[Mapping[CodecName, Codec]] = {
    "json": Codec(JSON_SUBPROTOCOL, _json_text, msgspec.json.decode),
    "msgpack": Codec(MSGPACK_SUBPROTOCOL, msgspec.msgpack.encode, _msgpack),
}
