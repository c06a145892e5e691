"""The upgrade: path, origin, subprotocol and compression; what is answered, and what was agreed.

The rules of RFC 6455 themselves are `websockets.server.ServerProtocol`'s; what is ours are the policies. Must never
import the connection. Tokens are taken from the Authorization header only: URLs end up in logs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from .gate import Refusal
from .interface import Codec, Subprotocols
from .options import SocketOptions

DEFAULT_PORTS = {"http": 80, "https": 443}
FORWARDED_HOPS_MAX = 16  # addresses of X-Forwarded-For that are looked at; the rest is a client's padding


@dataclass(frozen=True, slots=True)
class Agreed:
    """An accepted upgrade: the bytes of the 101 answer, and what the connection is made of."""

    response: bytes
    codec: Codec | None
    authorization: str | None
    windows: tuple[int, int] | None
    """Bits of the client's and of our deflate window; None without compression."""


class Handshaker:
    """Judges upgrade requests. One per endpoint; keeps what is the same for all of them."""

    __slots__ = ("_extensions", "_options", "_subprotocols", "_subprotocols_offered")

    def __init__(self, options: SocketOptions, subprotocols: Subprotocols) -> None:
        self._options = options
        self._subprotocols = subprotocols
        self._subprotocols_offered = (
            [Subprotocol(name) for name in subprotocols] if options.require_subprotocol else None
        )
        self._extensions: list[ServerPerMessageDeflateFactory] | None = None
        if options.compression:
            self._extensions = [
                ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
            ]

    def negotiate(
        self, method: str, version: str, target: bytes, raw_headers: Sequence[tuple[bytes, bytes]], *, secure: bool
    ) -> Agreed | bytes:
        """Return what was agreed, or the bytes of a refusal.

        Args:
            version: of HTTP, such as `1.1`.
            target: path and query as requested.
            raw_headers: names in lower case.
            secure: whether the request came over TLS, for comparing Origin with Host.
        """
        if target.split(b"?", 1)[0].decode("latin-1") != self._options.path:
            return refusal(Refusal(404, "not_found", f"sockets are at {self._options.path}", 0))
        if method != "GET":
            return refusal(Refusal(405, "malformed", "an upgrade is a GET", 0), ("Allow", "GET"))
        if version != "1.1":
            return refusal(Refusal(505, "malformed", "an upgrade is HTTP/1.1", 0))
        headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw_headers)
        if not self._origin_allowed(headers, secure=secure):
            return refusal(Refusal(403, "forbidden", "this origin may not connect; see TALKMETER_ALLOWED_ORIGINS", 0))
        judge = ServerProtocol(extensions=self._extensions, subprotocols=self._subprotocols_offered)
        response = judge.accept(Request(target.decode("latin-1"), headers))
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            return refusal(Refusal(response.status_code, "malformed", bytes(response.body).decode().strip(), 0))
        windows = None
        for extension in judge.extensions:
            if isinstance(extension, PerMessageDeflate):
                windows = (extension.remote_max_window_bits, extension.local_max_window_bits)
        codec = self._subprotocols.get(judge.subprotocol) if judge.subprotocol else None
        return Agreed(response.serialize(), codec, _authorization(headers), windows)

    def _origin_allowed(self, headers: Headers, *, secure: bool) -> bool:
        """Browsers send Origin and cannot forge it; what sends none is no browser and has no cookies to abuse."""
        origins = headers.get_all("Origin")
        if not origins or "*" in self._options.origins:
            return True
        if len(origins) > 1:
            return False
        origin = origins[0]
        if origin in self._options.origins:
            return True
        hosts = headers.get_all("Host")
        scheme = "https" if secure else "http"
        own = _host_and_port(f"{scheme}://{hosts[0]}") if len(hosts) == 1 else None
        theirs = _host_and_port(origin)
        if own is None or theirs is None:
            return False
        # Behind a proxy that ends TLS the origin is https though we see http: compare default ports of its own scheme.
        return theirs == own or (own[1] in (80, 443) and theirs == (own[0], DEFAULT_PORTS[urlsplit(origin).scheme]))


def refusal(why: Refusal, *extra: tuple[str, str]) -> bytes:
    """Return an HTTP answer with the error as JSON; the connection closes after it."""
    body = error_body(why)
    lines = [f"HTTP/1.1 {why.status} {HTTPStatus(why.status).phrase}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in extra]
    lines.append("Connection: close")
    if why.retry_after_s:
        lines.append(f"Retry-After: {why.retry_after_s}")
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def error_body(why: Refusal) -> bytes:
    """Return the refusal as JSON, in the shape of the protocol's errors."""
    error = {"code": why.code, "message": why.message, "retryable": why.retry_after_s > 0}
    return msgspec.json.encode({"error": error})


def remote_address(peer: str, forwarded: Iterable[bytes], trusted: frozenset[str]) -> str:
    """Return who connects: the peer, or behind trusted proxies the last address that none of them is.

    Args:
        forwarded: values of X-Forwarded-For, in order.
        trusted: addresses of proxies; entries of anybody else are not believed.
    """
    if peer not in trusted:
        return peer
    hops = b",".join(forwarded).decode("latin-1").split(",")[-FORWARDED_HOPS_MAX:]
    for hop in reversed(hops):
        address = hop.strip()
        if address in trusted:
            continue
        try:
            return str(ipaddress.ip_address(address))
        except ValueError:
            break
    return peer


def _authorization(headers: Headers) -> str | None:
    values = headers.get_all("Authorization")
    return values[0] if len(values) == 1 else None


def _host_and_port(url: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.hostname is None or parts.scheme not in DEFAULT_PORTS:
        return None
    return parts.hostname, port if port is not None else DEFAULT_PORTS[parts.scheme]
