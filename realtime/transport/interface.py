"""What the rest of the product sees of a socket, and what a socket expects of the rest. Types only; imports nothing
of the project, so that hub, dispatch and tests can name these without pulling in the frame path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Codec(Protocol):
    """How messages of one subprotocol look on the wire, as far as a socket has to know."""

    @property
    def name(self) -> str:
        """Short name, such as `json`."""
        ...

    @property
    def binary(self) -> bool:
        """Whether messages travel in binary frames (text frames otherwise)."""
        ...


class Encoded(Protocol):
    """An event that is to go to many sockets: it serialises and frames itself once per codec, and remembers."""

    def frame(self, codec: Any) -> bytes:
        """Return the whole frame, header included, as `frames.frame` makes it."""
        ...


class Socket(Protocol):
    """One upgraded connection. Nothing here blocks or awaits; every method may be called after the socket has gone."""

    id: int
    codec: Any
    principal: Any
    session: Any

    @property
    def remote(self) -> str:
        """The peer's address, or the one that a trusted proxy names."""
        ...

    @property
    def authorization(self) -> str | None:
        """The upgrade request's Authorization header; dropped once signed in."""
        ...

    def sign_in(self, principal: Any) -> None:
        """Record who this is, which ends the sign-in deadline."""
        ...

    def send_reply(self, payload: bytes) -> None:
        """Frame one message in the connection's codec and queue it."""
        ...

    def send_frame(self, frame: bytes) -> None:
        """Queue one ready frame; all that is queued in a turn of the loop leaves in one write."""
        ...

    def send_event(self, encoded: Encoded) -> None:
        """Queue an event that is shared with other sockets."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake, after what is already queued."""
        ...

    def pause_reading(self) -> None:
        """Take no further messages until `resume_reading`: the handler's queue for this socket is full."""
        ...

    def resume_reading(self) -> None: ...

    def heard_ms_ago(self) -> int:
        """Milliseconds since the last byte came from the peer."""
        ...


class SocketHandler(Protocol):
    """What is done with sockets and their messages. Each method returns at once; what waits is the handler's."""

    def connected(self, conn: Any) -> None:
        """The handshake is done; `conn.codec` and `conn.authorization` are set."""
        ...

    def received(self, conn: Any, payload: bytes) -> None:
        """One whole message came: unmasked, joined, and valid UTF-8 when the codec is a text one."""
        ...

    def closed(self, conn: Any, code: int) -> None:
        """The socket is closing or gone; called exactly once, never from inside another of these methods."""
        ...


Subprotocols = Mapping[str, Codec]
