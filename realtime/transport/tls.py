"""Accepting TLS: a connection is counted before its handshake, and has a bounded time for it.

Owns the accept loop and the handshakes under way. asyncio's own server would begin a handshake for whoever connects, of
any number, and give each a minute. Must never import features.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from .upgrade import HttpProtocol

logger = logging.getLogger(__name__)

ACCEPT_PAUSE_S: Final = 0.1  # when no file can be opened: accepting again at once would burn the core


class TlsListener:
    """Takes connections from a listening socket until it is closed.

    Args:
        sock: bound; stays its maker's.
        handshake_timeout_ms: from the connection to the end of its TLS handshake.
        make: the protocol of a connection.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        backlog: int,
        handshake_timeout_ms: int,
        make: Callable[[], HttpProtocol],
    ) -> None:
        self._sock = sock
        self._context = context
        self._timeout_s = handshake_timeout_ms / 1_000
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        sock.setblocking(False)
        sock.listen(backlog)
        self._accepting = self._loop.create_task(self._accept(), name="tls accept")

    async def close(self) -> None:
        """Accept nobody more, and end the handshakes under way: this node is about to stop."""
        tasks = [self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                sock, address = await self._loop.sock_accept(self._sock)
            except OSError as exc:
                logger.warning("no connection can be accepted: %s", exc)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            protocol = self._make()
            if protocol.enter(str(address[0])) is not None:
                sock.close()  # before TLS there is no way to say why
                continue
            task = self._loop.create_task(self._open(sock, protocol), name="tls handshake")
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _open(self, sock: socket.socket, protocol: HttpProtocol) -> None:
        made = False
        try:
            with contextlib.suppress(OSError):  # ssl.SSLError and timeouts are some
                await self._loop.connect_accepted_socket(
                    lambda: protocol, sock, ssl=self._context, ssl_handshake_timeout=self._timeout_s
                )
                made = True
        finally:
            if not made:
                protocol.leave()
