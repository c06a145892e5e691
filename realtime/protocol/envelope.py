"""The envelope: request, reply, event, ack; and the two codecs that carry it.

Owns what is on the wire around a feature's data. Imports errors only. A codec decodes in two steps: the envelope with
`data` left raw, then the data by the schema of its operation, so that nothing is decoded twice or without a schema.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from realtime.protocol.errors import Malformed, TalkmeterError

JSON_SUBPROTOCOL: Final = "talkmeter.v1.json"
MSGPACK_SUBPROTOCOL: Final = "talkmeter.v1.msgpack"
ACK_EVENTS_MAX: Final = 100  # a device acknowledges rings and the like, not a flood

ShortText = Annotated[str, Meta(max_length=64)]
Key = Annotated[str, Meta(min_length=1, max_length=128)]
RequestId = ShortText | int


class Frame(Struct):
    """What a client sends: a request (`id`, `op`, `key` on mutations, `data`), or the `ack` of events."""

    id: RequestId | None = None
    op: ShortText | None = None
    key: Key | None = None
    data: Raw = Raw()
    ack: Annotated[list[ShortText], Meta(max_length=ACK_EVENTS_MAX)] | None = None


class ErrorBody(Struct):
    """The error of a reply: stable code, whether a repeat may help, what to do meanwhile."""

    code: str
    message: str
    retryable: bool
    next_action: str | None = None
    details: dict[str, Any] = {}


class OkReply(Struct):
    """The answer to request `re`."""

    re: RequestId | None
    ok: Any


class ErrorReply(Struct):
    """The refusal of request `re`; `re` is null when the frame was not understood."""

    re: RequestId | None
    error: ErrorBody


class Event(Struct, omit_defaults=True):
    """What happened. `epoch` and `offset` place it in its stream; an ephemeral event has neither."""

    event: str
    stream: str
    data: Any
    event_id: str = ""
    epoch: str = ""
    offset: int = 0
    v: int = 0
    ts_ms: int = 0


def error_body(error: TalkmeterError) -> ErrorBody:
    return ErrorBody(error.code, error.message, error.retryable, error.next_action, error.details)


class Codec:
    """JSON or MessagePack. `JSON` and `MSGPACK` below are the two there are; both carry the same meaning.

    Attributes:
        name: `json` or `msgpack`.
        binary: whether messages travel in binary frames (text frames otherwise).
        subprotocol: as negotiated in the handshake.
        encode: value -> bytes.
    """

    __slots__ = ("_decode_frame", "_decoder", "binary", "empty", "encode", "name", "subprotocol")

    def __init__(
        self,
        name: str,
        subprotocol: str,
        *,
        binary: bool,
        encode: Callable[[Any], bytes],
        decoder: Callable[[Any], Any],
    ) -> None:
        self.name = name
        self.binary = binary
        self.subprotocol = subprotocol
        self.encode = encode
        self.empty = encode({})
        self._decoder = decoder
        self._decode_frame: Callable[[bytes], Frame] = decoder(Frame).decode

    def decode(self, payload: bytes) -> Frame:
        """Decode one message.

        Raises:
            Malformed: it is not an object of the envelope's shape.
        """
        try:
            return self._decode_frame(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise Malformed(f"the frame is no request: {exc}") from None

    def data_decoder(self, schema: type[Any]) -> Callable[[Any], Any]:
        """Return a function from raw data to `schema`; it raises msgspec.DecodeError on what does not fit."""
        decode: Callable[[Any], Any] = self._decoder(schema).decode
        return decode


JSON: Final = Codec(
    "json",
    JSON_SUBPROTOCOL,
    binary=False,
    encode=msgspec.json.encode,
    decoder=lambda type_: msgspec.json.Decoder(type_),
)
MSGPACK: Final = Codec(
    "msgpack",
    MSGPACK_SUBPROTOCOL,
    binary=True,
    encode=msgspec.msgpack.encode,
    decoder=lambda type_: msgspec.msgpack.Decoder(type_),
)
CODECS: Final = {codec.subprotocol: codec for codec in (JSON, MSGPACK)}
