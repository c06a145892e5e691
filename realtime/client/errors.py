"""Everything that a client call can raise. Imports nothing of the project.

Each error says, as the server's do, whether a repeat may help (`retryable`) and what the app should do (`next_action`:
top_up, sign_in, update_app, wait, or None).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Base of all errors of the client.

    Attributes:
        code: stable name of the error; the server's own codes are in docs/protocol.md.
        retryable: whether the same request may succeed later unchanged.
        next_action: what the app should do meanwhile.
    """

    code: str = "client_error"
    retryable: bool = False
    next_action: str | None = None


class RequestRefused(ClientError):
    """The server answered with an error.

    Attributes:
        op: the operation that was refused.
        details: what the server added, as `path` or `retry_after_ms`.
    """

    def __init__(self, op: str, error: Mapping[str, Any]) -> None:
        self.op = op
        self.code = str(error.get("code", "internal"))
        self.message = str(error.get("message", ""))
        self.retryable = bool(error.get("retryable", False))
        self.next_action = error.get("next_action")
        self.details: dict[str, Any] = dict(error.get("details") or {})
        super().__init__(f"{op}: {self.code}: {self.message}")


class RequestTimeout(ClientError):
    """No answer in time, reconnects included. Whether it took effect is unknown: repeat it with the same `key`."""

    code = "timeout"
    retryable = True
    next_action = "wait"

    def __init__(self, op: str, key: str | None) -> None:
        self.op = op
        self.key = key
        super().__init__(f"{op}: no answer in time")


class TooManyRequests(ClientError):
    """More requests wait for answers than the client keeps."""

    code = "too_many_pending"
    retryable = True
    next_action = "wait"


class ConnectTimeout(ClientError):
    """No signed-in connection in time; the client is closed."""

    code = "connect_timeout"
    retryable = True
    next_action = "wait"


class ClientClosed(ClientError):
    """The client was closed, or never opened."""

    code = "closed"


class EventsLost(ClientError):
    """A subscription was read more slowly than events came, and its buffer was full: read state anew."""

    code = "events_lost"


class Stopped(ClientError):
    """The server said not to come back as we are: a close code of 4500 and above, or a sign-in that was refused.

    Attributes:
        close_code: 4500-4999, or None when the sign-in or handshake itself was answered with an error.
    """

    def __init__(
        self, message: str, *, code: str, close_code: int | None = None, next_action: str | None = None
    ) -> None:
        self.code = code
        self.close_code = close_code
        self.next_action = next_action
        super().__init__(message)
