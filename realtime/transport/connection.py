"""One socket after its upgrade: frames in, messages to the handler, joined frames out, deadlines.

Owns the frame path (RFC 6455) and the closing handshake. Must never import dispatch or features: what messages mean
is the `SocketHandler`'s. It is an asyncio protocol itself, with slots and no task, so that an idle socket costs what
its few objects cost (docs/decisions/0020).
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from realtime.protocol.close_codes import CloseCode

from . import frames
from .deflate import Deflate
from .fragments import Fragments
from .frames import BINARY, CLOSE, CONTINUATION, FIN, PING, PING_FRAME, PONG, RSV1, TEXT, FrameError, apply_mask
from .interface import Codec, Encoded
from .outbox import Pending, joined

if TYPE_CHECKING:
    from .endpoint import Endpoint

logger = logging.getLogger(__name__)


MASKED = 0x80
HEAD_BYTES = 6  # of the shortest frame that a client may send: two, and the mask
ANY_KIND = -1  # no first byte of a frame: takes every frame out of the fast path


class Connection(asyncio.Protocol):
    """A connected socket (`interface.Socket`). Made by the upgrade; gone after `closed` was told to the handler."""

    __slots__ = (
        "_deaf",
        "_deflate",
        "_endpoint",
        "_fragments",
        "_head",
        "_need",
        "_opcode",
        "_open",
        "_pinged_at",
        "_reading",
        "_rest",
        "_tokens",
        "_tokens_at",
        "_told",
        "authorization",
        "codec",
        "deadline",
        "heard_at",
        "id",
        "message_opcode",
        "outbox",
        "pending",
        "plain",
        "principal",
        "remote",
        "session",
        "transport",
        "wheel_slot",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Any,
        *,
        codec: Codec | None,
        remote: str,
        authorization: str | None,
        deflate: Deflate | None,
    ) -> None:
        options = endpoint.options
        now = monotonic()
        self.id: int = endpoint.next_id()
        self.codec: Any = codec
        self.principal: Any = None
        self.session: Any = None
        self.remote = remote
        self.authorization = authorization
        self.transport = transport
        self.outbox = endpoint.outbox
        self.pending: Pending | None = None
        self.plain = deflate is None
        self.heard_at = now
        self.deadline = now + options.sign_in_timeout_ms / 1_000
        self.wheel_slot = -1
        self.message_opcode = TEXT
        self._endpoint = endpoint
        self._deflate = deflate
        self._opcode = BINARY if codec is not None and codec.binary else TEXT
        self._head = ANY_KIND if codec is None else FIN | self._opcode
        self._fragments: Fragments | None = None
        self._rest: bytearray | None = None
        self._need = 0
        self._pinged_at = 0.0
        self._tokens = options.frames_burst
        self._tokens_at = now
        self._reading = True  # neither paused nor closing
        self._open = True  # no close frame sent or received
        self._deaf = False  # closing, and nothing that still comes is parsed
        self._told = False

    def opened(self) -> None:
        """Enter the endpoint's set and its wheel, and tell the handler. The 101 answer has been written."""
        endpoint = self._endpoint
        endpoint.connections.add(self)
        endpoint.wheel.add(self, min(endpoint.options.sign_in_timeout_ms, endpoint.options.heartbeat_ms) / 1_000)
        try:
            endpoint.handler.connected(self)
        except Exception as exc:
            self._failed(exc)

    # -- what the rest of the product calls --------------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether the socket takes nothing more to send."""
        return not self._open

    def sign_in(self, principal: Any) -> None:
        """Record who this is; ends the sign-in deadline. A later call replaces the principal."""
        if not self._open:
            return
        if self.principal is None:
            self._endpoint.gate.signed_in(self.remote)
            self._endpoint.wheel.add(self, self._endpoint.options.heartbeat_ms / 1_000)
        self.principal = principal
        self.authorization = None

    def send_reply(self, payload: bytes) -> None:
        """Frame one message in the connection's codec and queue it."""
        self.send_frame(frames.frame(payload, self._opcode))

    def send_event(self, encoded: Encoded) -> None:
        """Queue an event that is shared with other sockets."""
        self.send_frame(encoded.frame(self.codec))

    def send_frame(self, frame: bytes) -> None:
        """Queue one ready, uncompressed frame; dropped when the socket is closing."""
        if not self.plain:
            if self._deflate is None or not self._open:
                return
            frame = self._deflate.reframe(frame)
        pending = self.pending
        self.pending = (pending, frame)
        if pending is None:
            self.outbox.add(self)

    def heard_ms_ago(self) -> int:
        """Milliseconds since the last byte came from the peer."""
        return int((monotonic() - self.heard_at) * 1_000)

    def pause_reading(self) -> None:
        """Take no further messages until `resume_reading`; what has been read already is kept unparsed."""
        if self._reading and self._open and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on after `pause_reading`."""
        if self._reading:
            return
        self._reading = True
        if self.transport.is_closing():
            return
        self.transport.resume_reading()
        if self._rest is not None:
            self._endpoint.loop.call_soon(self._go_on, b"")

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake after what is queued; the peer has `close_timeout_ms` to answer. Idempotent."""
        if self._open:
            self._say_close(code, frames.close_frame(code, reason))

    def abort(self) -> None:
        """Drop the connection at once, with whatever has not been sent."""
        self.transport.abort()

    # -- closing -----------------------------------------------------------------------------------------------------

    def _say_close(self, code: int, close_frame: bytes) -> None:
        """Write what is queued and a close frame, take no more to send, and tell the handler from the next turn."""
        endpoint = self._endpoint
        self.transport.write(joined((self.pending, close_frame)))
        self._stop_sending()
        self.resume_reading()  # a paused socket must still hear the peer's close
        self.deadline = monotonic() + endpoint.options.close_timeout_ms / 1_000
        endpoint.wheel.add(self, endpoint.options.close_timeout_ms / 1_000)
        endpoint.loop.call_soon(self._tell_closed, code)

    def _stop_sending(self) -> None:
        self._open = False
        self._head = ANY_KIND  # out of the fast path: whatever still comes is looked at more closely
        self.plain = False
        self.pending = None

    def _fail(self, code: int, reason: str) -> None:
        """Close because the peer broke the protocol: nothing it still sends is parsed (RFC 6455, section 7.1.7).

        Our side of the TCP connection ends after the close frame, but the peer's is read on until it ends too: closing
        with unread bytes would make the kernel send a reset, and the peer might never see why.
        """
        if self._deaf:
            return
        if self._open:
            self._say_close(code, frames.close_frame(code, reason))
        self._deaf = True
        self._rest = None
        self._fragments = None
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _tell_closed(self, code: int) -> None:
        if self._told:
            return
        self._told = True
        try:
            self._endpoint.handler.closed(self, code)
        except Exception:
            logger.exception("socket %d: the handler failed", self.id)

    def overflowed(self, unsent: int) -> None:
        """The outbox found more unsent bytes than the limit: a retryable close, if the peer ever reads so far."""
        logger.info("socket %d is too slow: %d bytes unsent", self.id, unsent)
        self.close(CloseCode.SLOW_READER, CloseCode.SLOW_READER.reason)

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything; tells the handler `ABNORMAL` when no close frame was exchanged."""
        self._stop_sending()
        self._reading = True
        self._deaf = True
        self._rest = None
        self._fragments = None
        self._endpoint.wheel.discard(self)
        self._endpoint.left(self)
        self._endpoint.gate.left(self.remote, signed_in=self.principal is not None)
        self._tell_closed(frames.ABNORMAL)

    def eof_received(self) -> None:
        """The transport closes itself after this."""

    def pause_writing(self) -> None:
        """Nothing waits: what a slow peer may hold is bounded by the outbox's limit instead."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

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

    def _failed(self, exc: Exception) -> None:
        if isinstance(exc, FrameError):
            self._fail(exc.code, exc.reason)
        else:
            logger.error("socket %d: the handler failed", self.id, exc_info=exc)
            self._fail(CloseCode.SERVER_ERROR, CloseCode.SERVER_ERROR.reason)

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

    def _take_close(self, payload: bytes) -> None:
        code = frames.parse_close(payload)
        if self._open:
            self._say_close(code, frames.close_frame(code))
        self._deaf = True
        self.transport.close()

    def _refill(self) -> None:
        """The bucket is empty: add what has accrued, or end the flood."""
        options = self._endpoint.options
        now = monotonic()
        accrued = int((now - self._tokens_at) * options.frames_per_s)
        self._tokens = min(options.frames_burst, accrued) - 1
        self._tokens_at = now
        if self._tokens < 0:
            raise FrameError(CloseCode.RATE_LIMITED, CloseCode.RATE_LIMITED.reason)

    # -- wheel.Timed -------------------------------------------------------------------------------------------------

    def due(self, now: float) -> float:
        """Do what is due: sign-in deadline, ping, heartbeat loss, end of the closing handshake."""
        options = self._endpoint.options
        if not self._open:
            if now < self.deadline:
                return self.deadline - now
            self.abort()
            return 0
        if self.principal is None and now >= self.deadline:
            self.close(CloseCode.SIGN_IN_TIMEOUT, CloseCode.SIGN_IN_TIMEOUT.reason)
            return 0
        if not self._reading:
            return options.heartbeat_ms / 1_000  # we do not listen, so silence says nothing
        heartbeat = options.heartbeat_ms / 1_000
        wait = heartbeat - (now - self.heard_at)
        if wait <= 0:
            if self._pinged_at < self.heard_at:
                self._pinged_at = now
                self.send_frame(PING_FRAME)
            wait = self._pinged_at + options.heartbeat_timeout_ms / 1_000 - now
            if wait <= 0:
                self.close(CloseCode.HEARTBEAT_TIMEOUT, CloseCode.HEARTBEAT_TIMEOUT.reason)
                return 0
            wait = min(wait, heartbeat)
        return wait if self.principal is not None else min(wait, max(0.001, self.deadline - now))
