"""What every media provider gives: credentials for one side of one call, for as long as it is paid.

Owns the interface and the rule of expiry. Imports nothing of the project. `issue` is pure computation: no I/O, so
credentials never wait for a third party, and a provider that is down does not keep a call from ringing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol
from uuid import UUID

import msgspec

SECOND_MS: Final = 1_000
# A credential outlives the funded time by this much. Agora tells the client 30 s before expiry: by then either the next
# pulse is paid and the client gets a new credential, or the call has ended and there is none.
GRACE_MS: Final = 60_000
LIFE_MS_MAX: Final = 24 * 3_600_000  # Agora's own limit for a token


class MediaError(Exception):
    """A provider is set up wrongly, or was asked for something that it must not sign; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Who may join what, and until when it is paid.

    Attributes:
        call_id: the call; both sides meet in the channel that is named after it.
        side: who asks; a side has a fixed place in the channel, whatever the device.
        media: `voice` or `video`.
        now_ms: unix milliseconds.
        funded_until_ms: until when the call is paid; before it is connected, until when it may take to connect.
    """

    call_id: UUID
    side: Literal["caller", "host"]
    media: Literal["voice", "video"]
    now_ms: int
    funded_until_ms: int

    @property
    def expires_ms(self) -> int:
        """When credentials of this grant end: the funded time and a grace, at most a day from now."""
        return min(max(self.funded_until_ms, self.now_ms) + GRACE_MS, self.now_ms + LIFE_MS_MAX)


class IceServer(msgspec.Struct, omit_defaults=True):
    """One entry of RTCConfiguration.iceServers."""

    urls: list[str]
    username: str = ""
    credential: str = ""


class MediaCredentials(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a device needs to join the media of its call. Fields of other providers are absent.

    Attributes:
        provider: `webrtc` or `agora`.
        expires_ms: ask again (`call.credentials`) before this.
        ice_servers: WebRTC; empty when there are none but the network's own candidates.
        app_id, channel, uid, token: Agora.
    """

    provider: str
    expires_ms: int
    ice_servers: list[IceServer] | None = None
    app_id: str | None = None
    channel: str | None = None
    uid: int | None = None
    token: str | None = None


class MediaProvider(Protocol):
    """One media provider."""

    def issue(self, grant: Grant) -> MediaCredentials:
        """Return credentials for the grant.

        Raises:
            MediaError: the grant is not one that this provider may sign.
        """
        ...
