"""uvicorn around a Starlette app and an endpoint for sockets, on one port: start, drain, stop.

Owns the listening socket once it is handed over. Must never import features: app and handler come from the
composition root, which also decides when to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from . import handshake
from .endpoint import Endpoint
from .gate import Refusal
from .interface import SocketHandler, Subprotocols
from .options import SocketOptions
from .tls import TlsListener
from .upgrade import HttpProtocol, SocketConfig

BACKLOG = 4_096  # a whole node's clients may reconnect within a second or two
KEEP_ALIVE_S = 15
HTTP_GRACE_S = 5  # for requests that are being answered when the drain ends


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenOptions:
    """Where the server listens. `sock` wins over host and port: a listening socket that a supervisor made."""

    host: str = "127.0.0.1"
    port: int = 0
    sock: socket.socket | None = None
    tls_certificate: str = ""
    tls_key: str = ""
    tls_handshake_timeout_ms: int = 10_000
    trusted_proxies: tuple[str, ...] = ()
    drain_ms: int = 5_000


class Server:
    """One listening server. `await start()`, then `await stop()`; `run_until` does both around an event.

    Attributes:
        endpoint: the sockets; None before `start`.
    """

    def __init__(
        self,
        app: ASGIApp,
        handler: SocketHandler,
        subprotocols: Subprotocols,
        *,
        listen: ListenOptions | None = None,
        sockets: SocketOptions | None = None,
    ) -> None:
        self._listen = listen or ListenOptions()
        self._options = sockets or SocketOptions()
        self._app = _UpgradeRequired(app, self._options.path)
        self._handler = handler
        self._subprotocols = subprotocols
        self._uvicorn: _Uvicorn | None = None
        self._task: asyncio.Task[None] | None = None
        self._port = 0
        self.endpoint: Endpoint | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before `start`."""
        return self._port

    @property
    def url(self) -> str:
        """The address for HTTP, without a path."""
        scheme = "https" if self._listen.tls_certificate else "http"
        host = f"[{self._listen.host}]" if ":" in self._listen.host else self._listen.host
        return f"{scheme}://{host}:{self.port}"

    async def start(self) -> None:
        """Listen and serve from now on.

        Raises:
            OSError: the address is in use or not ours.
        """
        sock = self._listen.sock or bind(self._listen.host, self._listen.port)
        self._port = sock.getsockname()[1]
        self.endpoint = Endpoint(self._handler, self._subprotocols, self._options)
        self.endpoint.wheel.start()
        self._uvicorn = _Uvicorn(self._config(self.endpoint), self.endpoint, self._listen)
        self._task = asyncio.create_task(self._uvicorn.serve(sockets=[sock]), name="uvicorn")
        ready = asyncio.create_task(self._uvicorn.ready.wait(), name="uvicorn ready")
        try:
            await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
        if self._task.done():
            self.endpoint.wheel.stop()
            self._task.result()
            raise RuntimeError("the server ended while it was starting")

    async def stop(self, *, drain_ms: int | None = None) -> None:
        """Accept no more, close the sockets with a retryable code over the drain time, then end."""
        if self._uvicorn is None or self._task is None or self.endpoint is None:
            return
        if drain_ms is not None:
            self._uvicorn.drain_ms = drain_ms
        self._uvicorn.should_exit = True
        try:
            await self._task
        finally:
            self.endpoint.wheel.stop()

    async def wait(self) -> None:
        """Wait until the server ended by itself or by `stop`."""
        assert self._task is not None
        await asyncio.shield(self._task)

    def _config(self, endpoint: Endpoint) -> SocketConfig:
        listen = self._listen
        config = SocketConfig(
            self._app,
            loop="none",
            http=HttpProtocol,
            ws=asyncio.Protocol,  # only has to be there: HttpProtocol makes the connection itself
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(listen.trusted_proxies),
            forwarded_allow_ips=list(listen.trusted_proxies),
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=HTTP_GRACE_S,
            ssl_certfile=listen.tls_certificate or None,
            ssl_keyfile=listen.tls_key or None,
        )
        config.endpoint = endpoint
        return config


async def serve(
    app: ASGIApp,
    handler: SocketHandler,
    subprotocols: Subprotocols,
    *,
    listen: ListenOptions,
    sockets: SocketOptions,
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set, then drain. For a composition root that needs nothing in between."""
    server = Server(app, handler, subprotocols, listen=listen, sockets=sockets)
    await server.start()
    await stop.wait()
    await server.stop()


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a bound socket, not yet listening.

    Args:
        port: 0 for any free one.
        shared: set SO_REUSEPORT, so that several processes listen on the port and the kernel spreads connections.

    Raises:
        OSError: the address is in use or not ours.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


class _Uvicorn(uvicorn.Server):
    """uvicorn's server that leaves signals to the composition root and drains sockets before HTTP."""

    def __init__(self, config: SocketConfig, endpoint: Endpoint, listen: ListenOptions) -> None:
        super().__init__(config)
        self._endpoint = endpoint
        self._handshake_timeout_ms = listen.tls_handshake_timeout_ms
        self._tls: list[TlsListener] = []
        self.drain_ms = listen.drain_ms
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take no signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        context = self.config.ssl
        await super().startup(sockets if context is None else [])
        if context is not None:
            self._tls = [self._tls_listener(sock, context) for sock in sockets or []]
        self.ready.set()

    def _tls_listener(self, sock: socket.socket, context: ssl.SSLContext) -> TlsListener:
        def make() -> HttpProtocol:
            return HttpProtocol(self.config, self.server_state, self.lifespan.state)

        return TlsListener(sock, context, backlog=BACKLOG, handshake_timeout_ms=self._handshake_timeout_ms, make=make)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, drain the sockets, then let HTTP requests end."""
        for server in self.servers:
            server.close()
        for listener in self._tls:
            await listener.close()
        await self._endpoint.drain(over_ms=self.drain_ms)
        await super().shutdown(sockets)


class _UpgradeRequired:
    """Answers a plain request for the socket's path with 426 (RFC 9110, section 15.5.22)."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        why = Refusal(426, "unsupported", "this address speaks WebSocket", 0)
        headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": why.status, "headers": headers})
        body: Any = handshake.error_body(why)
        await send({"type": "http.response.body", "body": body})
