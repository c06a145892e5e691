"""From bytes to messages: the receiving half of a connection (RFC 6455, section 5).

Owns framing, fragments, what must be UTF-8, and the rate of frames. Must never import dispatch or features. A base
class and not a part, because a call more for each message is what this path is built to spare (docs/decisions/0020).
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from realtime.protocol.close_codes import CloseCode

from . import frames
from .deflate import Deflate
from .fragments import Fragments
from .frames import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, FrameError, apply_mask
from .interface import Codec

if TYPE_CHECKING:
    from .endpoint import Endpoint

MASKED = 0x80
HEAD_BYTES = 6  # of the shortest frame that a client may send: two, and the mask
ANY_KIND = -1  # no first byte of a frame: takes every frame out of the fast path


class Receiver(asyncio.Protocol):
    """Parses what comes and hands whole messages to the endpoint's handler.

    Attributes:
        codec: of the subprotocol; None takes text and binary alike.
        heard_at: when the last byte came, in monotonic seconds.
        message_opcode: TEXT or BINARY of the message that is being handled, where both may come.
    """

    __slots__ = (
        "_deaf",
        "_deflate",
        "_endpoint",
        "_fragments",
        "_head",
        "_need",
        "_opcode",
        "_open",
        "_reading",
        "_rest",
        "_tokens",
        "_tokens_at",
        "codec",
        "heard_at",
        "message_opcode",
    )

    def __init__(self, endpoint: Endpoint, codec: Codec | None, deflate: Deflate | None) -> None:
        self.codec: Any = codec
        self.heard_at = monotonic()
        self.message_opcode = TEXT
        self._endpoint = endpoint
        self._deflate = deflate
        self._opcode = BINARY if codec is not None and codec.binary else TEXT
        self._head = ANY_KIND if codec is None else FIN | self._opcode
        self._fragments: Fragments | None = None
        self._rest: bytearray | None = None
        self._need = 0
        self._tokens = endpoint.options.frames_burst
        self._tokens_at = self.heard_at
        self._reading = True  # not paused
        self._open = True  # no close frame sent or received
        self._deaf = False  # closing, and nothing that still comes is parsed

    def send_frame(self, frame: bytes) -> None:
        """Queue one ready frame."""
        raise NotImplementedError

    def _failed(self, exc: Exception) -> None:
        """The peer broke the protocol (FrameError), or the handler failed."""
        raise NotImplementedError

    def _take_close(self, payload: bytes) -> None:
        """The peer sent a close frame."""
        raise NotImplementedError

    def _stop_listening(self) -> None:
        """Parse nothing more, and let go of what was kept."""
        self._deaf = True
        self._rest = None
        self._fragments = None

    def data_received(self, data: bytes) -> None:
        """Parse what came and hand over each whole message."""
        self.heard_at = monotonic()
        if self._rest is None and not self._deaf:
            try:
                self._parse(data)
            except Exception as exc:
                self._failed(exc)
        else:
            self._go_on(data)

    def _go_on(self, data: bytes) -> None:
        """Parse what came with what was kept, when that makes a whole frame and nobody has paused."""
        rest = self._rest
        if rest is None or self._deaf:
            return
        rest += data
        if len(rest) < self._need or not self._reading:
            return
        self._rest = None
        try:
            self._parse(bytes(rest))
        except Exception as exc:
            self._failed(exc)

    def _parse(self, data: bytes) -> None:
        """Take every whole frame of `data`. Written out flat: it runs for every message."""
        position = 0
        size = len(data)
        need = HEAD_BYTES
        bytes_max = self._endpoint.options.message_bytes_max
        received = self._endpoint.handler.received
        is_text = self._opcode == TEXT
        while self._reading and size - position >= HEAD_BYTES:
            length = data[position + 1]
            if length < 254:
                length -= MASKED
                body = position + 6
            elif length == 254:
                body = position + 8
                length = data[position + 2] << 8 | data[position + 3]
            else:
                need = 14
                body = position + need
                if size < body:
                    break
                length = int.from_bytes(data[position + 2 : position + 10])
            end = body + length
            if end > size or length < 0 or length > bytes_max:
                need = end - position
                break
            need = HEAD_BYTES
            payload = apply_mask(data[body:end], data[body - 4 : body])
            head = data[position]
            position = end
            self._tokens -= 1
            if self._tokens < 0:
                self._refill()
            if head == self._head:
                if is_text and not payload.isascii():
                    frames.check_text(payload)
                received(self, payload)
            else:
                self._take_frame(head, payload)
            if self._deaf:
                return
        if position < size:
            self._keep(data[position:], need)

    def _keep(self, rest: bytes, need: int) -> None:
        """Keep the start of a frame until `need` bytes are there, unless its head alone is wrong already."""
        if self._reading and len(rest) >= 2:
            length = rest[1] & 0x7F
            if not rest[1] & MASKED:
                raise FrameError(frames.PROTOCOL_ERROR, "frame is not masked")
            frames.check_head(rest[0], length, compressed=self._deflate is not None)
            if length == 126 and len(rest) >= 4:
                length = rest[2] << 8 | rest[3]
            elif length == 127 and len(rest) >= 10:
                length = int.from_bytes(rest[2:10])
            if length > self._endpoint.options.message_bytes_max:
                raise FrameError(frames.TOO_LARGE, "frame is too large")
        self._rest = bytearray(rest)
        self._need = need

    def _take_frame(self, head: int, payload: bytes) -> None:
        """Everything but a whole, plain message of the connection's own kind."""
        frames.check_head(head, len(payload), compressed=self._deflate is not None)
        opcode = head & 0x0F
        if opcode == PING:
            self.send_frame(frames.frame(payload, PONG))
        elif opcode == CLOSE:
            self._take_close(payload)
        elif opcode == CONTINUATION:
            self._take_fragment(head, payload)
        elif opcode != PONG:
            if self._fragments is not None:
                raise FrameError(frames.PROTOCOL_ERROR, "message inside a message")
            if self.codec is not None and opcode != self._opcode:
                raise FrameError(CloseCode.MALFORMED, "wrong kind of frame for this subprotocol")
            if head & FIN:
                self._take_message(head, payload)
            else:
                self._head = ANY_KIND  # until the last fragment: a whole message would now be an error
                self._fragments = Fragments(head)
                self._take_fragment(head, payload)

    def _take_fragment(self, head: int, payload: bytes) -> None:
        fragments = self._fragments
        if fragments is None:
            raise FrameError(frames.PROTOCOL_ERROR, "continuation of nothing")
        fragments.add(payload, self._endpoint.options.message_bytes_max)
        if head & FIN:
            self._fragments = None
            if self.codec is not None and self._open:
                self._head = FIN | self._opcode
            self._take_message(fragments.head, fragments.message())

    def _take_message(self, head: int, payload: bytes) -> None:
        """A message that was compressed or in parts, or comes to a connection that takes both kinds."""
        if head & RSV1 and self._deflate is not None:
            payload = self._deflate.inflate(payload, self._endpoint.options.message_bytes_max)
        self.message_opcode = head & 0x0F
        if self.message_opcode == TEXT:
            frames.check_text(payload)
        if self._open:
            self._endpoint.handler.received(self, payload)

    def _refill(self) -> None:
        """The bucket is empty: add what has accrued, or end the flood."""
        options = self._endpoint.options
        now = monotonic()
        accrued = int((now - self._tokens_at) * options.frames_per_s)
        self._tokens = min(options.frames_burst, accrued) - 1
        self._tokens_at = now
        if self._tokens < 0:
            raise FrameError(CloseCode.RATE_LIMITED, CloseCode.RATE_LIMITED.reason)
