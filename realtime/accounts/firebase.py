"""Firebase ID tokens (phone number sign-in) as login tokens. Owns the firebase-admin app that checks them; no store.

firebase-admin accepts *unsigned* tokens when FIREBASE_AUTH_EMULATOR_HOST is set, so a verifier refuses to be made,
and to work, with it unless development is switched on (docs/decisions/0051-login-tokens.md).
"""

from __future__ import annotations

import asyncio
import os
from typing import Any
from uuid import uuid4

import firebase_admin
from firebase_admin import auth, credentials
from google.auth.credentials import AnonymousCredentials

from realtime.accounts.jws import TOKEN_CHARS_MAX
from realtime.accounts.tokens import Identity, identity_of
from realtime.config import SettingsError
from realtime.protocol.errors import TokenExpired, TokenInvalid, Unavailable

EMULATOR_VARIABLE = "FIREBASE_AUTH_EMULATOR_HOST"
ISSUER_PREFIX = "https://securetoken.google.com/"
HTTP_TIMEOUT_S = 5  # fetching Google's certificates, which are then kept as long as their headers say
VERIFY_TIMEOUT_S = 8.0  # below the sign-in deadline
THREADS_MAX = 8  # a check takes about a millisecond; more threads would only queue for the interpreter


class FirebaseVerifier:
    """Checks ID tokens of one Firebase project; close it to release its app."""

    def __init__(self, project_id: str, *, default_tenant: str, clock_skew_s: int, dev: bool = False) -> None:
        """Make a verifier; needs no service account, for Google's certificates are public.

        Raises:
            SettingsError: the emulator variable is set outside of development.
        """
        self._dev = dev
        _refuse_emulator(dev=dev)
        self.issuer = ISSUER_PREFIX + project_id
        self._default_tenant = default_tenant
        self._clock_skew_s = clock_skew_s
        self._slots = asyncio.Semaphore(THREADS_MAX)
        self._app = firebase_admin.initialize_app(
            _NoCredential(), {"projectId": project_id, "httpTimeout": HTTP_TIMEOUT_S}, name=f"talkmeter-auth-{uuid4()}"
        )

    async def verify(self, token: str, *, now_ms: int) -> Identity:
        """See Verifier.verify; firebase-admin checks the times, against this node's clock and the allowed skew."""
        _refuse_emulator(dev=self._dev)
        if len(token) > TOKEN_CHARS_MAX:
            raise TokenInvalid("the token is too long")
        try:
            async with asyncio.timeout(VERIFY_TIMEOUT_S), self._slots:
                claims: dict[str, Any] = await asyncio.to_thread(
                    auth.verify_id_token, token, app=self._app, clock_skew_seconds=self._clock_skew_s
                )
        except TimeoutError:
            raise Unavailable("Firebase's certificates could not be fetched in time") from None
        except auth.CertificateFetchError:
            raise Unavailable("Firebase's certificates could not be fetched") from None
        except auth.ExpiredIdTokenError:
            raise TokenExpired from None
        except (auth.InvalidIdTokenError, ValueError) as exc:
            raise TokenInvalid(f"the token is not valid: {exc}") from None
        identity = identity_of(claims, default_tenant=self._default_tenant)
        if now_ms >= identity.expires_at_ms + self._clock_skew_s * 1000:
            raise TokenExpired
        return identity

    def close(self) -> None:
        """Release the firebase-admin app."""
        firebase_admin.delete_app(self._app)


class _NoCredential(credentials.Base):  # type: ignore[misc]
    """Verifying needs none; without this, firebase-admin looks for Google's default credentials and fails."""

    def get_credential(self) -> AnonymousCredentials:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]


def _refuse_emulator(*, dev: bool) -> None:
    if os.environ.get(EMULATOR_VARIABLE) and not dev:
        raise SettingsError(f"{EMULATOR_VARIABLE} makes unsigned tokens valid; unset it, or run with --dev")
