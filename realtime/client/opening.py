"""How a socket to the server is opened: its limits and timeouts. Imports nothing of the project."""

from __future__ import annotations

from collections.abc import Mapping

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

HANDSHAKE_TIMEOUT_MS = 10_000  # TCP, TLS, upgrade; and then once more for the sign-in
CLOSE_TIMEOUT_S = 1  # how long a peer may take to answer our close frame
FRAME_BYTES_MAX = 4 * 1024 * 1024  # a directory or a history page of the server's largest sizes


def open_socket(url: str, subprotocol: str, headers: Mapping[str, str]) -> connect:
    """Return the opening of a WebSocket, to be used with `async with`.

    Raises on entry what `websockets` raises: OSError, TimeoutError, InvalidStatus and other WebSocketExceptions.
    """
    return connect(
        url,
        subprotocols=[Subprotocol(subprotocol)],
        additional_headers=headers,
        compression=None,
        proxy=None,
        open_timeout=HANDSHAKE_TIMEOUT_MS / 1000,
        ping_interval=None,  # the client speaks the application's own ping, as a browser must
        close_timeout=CLOSE_TIMEOUT_S,
        max_size=FRAME_BYTES_MAX,
        process_exception=_give_up,
    )


def _give_up(exc: Exception) -> Exception | None:
    """Tell `websockets` to try no failure again by itself: the client has its own backoff."""
    return exc
