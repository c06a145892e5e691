"""Redis URLs: one server, Sentinel or Cluster, read into what clients and the subscriber need. Pure; imports nothing of
the project.

    unix:///run/valkey.sock            redis://[user:password@]host:port/0       rediss://... (TLS)
    redis+sentinel://[user:password@]host:port,host:port/mymaster/0              rediss+sentinel://...
    redis+cluster://[user:password@]host:port,host:port                          rediss+cluster://...

Further query parameters are those of redis-py (`ssl_ca_certs`, `ssl_check_hostname`, ...); for Sentinel itself
`sentinel_username` and `sentinel_password`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio.connection import parse_url

DEFAULT_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
DEFAULT_SERVICE: Final = "mymaster"


class BadRedisUrl(ValueError):
    """The URL is none that this product understands; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where one server listens: a socket path, or host and port."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL taken apart.

    Attributes:
        kind: what stands behind it.
        addresses: the server; the sentinels; some nodes of the cluster.
        service: the name under which the sentinels know the master.
        username, password: of the servers; empty when none.
        sentinel_username, sentinel_password: of the sentinels.
        tls: context for TLS, or None for none.
        db: number of the database; 0 on a cluster.
        options: redis-py's keyword arguments for a connection, without the address.
    """

    kind: Literal["single", "sentinel", "cluster"]
    addresses: tuple[Address, ...]
    service: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    db: int = 0
    options: dict[str, Any] = field(default_factory=dict, repr=False)


def read_url(url: str) -> RedisUrl:
    """Take a URL apart.

    Raises:
        BadRedisUrl: unknown scheme, no host, or a parameter that redis-py does not know how to read.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if (
        scheme not in ("redis", "rediss", "unix")
        or kind not in ("", "sentinel", "cluster")
        or (kind and scheme == "unix")
    ):
        raise BadRedisUrl(
            f"{parts.scheme}:// is no Redis URL; use unix://, redis://, rediss://, redis+sentinel://, redis+cluster://"
        )
    userinfo, at, hosts = parts.netloc.rpartition("@")
    first = hosts.split(",")[0]
    try:
        # redis-py reads credentials, database and TLS options; the other hosts are ours to read.
        options: dict[str, Any] = dict(
            parse_url(urlunsplit((scheme, userinfo + at + first, parts.path, parts.query, "")))
        )
        addresses = _addresses(hosts, SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT)
    except ValueError as exc:
        raise BadRedisUrl(f"the Redis URL cannot be read: {exc}") from None
    if scheme == "unix":
        addresses = (Address(path=options.pop("path", "")),)
        if not addresses[0].path:
            raise BadRedisUrl("unix:// needs the path of a socket")
    for name in ("connection_class", "host", "port"):
        options.pop(name, None)
    service, db = _path(parts.path) if kind == "sentinel" else ("", options.get("db", 0))
    options.pop("db", None)
    service = options.pop("service", service or DEFAULT_SERVICE)
    sentinel_username, sentinel_password = options.pop("sentinel_username", ""), options.pop("sentinel_password", "")
    return RedisUrl(
        kind={"": "single", "sentinel": "sentinel", "cluster": "cluster"}[kind],  # type: ignore[arg-type]
        addresses=addresses,
        service=service if kind == "sentinel" else "",
        username=options.pop("username", ""),
        password=options.pop("password", ""),
        sentinel_username=sentinel_username,
        sentinel_password=sentinel_password,
        tls=_tls(options) if scheme == "rediss" else None,
        db=0 if kind == "cluster" else db,
        options=options,
    )


def _path(path: str) -> tuple[str, int]:
    """Return the service and the database that the path of a Sentinel URL names: `/calls`, `/1` or `/calls/1`."""
    service, db = "", 0
    for part in path.strip("/").split("/"):
        if part.isdecimal():
            db = int(part)
        elif part:
            service = part
    return service, db


def _addresses(hosts: str, default_port: int) -> tuple[Address, ...]:
    found = []
    for text in hosts.split(","):
        parts = urlsplit(f"//{text}")
        found.append(Address(parts.hostname or "localhost", parts.port or default_port))
    return tuple(found)


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    """Make the context that redis-py would make of the same options, for the subscriber's own connection."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    context.check_hostname = str(options.get("ssl_check_hostname", "true")).lower() not in ("false", "0", "no")
    if options.get("ssl_cert_reqs") in ("none", "optional"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE if options["ssl_cert_reqs"] == "none" else ssl.CERT_OPTIONAL
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context
