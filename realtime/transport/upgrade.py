"""HTTP until the upgrade: uvicorn's httptools protocol with deadlines and limits, and the step to a `Connection`.

uvicorn hands a `ws=` class the upgrade as text to parse again and drops what came behind it; here the parsed request is
used, what followed is kept, and a connection that never sends a request is ended. Must never import features.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from . import handshake
from .connection import Connection
from .gate import FULL, Refusal
from .handshake import Agreed

if TYPE_CHECKING:
    from .endpoint import Endpoint

logger = logging.getLogger(__name__)

HEAD_BYTES_MAX = 32 * 1024  # of a request: httptools itself has no limit; tokens are some 2 KB
HEAD_TOO_LARGE = Refusal(431, "malformed", f"the request's head exceeds {HEAD_BYTES_MAX} bytes", 0)


class SocketConfig(Config):
    """uvicorn's configuration with the endpoint that its connections belong to."""

    endpoint: Endpoint


class HttpProtocol(HttpToolsProtocol):
    """One TCP connection while it speaks HTTP."""

    config: SocketConfig

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.wheel_slot = -1
        self._head_bytes = 0
        self._in_head = True
        self._reading = False  # a request has begun to come, or ought to
        self._deadline = 0.0  # for the rest of it
        self._refused = False
        self._entered: str | None = None  # the address that the gate counts this connection under

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def enter(self, peer: str) -> Refusal | None:
        """Have the gate count this connection, before TLS if there is any; a refused one is nobody's."""
        refused = FULL if self.config.endpoint.draining else self.config.endpoint.gate.enter(peer)
        if refused is None:
            self._entered = peer
        return refused

    def leave(self) -> None:
        """Have the gate count it no longer. Idempotent."""
        if self._entered is not None:
            self.config.endpoint.gate.leave(self._entered)
            self._entered = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the connection a deadline for its first request, or turn it away when there are too many."""
        super().connection_made(transport)
        if self._entered is None:
            refused = self.enter(self.client[0] if self.client else "")
            if refused is not None:
                # Nobody is waited for here, or what is refused would fill what is left.
                self._refused = True
                transport.write(handshake.refusal(refused))
                transport.close()
                return
        self._read_within(self.config.endpoint.options.request_timeout_ms)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self.leave()
        self.config.endpoint.wheel.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, as uvicorn does, with a limit on the head, a deadline, and a way out for upgrades."""
        if self._refused:
            return
        if not self._reading:
            self._read_within(self.config.endpoint.options.request_timeout_ms)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._upgrade(data[upgrade.args[0] :])
            # Any other upgrade is not ours; the request is answered as if it had not asked.
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(handshake.refusal(HEAD_TOO_LARGE))

    # -- httptools callbacks -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start counting the head of a request; the first byte that came after the last one has set its deadline."""
        super().on_message_begin()
        self._in_head = True
        self._reading = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The head is there in time."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The whole request is there in time."""
        self._reading = False
        super().on_message_complete()

    # -- wheel.Timed -------------------------------------------------------------------------------------------------

    def due(self, now: float) -> float:
        """End a connection whose request has not come in time; uvicorn bounds the silence between requests."""
        if not (self._reading or self._refused) or self.transport.is_closing():
            return 0
        if now < self._deadline:
            return self._deadline - now
        self.transport.abort()
        return 0

    def _read_within(self, timeout_ms: int) -> None:
        self._reading = True
        self._deadline = monotonic() + timeout_ms / 1_000
        self.config.endpoint.wheel.add(self, timeout_ms / 1_000)

    # -- the upgrade -------------------------------------------------------------------------------------------------

    def _upgrade(self, rest: bytes) -> None:
        endpoint = self.config.endpoint
        agreed = endpoint.handshaker.negotiate(
            self.scope["method"], self.scope["http_version"], self.url, self.headers, secure=self.scheme == "https"
        )
        if not isinstance(agreed, Agreed):
            self._refuse(agreed)
            return
        remote = handshake.remote_address(
            self.client[0] if self.client else "",
            (value for name, value in self.headers if name == b"x-forwarded-for"),
            endpoint.trusted_proxies,
        )
        refused = FULL if endpoint.draining else endpoint.gate.admit(remote)
        if refused is not None:
            self._refuse(handshake.refusal(refused))
            return
        self._hand_over(agreed, remote, rest)

    def _hand_over(self, agreed: Agreed, remote: str, rest: bytes) -> None:
        endpoint = self.config.endpoint
        transport = self.transport
        conn = Connection(
            endpoint,
            transport,
            codec=agreed.codec,
            remote=remote,
            authorization=agreed.authorization,
            deflate=endpoint.deflate(agreed.windows),
        )
        self.leave()
        self.connections.discard(self)
        endpoint.wheel.discard(self)
        transport.set_protocol(conn)
        transport.write(agreed.response)
        # The parser and this object hold each other; without this each upgrade would wait for the collector.
        self.parser = None  # type: ignore[assignment]
        conn.opened()
        if rest:
            conn.data_received(rest)

    def _refuse(self, answer: bytes) -> None:
        """Answer and end our side; read on, unheeding, until the peer ends its own.

        Closing with unread bytes would make the kernel send a reset, and the peer might never see the answer.
        """
        endpoint = self.config.endpoint
        self._refused = True
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._read_within(endpoint.options.close_timeout_ms)
        else:
            self.transport.close()
