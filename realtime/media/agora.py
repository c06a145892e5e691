"""Agora's tokens: version 007 by its own recipe, version 006 through agora-token-builder. Owns both and their checks.

Imports the provider interface only. Why two versions, and why 007 is written out here: ADR 0043. agora-token-builder
signs whatever it is given (an empty certificate, a channel of 200 characters, a negative uid, an expiry in the past),
so everything is checked before it is called.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final, Literal

from agora_token_builder.RtcTokenBuilder import Role_Publisher, RtcTokenBuilder

from realtime.media.provider import LIFE_MS_MAX, SECOND_MS, Grant, MediaCredentials, MediaError

PROVIDER: Final = "agora"
VERSION_007: Final = "007"
SERVICE_RTC: Final = 1
JOIN, PUBLISH_AUDIO, PUBLISH_VIDEO, PUBLISH_DATA = 1, 2, 3, 4  # privileges of the RTC service

HEX_32: Final = re.compile(r"[0-9a-f]{32}")
# Agora's 89 characters for channel names; a name has less than 64 of them.
CHANNEL: Final = re.compile(r"[A-Za-z0-9 !#$%&()+\-:;<=.>?@\[\]^_{}|~,]{1,63}")
UID_MAX: Final = 2**32 - 1
SALT_MAX: Final = 99_999_999
UIDS: Final[Mapping[str, int]] = {"caller": 1, "host": 2}  # places in the call's own channel


class AgoraProvider:
    """Issues tokens that let one side join and publish in its call's channel, and in no other."""

    __slots__ = ("_app_id", "_certificate", "_salt", "_version")

    def __init__(
        self,
        *,
        app_id: str,
        certificate: str,
        version: Literal["007", "006"] = "007",
        salt: Callable[[], int] = lambda: secrets.randbelow(SALT_MAX) + 1,
    ) -> None:
        """Check and keep the app's identity.

        Raises:
            MediaError: the app id or the certificate is not 32 lower-case hexadecimal digits.
        """
        for name, value in (("app id", app_id), ("certificate", certificate)):
            if not HEX_32.fullmatch(value):
                raise MediaError(f"Agora's {name} has 32 lower-case hexadecimal digits")
        self._app_id = app_id
        self._certificate = certificate
        self._version = version
        self._salt = salt

    def issue(self, grant: Grant) -> MediaCredentials:
        """Return channel, uid and token for one side of a call."""
        channel = f"tm-{grant.call_id}"
        uid = UIDS[grant.side]
        expires_s = grant.expires_ms // SECOND_MS
        now_s = grant.now_ms // SECOND_MS
        if self._version == VERSION_007:
            token = token_007(
                app_id=self._app_id,
                certificate=self._certificate,
                channel=channel,
                uid=uid,
                video=grant.media == "video",
                now_s=now_s,
                life_s=expires_s - now_s,
                salt=self._salt(),
            )
        else:
            token = token_006(
                app_id=self._app_id,
                certificate=self._certificate,
                channel=channel,
                uid=uid,
                now_s=now_s,
                expires_s=expires_s,
            )
        return MediaCredentials(
            provider=PROVIDER,
            expires_ms=expires_s * SECOND_MS,
            app_id=self._app_id,
            channel=channel,
            uid=uid,
            token=token,
        )


def token_007(
    *, app_id: str, certificate: str, channel: str, uid: int, video: bool, now_s: int, life_s: int, salt: int
) -> str:
    """Return an AccessToken2 for RTC; expiries in it are seconds relative to `now_s`.

    The privilege to publish video is left out of a voice call's token. Source: Agora's AccessToken2 reference code
    (AgoraIO/Tools, DynamicKey/AgoraDynamicKey), checked in tests against Agora's own Python and Node packages.

    Raises:
        MediaError: a value that Agora refuses, or that must not be signed.
    """
    _check(app_id, certificate, channel, uid, life_s)
    privileges = [JOIN, PUBLISH_AUDIO, *([PUBLISH_VIDEO] if video else []), PUBLISH_DATA]
    info = (
        _string(app_id.encode())
        + struct.pack("<IIIH", now_s, life_s, salt, 1)
        + struct.pack("<HH", SERVICE_RTC, len(privileges))
        + b"".join(struct.pack("<HI", privilege, life_s) for privilege in privileges)
        + _string(channel.encode())
        + _string(str(uid).encode())
    )
    key = hmac.digest(struct.pack("<I", now_s), certificate.encode(), hashlib.sha256)
    key = hmac.digest(struct.pack("<I", salt), key, hashlib.sha256)
    signature = hmac.digest(key, info, hashlib.sha256)
    return VERSION_007 + base64.b64encode(zlib.compress(_string(signature) + info)).decode()


def token_006(*, app_id: str, certificate: str, channel: str, uid: int, now_s: int, expires_s: int) -> str:
    """Return an AccessToken (2018) for RTC by agora-token-builder; the expiry in it is absolute unix seconds.

    Raises:
        MediaError: a value that Agora refuses, or that must not be signed.
    """
    _check(app_id, certificate, channel, uid, expires_s - now_s)
    token: str = RtcTokenBuilder.buildTokenWithUid(app_id, certificate, channel, uid, Role_Publisher, expires_s)
    return token


def _check(app_id: str, certificate: str, channel: str, uid: int, life_s: int) -> None:
    if not HEX_32.fullmatch(app_id) or not HEX_32.fullmatch(certificate):
        raise MediaError("Agora's app id and certificate have 32 lower-case hexadecimal digits")
    if not CHANNEL.fullmatch(channel):
        raise MediaError("an Agora channel has 1 to 63 of Agora's 89 characters")
    if not 1 <= uid <= UID_MAX:
        raise MediaError(f"an Agora uid is 1 to {UID_MAX}; 0 would let anybody use the token")
    if not 1 <= life_s <= LIFE_MS_MAX // SECOND_MS:
        raise MediaError("an Agora token lives at least a second and at most a day")


def _string(value: bytes) -> bytes:
    return struct.pack("<H", len(value)) + value
