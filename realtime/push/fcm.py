"""Firebase Cloud Messaging, through firebase-admin. Owns the app object, the encoding and the reading of errors.

Every notice is a batch of its own: in a larger one a single answer that is no JSON, or one failed refresh of the token,
loses the outcomes of all (docs/decisions/0055-fcm.md). They share one HTTP/2 connection all the same.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import time
import warnings
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import firebase_admin
import structlog
from firebase_admin import exceptions, messaging

from realtime.push.notice import Notice, Outcome
from realtime.push.oauth import TokenHolder, TokenUnavailable

log = structlog.get_logger()

HTTP_TIMEOUT_S = 5
SEND_TIMEOUT_S = 9.0  # firebase-admin tries a 503 five times within seven seconds
CONCURRENT_MAX = 100  # streams at a time; FCM allows as many on one connection
TTL_MAX_MS = 28 * 24 * 3_600_000  # what FCM keeps at most
RETRY_AFTER_MAX_MS = 3_600_000
ERROR_CHARS_MAX = 300


class FcmSender:
    """Sends notices over FCM. Make, use and close it in one event loop: firebase-admin's client belongs to one."""

    def __init__(self, certificate: str | dict[str, Any], *, url: str = "") -> None:
        """Read the service account and build the app; nothing is fetched yet.

        Args:
            certificate: path of the service account's file, or its contents.
            url: origin of the messaging endpoint when it is not Google's, without a path.

        Raises:
            ValueError: the certificate is none. OSError: its file cannot be read.
        """
        self._tokens = TokenHolder(certificate)
        self._app = firebase_admin.initialize_app(
            self._tokens,
            {"projectId": self._tokens.project_id, "httpTimeout": HTTP_TIMEOUT_S},
            name=f"talkmeter-push-{uuid4()}",
        )
        # firebase-admin has no setting for the endpoint and no way to close its client: both need its service object.
        self._service = messaging._get_messaging_service(self._app)
        if url:
            self._service._fcm_url = f"{url.rstrip('/')}/v1/projects/{self._tokens.project_id}/messages:send"
        self._slots = asyncio.Semaphore(CONCURRENT_MAX)

    async def send(self, notices: Sequence[Notice]) -> list[Outcome]:
        """See Sender.send."""
        try:
            await self._tokens.ensure()
        except TokenUnavailable as exc:
            return [Outcome("retry", error=str(exc)[:ERROR_CHARS_MAX])] * len(notices)
        return list(await asyncio.gather(*(self._send_one(notice) for notice in notices)))

    async def close(self) -> None:
        """Close connections and forget the app."""
        await self._service._async_client.aclose()
        self._service._client.close()
        # In a thread, for it closes the client once more, in a loop of its own that it starts for that.
        await asyncio.to_thread(firebase_admin.delete_app, self._app)

    async def _send_one(self, notice: Notice) -> Outcome:
        try:
            message = encode(notice)
        except ValueError as exc:
            return Outcome("refused", error=f"not encodable: {exc}"[:ERROR_CHARS_MAX])
        token = self._tokens.held.token
        try:
            async with self._slots, asyncio.timeout(SEND_TIMEOUT_S):
                batch = await messaging.send_each_async([message], dry_run=False, app=self._app)
            (response,) = batch.responses
        except TimeoutError:
            return Outcome("retry", error="no answer in time")
        except exceptions.FirebaseError as exc:
            # The whole call failed, as by an answer that is no JSON.
            return Outcome("retry", error=str(exc)[:ERROR_CHARS_MAX])
        if response.success:
            return Outcome("sent", service_id=response.message_id)
        if response.exception is None:
            return Outcome("retry", error="an answer without a message id")
        return self._failed(response.exception, token)

    def _failed(self, error: exceptions.FirebaseError, token: str | None) -> Outcome:
        outcome = classify(error)
        if isinstance(error, exceptions.UnauthenticatedError) and outcome.state == "retry":
            self._tokens.forget(token)
        if outcome.state == "refused":
            log.warning("push_refused", error=outcome.error)
        return outcome


def classify(error: exceptions.FirebaseError) -> Outcome:
    """Return what an error of FCM means for the notice (firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode)."""
    text = f"{error.code}: {error}"[:ERROR_CHARS_MAX]
    if isinstance(error, messaging.UnregisteredError | messaging.SenderIdMismatchError):
        return Outcome("dead", error=text)  # uninstalled, or an address of another project
    if isinstance(error, exceptions.InvalidArgumentError):
        return Outcome("dead" if _names_the_address(error) else "refused", error=text)
    if isinstance(error, messaging.ThirdPartyAuthError | exceptions.PermissionDeniedError | exceptions.NotFoundError):
        return Outcome("refused", error=text)  # our own set-up is wrong, which no repeat mends
    return Outcome("retry", error=text, retry_after_ms=_retry_after_ms(error))


def encode(notice: Notice) -> Any:
    """Return firebase-admin's message for a notice.

    Raises:
        ValueError: a value is not what FCM takes.
    """
    ttl = dt.timedelta(milliseconds=min(notice.ttl_ms, TTL_MAX_MS))
    with warnings.catch_warnings():
        # `token` is deprecated for `fid`, yet it is what all apps have until they move over.
        warnings.simplefilter("ignore", DeprecationWarning)
        return messaging.Message(
            data=dict(notice.data),
            android=_android(notice, ttl),
            apns=_apns(notice),
            webpush=messaging.WebpushConfig(
                headers={
                    "TTL": str(int(ttl.total_seconds())),
                    "Urgency": "high" if notice.urgent else "normal",
                }
            ),
            **{"fid" if notice.address_kind == "fcm_fid" else "token": notice.address},
        )


def _android(notice: Notice, ttl: dt.timedelta) -> Any:
    shown = None
    if not notice.silent and not notice.app_rings:
        shown = messaging.AndroidNotification(
            title=notice.title, body=notice.body, tag=notice.tag, channel_id=notice.collapse_key
        )
    return messaging.AndroidConfig(
        priority="high" if notice.urgent else "normal",
        ttl=ttl,
        collapse_key=notice.collapse_key,
        notification=shown,
    )


def _apns(notice: Notice) -> Any:
    headers = {
        "apns-push-type": "background" if notice.silent else "alert",
        # A background push with priority 10 is an error (Apple: sending notification requests to APNs).
        "apns-priority": "10" if notice.urgent and not notice.silent else "5",
        "apns-expiration": str(notice.expires_ms // 1000),
        "apns-collapse-id": notice.tag[:64],
    }
    if notice.silent:
        return messaging.APNSConfig(headers, messaging.APNSPayload(messaging.Aps(content_available=True)))
    alert = messaging.ApsAlert(title=notice.title, body=notice.body)
    aps = messaging.Aps(alert=alert, sound="default", thread_id=notice.tag, category=notice.data["kind"])
    return messaging.APNSConfig(headers, messaging.APNSPayload(aps))


def _names_the_address(error: exceptions.FirebaseError) -> bool:
    """Whether an INVALID_ARGUMENT is about the address and not about what we wrote."""
    return "registration token" in str(error).lower() or "message.token" in _body(error)


def _body(error: exceptions.FirebaseError) -> str:
    return "" if error.http_response is None else str(error.http_response.text)


def _retry_after_ms(error: exceptions.FirebaseError) -> int:
    """Read Retry-After (RFC 9110, section 10.2.3): seconds, or a date; 0 when there is none that makes sense."""
    text = "" if error.http_response is None else str(error.http_response.headers.get("Retry-After", "")).strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        date = email.utils.parsedate_tz(text) if text else None
        seconds = email.utils.mktime_tz(date) - time.time() if date else 0.0
    return int(min(max(seconds, 0.0) * 1000, RETRY_AFTER_MAX_MS))
