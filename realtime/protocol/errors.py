"""Every error that a client can be told, with its stable code. Imports nothing of the project.

A code is never renamed or reused. `retryable` says whether the same request may succeed later unchanged; `next_action`
says what the app should do meanwhile: top_up, sign_in, update_app, wait, or nothing.
"""

from __future__ import annotations

from typing import ClassVar


class TalkmeterError(Exception):
    """Base of all errors that are answered to a client; raise a subclass.

    Args:
        message: a sentence for the developer who reads the reply; nothing secret.
        details: small JSON values that help to act, as `path` or `retry_after_ms`.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = True
    next_action: ClassVar[str | None] = None

    def __init__(self, message: str = "", **details: object) -> None:
        super().__init__(message or (self.__doc__ or self.code).splitlines()[0])
        self.message = str(self)
        self.details = details


class Internal(TalkmeterError):
    """The server failed; the request may or may not have taken effect, and repeating it with its key is safe."""


class Malformed(TalkmeterError):
    """The frame is no request: not valid JSON or MessagePack, or not an object with id, op and data."""

    code = "malformed"
    retryable = False


class UnknownOp(TalkmeterError):
    """There is no operation of that name."""

    code = "unknown_op"
    retryable = False
    next_action = "update_app"


class InvalidData(TalkmeterError):
    """The operation's data does not fit its schema."""

    code = "invalid_data"
    retryable = False


class Unauthenticated(TalkmeterError):
    """This connection has not signed in."""

    code = "unauthenticated"
    retryable = False
    next_action = "sign_in"


class TokenExpired(TalkmeterError):
    """The token has expired."""

    code = "token_expired"
    retryable = False
    next_action = "sign_in"


class TokenInvalid(TalkmeterError):
    """The token is not one of ours: wrong signature, issuer, audience, algorithm or form."""

    code = "token_invalid"
    retryable = False
    next_action = "sign_in"


class Forbidden(TalkmeterError):
    """This user may not do that."""

    code = "forbidden"
    retryable = False


class NotFound(TalkmeterError):
    """There is no such thing, or this user may not know of it."""

    code = "not_found"
    retryable = False


class RateLimited(TalkmeterError):
    """Too many requests; `retry_after_ms` says when the next one is taken."""

    code = "rate_limited"
    next_action = "wait"


class TooManyPending(TalkmeterError):
    """Too many requests of this connection are waiting for their answers."""

    code = "too_many_pending"
    next_action = "wait"


class KeyRequired(TalkmeterError):
    """This operation changes something, so the request must carry an idempotency key."""

    code = "key_required"
    retryable = False


class KeyReused(TalkmeterError):
    """The idempotency key was used for another request."""

    code = "key_reused"
    retryable = False


class Conflict(TalkmeterError):
    """The thing has changed meanwhile, or exists already."""

    code = "conflict"
    retryable = False


class Busy(TalkmeterError):
    """One of the two is in another call."""

    code = "busy"
    next_action = "wait"


class HostUnavailable(TalkmeterError):
    """The host is offline, away, or does not take calls of this kind."""

    code = "host_unavailable"
    next_action = "wait"


class SelfCall(TalkmeterError):
    """Nobody can call or pay themselves."""

    code = "self_call"
    retryable = False


class CallOver(TalkmeterError):
    """The call has ended."""

    code = "call_over"
    retryable = False


class InvalidTransition(TalkmeterError):
    """The call is in a state that does not allow this."""

    code = "invalid_transition"
    retryable = False


class InsufficientFunds(TalkmeterError):
    """Not enough coins."""

    code = "insufficient_funds"
    next_action = "top_up"


class Unavailable(TalkmeterError):
    """A part that this request needs cannot be reached at the moment."""

    code = "unavailable"
    next_action = "wait"


class Draining(TalkmeterError):
    """This server is about to stop; reconnect and repeat."""

    code = "draining"
    next_action = "wait"


class PayloadTooLarge(TalkmeterError):
    """A value is larger than its limit."""

    code = "payload_too_large"
    retryable = False


class Unsupported(TalkmeterError):
    """This server is not set up for that."""

    code = "unsupported"
    retryable = False


def all_errors() -> list[type[TalkmeterError]]:
    """Return every error class of this module, for the generated documentation."""
    return [cls for cls in TalkmeterError.__subclasses__() if cls.__module__ == __name__]
