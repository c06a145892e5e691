"""ICE servers and TURN credentials."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any
from uuid import UUID

import pytest

from realtime.media.provider import Grant, MediaError
from realtime.media.webrtc import WebRtcProvider

GRANT = Grant(
    call_id=UUID("0193a0c0-7000-7000-8000-000000000001"),
    side="host",
    media="voice",
    now_ms=1_700_000_000_000,
    funded_until_ms=1_700_000_060_000,
)


def test_turn_credential_is_what_coturn_computes() -> None:
    provider = WebRtcProvider(turn_urls=["turn:t.example:3478?transport=udp"], turn_secret="north")
    credentials = provider.issue(GRANT)
    assert credentials.ice_servers is not None
    (server,) = credentials.ice_servers
    assert server.username == "1700000120:0193a0c0700070008000000000000001-host"
    expected = base64.b64encode(hmac.new(b"north", server.username.encode(), hashlib.sha1).digest()).decode()
    assert server.credential == expected


def test_stun_needs_no_credential() -> None:
    credentials = WebRtcProvider(stun_urls=["stun:s.example:3478"]).issue(GRANT)
    assert credentials.ice_servers is not None
    assert [(s.urls, s.username) for s in credentials.ice_servers] == [(["stun:s.example:3478"], "")]


def test_without_servers_the_network_itself_must_do() -> None:
    credentials = WebRtcProvider().issue(GRANT)
    assert credentials.ice_servers == []
    assert credentials.expires_ms == 1_700_000_120_000


@pytest.mark.parametrize(
    "settings",
    [
        {"turn_urls": ["turn:t.example"]},
        {"turn_secret": "alone"},
        {"turn_urls": ["http://t.example"], "turn_secret": "s"},
        {"stun_urls": ["stun: s.example"]},
        {"stun_urls": ["turn:t.example"]},
    ],
)
def test_wrong_servers_are_refused_at_the_start(settings: dict[str, Any]) -> None:
    with pytest.raises(MediaError):
        WebRtcProvider(**settings)
