"""What the end of a connection means: come back, come back later, or stop. Imports realtime.protocol and errors.

The range of the close code decides (docs/protocol.md): below 4500 a client connects again, from 4500 on it does not.
"""

from __future__ import annotations

from typing import Final

from websockets.exceptions import ConnectionClosed, InvalidStatus

from realtime.client.errors import Stopped
from realtime.protocol.close_codes import STOP_FROM, CloseCode

PASSING_STATUSES: Final = frozenset({408, 425, 429})  # refusals of an upgrade that are worth another try
_KNOWN: Final = frozenset(CloseCode)  # a newer server may send others


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
        action = CloseCode(code).next_action if code in _KNOWN else None
        return Stopped(message, code=reason or str(code), close_code=code, next_action=action)
    return Lost(f"{code} {reason}", patient=code in _KNOWN and CloseCode(code).patient)


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
