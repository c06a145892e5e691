"""The upgrade: path, origin, subprotocol and compression; what is answered, and what was agreed.

Written out because it is short, and three times as fast as a general library's (docs/decisions/0020); extension headers
are parsed by the websockets library. Must never import the connection. Tokens are taken from the Authorization header
only: URLs end up in logs.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec
from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from .gate import Refusal
from .interface import Codec, Subprotocols
from .options import SocketOptions

DEFAULT_PORTS = {"http": 80, "https": 443}
FORWARDED_HOPS_MAX = 16  # addresses of X-Forwarded-For that are looked at; the rest is a client's padding
ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
KEY_BYTES = 16
VERSION = b"13"
DEFLATE = "permessage-deflate"

NOT_GET = Refusal(405, "malformed", "an upgrade is a GET", 0)
NOT_HTTP_1_1 = Refusal(505, "malformed", "an upgrade is HTTP/1.1", 0)
ORIGIN_FORBIDDEN = Refusal(403, "forbidden", "this origin may not connect; see TALKMETER_ALLOWED_ORIGINS", 0)
OLD_VERSION = Refusal(426, "unsupported", "the WebSocket version must be 13", 0)
BAD_KEY = Refusal(400, "malformed", "Sec-WebSocket-Key must be there once, and 16 bytes in base64", 0)
BAD_EXTENSIONS = Refusal(400, "malformed", "Sec-WebSocket-Extensions cannot be read", 0)

Fields = Mapping[bytes, Sequence[bytes]]


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

    __slots__ = ("_deflate", "_options", "_path", "_subprotocols", "_unspoken")

    def __init__(self, options: SocketOptions, subprotocols: Subprotocols) -> None:
        self._options = options
        self._path = options.path.encode()
        self._subprotocols = [(name.encode(), codec) for name, codec in subprotocols.items()]
        spoken = ", ".join(subprotocols)
        self._unspoken = Refusal(400, "unsupported", f"Sec-WebSocket-Protocol must offer one of: {spoken}", 0)
        self._deflate = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)

    def negotiate(
        self, method: str, version: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], *, secure: bool
    ) -> Agreed | bytes:
        """Return what was agreed, or the bytes of a refusal. That it asks for an upgrade to WebSocket is known.

        Args:
            version: of HTTP, such as `1.1`.
            target: path and query as requested.
            headers: names in lower case.
            secure: whether the request came over TLS, for comparing Origin with Host.
        """
        if target.split(b"?", 1)[0] != self._path:
            return refusal(Refusal(404, "not_found", f"sockets are at {self._options.path}", 0))
        if method != "GET":
            return refusal(NOT_GET, ("Allow", "GET"))
        if version != "1.1":
            return refusal(NOT_HTTP_1_1)
        fields: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            fields.setdefault(name, []).append(value)
        if not self._origin_allowed(fields, secure=secure):
            return refusal(ORIGIN_FORBIDDEN)
        if fields.get(b"sec-websocket-version") != [VERSION]:
            return refusal(OLD_VERSION, ("Sec-WebSocket-Version", VERSION.decode()))
        accept = _accept(fields.get(b"sec-websocket-key", ()))
        if accept is None:
            return refusal(BAD_KEY)
        answer = [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade"]
        answer.append(b"Sec-WebSocket-Accept: " + accept)
        codec = None
        if self._options.require_subprotocol:
            found = self._subprotocol(fields)
            if found is None:
                return refusal(self._unspoken)
            name, codec = found
            answer.append(b"Sec-WebSocket-Protocol: " + name)
        windows = None
        if self._options.compression and b"sec-websocket-extensions" in fields:
            try:
                header, windows = self._compression(fields[b"sec-websocket-extensions"])
            except InvalidHandshake:
                return refusal(BAD_EXTENSIONS)
            if windows is not None:
                answer.append(b"Sec-WebSocket-Extensions: " + header)
        authorization = fields.get(b"authorization", ())
        token = authorization[0].decode("latin-1") if len(authorization) == 1 else None
        return Agreed(b"\r\n".join(answer) + b"\r\n\r\n", codec, token, windows)

    def _subprotocol(self, fields: Fields) -> tuple[bytes, Codec] | None:
        """Return the first of ours that is among the client's."""
        offered = {name.strip() for value in fields.get(b"sec-websocket-protocol", ()) for name in value.split(b",")}
        return next((spoken for spoken in self._subprotocols if spoken[0] in offered), None)

    def _compression(self, values: Sequence[bytes]) -> tuple[bytes, tuple[int, int] | None]:
        """Return the header that accepts the first offer that we can keep, and the windows' bits.

        Raises:
            InvalidHandshake: the header is not one.
        """
        for value in values:
            for name, parameters in parse_extension(value.decode("latin-1")):
                if name != DEFLATE:
                    continue
                try:
                    agreed, extension = self._deflate.process_request_params(parameters, [])
                except InvalidHandshake:
                    continue  # this offer is declined; the next one may do
                header = build_extension([(name, agreed)])
                return header.encode(), (extension.remote_max_window_bits, extension.local_max_window_bits)
        return b"", None

    def _origin_allowed(self, fields: Fields, *, secure: bool) -> bool:
        """Browsers send Origin and cannot forge it; what sends none is no browser and has no cookies to abuse."""
        origins = fields.get(b"origin", ())
        if not origins or "*" in self._options.origins:
            return True
        if len(origins) > 1:
            return False
        origin = origins[0].decode("latin-1")
        if origin in self._options.origins:
            return True
        hosts = fields.get(b"host", ())
        scheme = "https" if secure else "http"
        own = _host_and_port(f"{scheme}://{hosts[0].decode('latin-1')}") if len(hosts) == 1 else None
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


def _accept(keys: Sequence[bytes]) -> bytes | None:
    """Return the answer to a Sec-WebSocket-Key (RFC 6455, section 4.2.2), or None when the key is wrong."""
    if len(keys) != 1:
        return None
    try:
        if len(binascii.a2b_base64(keys[0], strict_mode=True)) != KEY_BYTES:
            return None
    except binascii.Error:
        return None
    return base64.b64encode(sha1(keys[0] + ACCEPT_GUID, usedforsecurity=False).digest())


def _host_and_port(url: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.hostname is None or parts.scheme not in DEFAULT_PORTS:
        return None
    return parts.hostname, port if port is not None else DEFAULT_PORTS[parts.scheme]
