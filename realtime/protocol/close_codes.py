"""WebSocket close codes. 4000-4499: reconnect with backoff; 4500-4999: do not, until something is changed.

Imports nothing of the project. RFC 6455, section 7.4.2, leaves 4000-4999 to applications.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final

STOP_FROM: Final = 4500  # the first code that a client does not come back from by itself


class CloseCode(IntEnum):
    """Why the server closed a socket; the reason text is the name in lower case."""

    GOING_AWAY = 4000
    SLOW_READER = 4001
    HEARTBEAT_TIMEOUT = 4002
    SERVER_ERROR = 4003
    RESYNC = 4004
    RATE_LIMITED = 4010
    OVERLOADED = 4011

    MALFORMED = 4500
    UNAUTHENTICATED = 4501
    TOKEN_EXPIRED = 4502
    SIGNED_OUT = 4503
    REPLACED = 4504
    UNSUPPORTED_PROTOCOL = 4505
    SIGN_IN_TIMEOUT = 4506
    FRAME_TOO_LARGE = 4507
    UPDATE_APP = 4508

    @property
    def reconnect(self) -> bool:
        """Whether a client should connect again by itself."""
        return self < STOP_FROM

    @property
    def patient(self) -> bool:
        """Whether a client should wait longer than after a lost network before it connects again."""
        return self in (CloseCode.RATE_LIMITED, CloseCode.OVERLOADED)

    @property
    def next_action(self) -> str | None:
        """What the app should do when the client does not come back, as in errors."""
        return _NEXT_ACTIONS.get(self)

    @property
    def reason(self) -> str:
        return self.name.lower()

    @property
    def meaning(self) -> str:
        """When it is sent, for the documentation."""
        return _MEANINGS[self]


_NEXT_ACTIONS: Final[Mapping[CloseCode, str]] = MappingProxyType(
    {
        CloseCode.UNAUTHENTICATED: "sign_in",
        CloseCode.TOKEN_EXPIRED: "sign_in",
        CloseCode.SIGNED_OUT: "sign_in",
        CloseCode.REPLACED: "sign_in",
        CloseCode.SIGN_IN_TIMEOUT: "sign_in",
        CloseCode.UPDATE_APP: "update_app",
    }
)
_MEANINGS: Final[Mapping[CloseCode, str]] = MappingProxyType(
    {
        CloseCode.GOING_AWAY: "the node drains or restarts; any node takes the client",
        CloseCode.SLOW_READER: "more unsent bytes waited for this socket than `TALKMETER_OUTBOX_BYTES_MAX`",
        CloseCode.HEARTBEAT_TIMEOUT: "nothing was heard, not even an answer to a ping",
        CloseCode.SERVER_ERROR: "the server failed",
        CloseCode.RESYNC: "the event stream may have a gap, as after a restart of Redis",
        CloseCode.RATE_LIMITED: "a flood of frames, or a user who signs in too often",
        CloseCode.OVERLOADED: "the sign-in failed for a reason that passes, as a database that is away",
        CloseCode.MALFORMED: "too many frames that are no requests, or the wrong kind of frame for the subprotocol",
        CloseCode.UNAUTHENTICATED: "too many requests before a sign-in",
        CloseCode.TOKEN_EXPIRED: "the token ended and was not refreshed",
        CloseCode.SIGNED_OUT: "this device was signed out, here or by a sign-out everywhere",
        CloseCode.REPLACED: "the device signed in on another connection, or the user on one device too many",
        CloseCode.UNSUPPORTED_PROTOCOL: "reserved; an unknown subprotocol is refused before the upgrade",
        CloseCode.SIGN_IN_TIMEOUT: "no sign-in within `TALKMETER_SIGN_IN_TIMEOUT_MS`",
        CloseCode.FRAME_TOO_LARGE: "a message above `TALKMETER_FRAME_BYTES_MAX`",
        CloseCode.UPDATE_APP: "reserved; no version of an app is refused yet",
    }
)
