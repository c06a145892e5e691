"""One socket after its upgrade: what the product calls on it, its closing handshake, and its deadlines.

The receiving half is receiver.py. Must never import dispatch or features: what messages mean is the `SocketHandler`'s.
It is an asyncio protocol itself, with slots and no task, so that an idle socket costs what its few objects cost
(docs/decisions/0020).
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from realtime.protocol.close_codes import CloseCode

from . import frames
from .deflate import Deflate
from .frames import PING_FRAME, FrameError
from .interface import Codec, Encoded
from .outbox import Pending, joined
from .receiver import ANY_KIND, Receiver

if TYPE_CHECKING:
    from .endpoint import Endpoint

logger = logging.getLogger(__name__)


class Connection(Receiver):
    """A connected socket (`interface.Socket`). Made by the upgrade; gone after `closed` was told to the handler."""

    __slots__ = (
        "_pinged_at",
        "_told",
        "authorization",
        "deadline",
        "id",
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
        super().__init__(endpoint, codec, deflate)
        self.id: int = endpoint.next_id()
        self.principal: Any = None
        self.session: Any = None
        self.remote = remote
        self.authorization = authorization
        self.transport = transport
        self.outbox = endpoint.outbox
        self.pending: Pending | None = None
        self.plain = deflate is None
        self.deadline = self.heard_at + endpoint.options.sign_in_timeout_ms / 1_000
        self.wheel_slot = -1
        self._pinged_at = 0.0
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
        self._stop_listening()
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

    def _failed(self, exc: Exception) -> None:
        if isinstance(exc, FrameError):
            self._fail(exc.code, exc.reason)
        else:
            logger.error("socket %d: the handler failed", self.id, exc_info=exc)
            self._fail(CloseCode.SERVER_ERROR, CloseCode.SERVER_ERROR.reason)

    def overflowed(self, unsent: int) -> None:
        """The outbox found more unsent bytes than the limit: a retryable close, if the peer ever reads so far."""
        logger.info("socket %d is too slow: %d bytes unsent", self.id, unsent)
        self.close(CloseCode.SLOW_READER, CloseCode.SLOW_READER.reason)

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything; tells the handler `ABNORMAL` when no close frame was exchanged."""
        self._stop_sending()
        self._reading = True
        self._stop_listening()
        self._endpoint.wheel.discard(self)
        self._endpoint.left(self)
        self._endpoint.gate.left(self.remote, signed_in=self.principal is not None)
        self._tell_closed(frames.ABNORMAL)
        self.session = None  # it holds this connection: as a cycle both would wait for the collector

    def eof_received(self) -> None:
        """The transport closes itself after this."""

    def pause_writing(self) -> None:
        """Nothing waits: what a slow peer may hold is bounded by the outbox's limit instead."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    def _take_close(self, payload: bytes) -> None:
        code = frames.parse_close(payload)
        if self._open:
            self._say_close(code, frames.close_frame(code))
        self._deaf = True
        self.transport.close()

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
