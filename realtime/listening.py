"""From the settings to the socket server's options: which setting is which limit. Owns that mapping, nothing else."""

from __future__ import annotations

import socket

from realtime.config import Settings, split
from realtime.transport.options import SocketOptions
from realtime.transport.server import ListenOptions


def listen_options(settings: Settings, sock: socket.socket | None) -> ListenOptions:
    """Return where to listen; `sock`, a listening socket of the supervisor, wins over host and port."""
    return ListenOptions(
        host=settings.host,
        port=settings.port,
        sock=sock,
        tls_certificate=settings.tls_certificate,
        tls_key=settings.tls_key,
        tls_handshake_timeout_ms=settings.tls_handshake_timeout_ms,
        trusted_proxies=split(settings.trusted_proxies),
        drain_ms=settings.drain_ms,
    )


def socket_options(settings: Settings) -> SocketOptions:
    """Return the limits of sockets; what has no setting keeps its default."""
    return SocketOptions(
        origins=split(settings.allowed_origins),
        trusted_proxies=split(settings.trusted_proxies),
        message_bytes_max=settings.frame_bytes_max,
        outbox_bytes_max=settings.outbox_bytes_max,
        connections_max=settings.connections_max,
        connections_per_ip_max=settings.connections_per_ip_max,
        unauthenticated_max=settings.unauthenticated_max,
        unauthenticated_per_ip_max=settings.unauthenticated_per_ip_max,
        accepts_per_ip_per_s=settings.accepts_per_ip_per_s,
        accepts_per_ip_burst=settings.accepts_per_ip_burst,
        request_timeout_ms=settings.request_timeout_ms,
        sign_in_timeout_ms=settings.sign_in_timeout_ms,
        heartbeat_ms=settings.heartbeat_ms,
        # A request is one frame; pongs, acks of transport and fragments come on top.
        frames_per_s=2 * settings.requests_per_s,
        frames_burst=2 * settings.requests_burst,
        compression=settings.compression,
    )
