"""Google's access token, fetched outside of the event loop and held for firebase-admin. Imports nothing of the project.

firebase-admin refreshes a token inside its event loop, by a blocking request of up to 120 s, for which every socket of
the node would stand still. So it is given a credential that only holds a token; the holder
fetches in a thread, in good time and with a short timeout (docs/decisions/0055-fcm.md).
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import google.auth.credentials
import google.auth.exceptions
import google.auth.transport.requests
from firebase_admin import credentials

FETCH_TIMEOUT_S = 5
FETCH_DEADLINE_S = 12.0  # google-auth repeats a failed request twice
FRESH_FOR_S = 300  # a token is replaced this long before its end; google-auth itself would do so 225 s before


class TokenUnavailable(Exception):
    """No access token could be fetched, and there is none that still holds."""


class HeldToken(google.auth.credentials.Credentials):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """A credential for firebase-admin that carries the token it was given and never fetches one."""

    def refresh(self, request: object) -> None:
        """Do nothing: asked for after each 401, which the sender then sees and answers by `TokenHolder.forget`."""


class TokenHolder(credentials.Base):  # type: ignore[misc]
    """Fetches tokens for a service account; `held` is what firebase-admin gets."""

    def __init__(self, certificate: str | dict[str, Any]) -> None:
        """Read the service account.

        Args:
            certificate: path of its file, or its contents.

        Raises:
            ValueError: it is not one. OSError: the file cannot be read.
        """
        super().__init__()
        self._certificate = credentials.Certificate(certificate)
        self.project_id: str = self._certificate.project_id
        self.held = HeldToken()  # type: ignore[no-untyped-call, unused-ignore]
        self._lock = asyncio.Lock()

    def get_credential(self) -> HeldToken:
        """Return what authorises requests; called by firebase-admin."""
        return self.held

    async def ensure(self) -> None:
        """Make `held` carry a token that is good for some minutes.

        Raises:
            TokenUnavailable: it cannot be fetched, and the last one is over.
        """
        async with self._lock:
            left_s = self._left_s()
            if left_s > FRESH_FOR_S:
                return
            source = self._certificate.get_credential()
            try:
                async with asyncio.timeout(FETCH_DEADLINE_S):
                    await asyncio.to_thread(source.refresh, _TimedRequest())
            except (google.auth.exceptions.GoogleAuthError, TimeoutError, OSError, ValueError) as exc:
                if left_s > 0:
                    return
                raise TokenUnavailable(f"no access token: {exc}") from exc
            self.held.token = source.token

    def forget(self, token: str | None) -> None:
        """The service has refused `token`: fetch a new one next time, unless that has happened already."""
        if self.held.token == token:
            self._certificate.get_credential().expiry = None
            self.held.token = None

    def _left_s(self) -> float:
        expiry: dt.datetime | None = self._certificate.get_credential().expiry
        if expiry is None or self.held.token is None:
            return 0.0
        return (expiry.replace(tzinfo=dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds()


class _TimedRequest(google.auth.transport.requests.Request):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """google-auth's own transport with a timeout that a push can wait for."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["timeout"] = FETCH_TIMEOUT_S
        return super().__call__(*args, **kwargs)  # type: ignore[no-untyped-call]
