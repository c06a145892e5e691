"""Events on their way to sockets: serialised once per codec, framed once, shared by all.

Imports the protocol, the broker's entries and the framing; must never import the hub or a feature.
"""

from __future__ import annotations

from typing import Any

import msgspec

from realtime.broker.entry import EPHEMERAL, Logged
from realtime.protocol.envelope import MSGPACK, Event
from realtime.transport.frames import BINARY, frame


class EncodedEvent:
    """One event on its way to many sockets: serialised and framed once per codec, on first need.

    `data` is spliced into the JSON frame as it is; MessagePack is made of it when the first such socket asks.
    """

    __slots__ = ("_binary", "_text", "data", "epoch", "event", "event_id", "offset", "stream", "ts_ms", "v")

    def __init__(
        self,
        event: str,
        data: bytes,
        *,
        stream: str,
        event_id: str = "",
        epoch: str = "",
        offset: int = 0,
        v: int = 0,
        ts_ms: int = 0,
    ) -> None:
        self.event = event
        self.data = data
        self.stream = stream
        self.event_id = event_id
        self.epoch = epoch
        self.offset = offset
        self.v = v
        self.ts_ms = ts_ms
        self._text: bytes | None = None
        self._binary: bytes | None = None

    @classmethod
    def of(cls, logged: Logged, stream: str) -> EncodedEvent:
        """Make the event that sockets get of one that came from the broker; `stream` is the wire's name."""
        epoch, offset, event_id, event, v, ts_ms, data = logged
        if epoch == EPHEMERAL:
            return cls(event, data, stream=stream, ts_ms=ts_ms)
        return cls(event, data, stream=stream, event_id=event_id, epoch=epoch, offset=offset, v=v, ts_ms=ts_ms)

    def frame(self, codec: Any) -> bytes:
        """Return the whole frame for sockets of this codec."""
        if codec.binary:
            if self._binary is None:
                self._binary = frame(self._msgpack(), BINARY)
            return self._binary
        if self._text is None:
            self._text = frame(self._json())
        return self._text

    def _json(self) -> bytes:
        # Names and ids are checked where they enter, so none of them needs escaping.
        place = f',"epoch":"{self.epoch}","offset":{self.offset}' if self.epoch else ""
        if self.event_id:
            place += f',"event_id":"{self.event_id}","v":{self.v}'
        head = f'{{"event":"{self.event}","stream":"{self.stream}"{place},"ts_ms":{self.ts_ms},"data":'
        return b"%b%b}" % (head.encode(), self.data)

    def _msgpack(self) -> bytes:
        data = msgspec.json.decode(self.data)
        return MSGPACK.encode(
            Event(
                event=self.event, stream=self.stream, data=data, event_id=self.event_id, epoch=self.epoch,
                offset=self.offset, v=self.v, ts_ms=self.ts_ms,
            )
        )  # fmt: skip
