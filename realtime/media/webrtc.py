"""WebRTC between the two devices, with STUN and TURN servers to get through networks. Owns TURN's credentials.

Imports the provider interface only. TURN credentials are those of "TURN REST API" (draft-uberti-behave-turn-rest-00),
which coturn takes with `use-auth-secret`: username `expiry:name`, password base64(HMAC-SHA1(secret, username)).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence

from realtime.media.provider import SECOND_MS, Grant, IceServer, MediaCredentials, MediaError

STUN_URL = re.compile(r"stuns?:[^\s/?#]+")
TURN_URL = re.compile(r"turns?:[^\s/?#]+(\?transport=(udp|tcp))?")
PROVIDER = "webrtc"


class WebRtcProvider:
    """Issues ICE servers; TURN with credentials that end with the funded time."""

    __slots__ = ("_stun", "_turn", "_turn_secret")

    def __init__(self, *, stun_urls: Sequence[str] = (), turn_urls: Sequence[str] = (), turn_secret: str = "") -> None:
        """Check and keep the servers.

        Args:
            stun_urls: `stun:host:port`.
            turn_urls: `turn:host:port?transport=udp` and the like.
            turn_secret: the secret that the TURN servers share with us.

        Raises:
            MediaError: a URL is not of its scheme, or TURN comes without its secret.
        """
        for urls, form, name in ((stun_urls, STUN_URL, "STUN"), (turn_urls, TURN_URL, "TURN")):
            for url in urls:
                if not form.fullmatch(url):
                    raise MediaError(f"{url!r} is no {name} URL, as in {form.pattern}")
        if bool(turn_urls) != bool(turn_secret):
            raise MediaError("TURN servers and their secret are given together or not at all")
        self._stun = tuple(stun_urls)
        self._turn = tuple(turn_urls)
        self._turn_secret = turn_secret.encode()

    def issue(self, grant: Grant) -> MediaCredentials:
        """Return the ICE servers for one side of a call."""
        servers = [IceServer(urls=list(self._stun))] if self._stun else []
        if self._turn:
            username = f"{grant.expires_ms // SECOND_MS}:{grant.call_id.hex}-{grant.side}"
            digest = hmac.digest(self._turn_secret, username.encode(), hashlib.sha1)
            credential = base64.b64encode(digest).decode()
            servers.append(IceServer(urls=list(self._turn), username=username, credential=credential))
        return MediaCredentials(provider=PROVIDER, expires_ms=grant.expires_ms, ice_servers=servers)
