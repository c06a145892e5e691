"""The one map from billing's refusals to the errors that clients are told. Imports the two error modules only."""

from __future__ import annotations

from billing import errors as billing
from realtime.protocol import errors as protocol


def translate(exc: Exception) -> protocol.TalkmeterError | None:
    """Return the client's error for one of billing's, or None for any other exception."""
    match exc:
        case billing.InsufficientFunds():
            return protocol.InsufficientFunds()
        case billing.Restricted():
            return protocol.Forbidden("this wallet may not spend until support has lifted that", reason="restricted")
        case billing.UnknownAccount() | billing.UnknownMeter():
            return protocol.NotFound("there is no such wallet or call")
        case billing.InvalidAmount() | billing.InvalidTime() | billing.InvalidTariff():
            return protocol.InvalidData(str(exc))
        case billing.Busy():
            return protocol.Unavailable("the books are busy; try again", retry_after_ms=200)
        case billing.ArchiveUnavailable():
            return protocol.Unavailable("the archive of that month cannot be read now", retry_after_ms=60_000)
        case billing.AppendOnly():
            return protocol.Internal()
        case billing.BillingError():
            return protocol.Conflict(f"the books refuse this: {exc.code}", reason=exc.code)
        case _:
            return None
