"""WebSocket close codes. 4000-4499: reconnect with backoff; 4500-4999: do not, until something is changed.

Imports nothing of the project. RFC 6455, section 7.4.2, leaves 4000-4999 to applications.
"""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """Why the server closed a socket; the reason text is the name in lower case."""

    GOING_AWAY = 4000  # drain or restart: reconnect at once, to any node
    SLOW_READER = 4001  # the outbox was over its limit: reconnect and resume
    HEARTBEAT_TIMEOUT = 4002  # nothing heard for too long
    SERVER_ERROR = 4003
    RESYNC = 4004  # the event stream may have a gap: reconnect and resume
    RATE_LIMITED = 4010  # flooding: wait before reconnecting
    OVERLOADED = 4011  # the node has no room: wait, then reconnect

    MALFORMED = 4500
    UNAUTHENTICATED = 4501
    TOKEN_EXPIRED = 4502
    SIGNED_OUT = 4503
    REPLACED = 4504  # the device signed in again elsewhere, or one device too many
    UNSUPPORTED_PROTOCOL = 4505
    SIGN_IN_TIMEOUT = 4506
    FRAME_TOO_LARGE = 4507
    UPDATE_APP = 4508

    @property
    def reconnect(self) -> bool:
        """Whether a client should connect again by itself."""
        return self < 4500

    @property
    def reason(self) -> str:
        return self.name.lower()
