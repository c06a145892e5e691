"""What the end of a connection means: come back, come back later, or stop. Imports realtime.protocol and errors.

The range of the close code decides (docs/protocol.md): below 4500 a client connects again, from 4500 on it does not.
"""

from __future__ import annotations

from typing import Final

from websockets.exceptions import ConnectionClosed, InvalidStatus

from realtime.client.errors import Stopped
from realtime.protocol.close_codes import CloseCode

STOP_FROM: Final = 4500
PASSING_STATUSES: Final = frozenset({408, 425, 429})  # refusals of an upgrade that are worth another try
PATIENT_CLOSES: Final = frozenset({CloseCode.RATE_LIMITED, CloseCode.OVERLOADED})
NEXT_ACTIONS: Final[dict[int, str]] = {
    CloseCode.UNAUTHENTICATED: "sign_in",
    CloseCode.TOKEN_EXPIRED: "sign_in",
    CloseCode.SIGNED_OUT: "sign_in",
    CloseCode.REPLACED: "sign_in",
    CloseCode.SIGN_IN_TIMEOUT: "sign_in",
    CloseCode.UPDATE_APP: "update_app",
}


class Lost(Exception):
    """The connection is gone and another should be tried; `patient` when the server asked us to wait."""

    def __init__(self, reason: str, *, patient: bool = False) -> None:
        super().__init__(reason)
        self.patient = patient


def ending(closed: ConnectionClosed) -> Lost | Stopped:
    """Return what a closed socket means."""
    code = closed.rcvd.code if closed.rcvd else 0
    reason = closed.rcvd.reason if closed.rcvd else "the connection was lost"
    if code >= STOP_FROM:
        message = f"closed by the server: {code} {reason}"
        return Stopped(message, code=reason or str(code), close_code=code, next_action=NEXT_ACTIONS.get(code))
    return Lost(f"{code} {reason}", patient=code in PATIENT_CLOSES)


def refused_upgrade(exc: InvalidStatus) -> Lost:
    """Return the loss that a refused upgrade is: a full or starting server passes, a wrong address does not.

    Raises:
        Stopped: there is nothing for us at that address.
    """
    status = exc.response.status_code
    message = f"the upgrade was refused with HTTP {status}"
    if 400 <= status < 500 and status not in PASSING_STATUSES:
        raise Stopped(message, code=f"http_{status}")
    return Lost(message, patient=True)
