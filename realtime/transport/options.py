"""Every limit and choice of the socket server, with its reason. Owns numbers only; imports nothing of the project."""

from __future__ import annotations

from dataclasses import dataclass

MILLIS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketOptions:
    """How sockets are accepted, bounded and timed. The composition root fills it from the settings."""

    path: str = "/v1/socket"
    """The only path that upgrades."""

    origins: tuple[str, ...] = ()
    """Origins of browsers that may connect besides the server's own; `*` allows all."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For names the peer; nobody else's does."""

    require_subprotocol: bool = True
    """False only for the conformance echo, which speaks no subprotocol and takes both kinds of frame."""

    message_bytes_max: int = 64 * 1024
    """A message, joined and inflated. The largest legitimate one is a WebRTC offer of some 10 KB."""

    outbox_bytes_max: int = 1024 * 1024
    """Unsent bytes of one socket before it is closed as slow: some 4,000 events, a minute of a busy room."""

    connections_max: int = 18_000
    """Sockets and HTTP connections of this process; below the usual limit of 20,000 open files."""

    connections_per_ip_max: int = 18_000
    """Mobile carriers put tens of thousands behind one address, so only an operator can know a lower one."""

    unauthenticated_max: int = 1_000
    """Connections that have not signed in yet. Signing in takes milliseconds; this is what an attacker can hold."""

    unauthenticated_per_ip_max: int = 200
    """The same for one address (one /64 network of IPv6)."""

    accepts_per_ip_per_s: int = 500
    """New sockets from one address, sustained; a carrier's address after a lost node reconnects in a burst."""

    accepts_per_ip_burst: int = 2_000

    frames_per_s: int = 100
    """Frames of any kind from one socket, sustained; twice what the request limit lets through."""

    frames_burst: int = 500

    request_timeout_ms: int = 10_000
    """From a connection (with TLS, from the end of its handshake) to its whole request head."""

    sign_in_timeout_ms: int = 10_000
    """From the upgrade to a sign-in."""

    heartbeat_ms: int = 25_000
    """Silence of the peer before a ping; below the 30 s after which mobile carriers drop idle mappings."""

    heartbeat_timeout_ms: int = 10_000
    """Silence after that ping before the socket is given up."""

    close_timeout_ms: int = 5_000
    """For the peer's half of the closing handshake, and for a slow reader to take what is left."""

    tick_ms: int = 250
    """Grain of the timer wheel: deadlines are kept to within this."""

    compression: bool = False
    """Offer permessage-deflate, without context takeover so that an idle socket costs no window."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool) and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}")
