"""Agora's tokens against Agora's own packages, and everything that must not be signed.

Vectors named `NODE` were made once with Agora's Node packages (agora-access-token 2.0.4 for 006, agora-token 2.0.6 for
007), their salt and time set to the values below; app id and certificate are those of Agora's published examples.
"""

from __future__ import annotations

import base64
import importlib
import struct
import warnings
import zlib
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from agora_token_builder import AccessToken as builder_006

from realtime.media.agora import AgoraProvider, token_006, token_007
from realtime.media.provider import Grant, MediaError

APP_ID = "970ca35de60c44645bbae8a215061b33"
CERTIFICATE = "5cfd2fd1755d40ecb72977518be15d3b"
CALL_ID = UUID("0193a0c0-7000-7000-8000-000000000001")
CHANNEL = f"tm-{CALL_ID}"

NODE_007_VOICE = (
    "007eJxTYDijqPFYaFbJj83LczYxcSpYZN5OSnrbePu7JtuZ94KXdmsoMFiaGyQnGpumpJoZJJuYmJmYJiUlplokGhmaGpgZJhkbM3wMTq1gYGCw"
    "NGBgYGRgZGBmYGQA8ZnAJAuYVGcoydU1MLQ0TjRINtA1NzCAEhYgwgABDBkZjABQ6iVF"
)
NODE_007_VIDEO = (
    "007eJxTYHBcESOc+eDMYjWLG5XRt0Ok3vKYvT0rwejzaE+cr9F/ZX8FBktzg+REY9OUVDODZBMTMxPTpKTEVItEI0NTAzPDJGNjho/BqRUMDAyW"
    "BgwMjAyMDCwMjAwgPhOYZAaTLGBSnaEkV9fA0NI40SDZQNfcwABKWIAIAwQwZGQwAgBxICR7"
)
NODE_006 = {
    ("7d72365eb983485397e3e3f9d460bdda", 2882341273, 1446455471): (
        "006970ca35de60c44645bbae8a215061b33IAAQKHFqQJ0z4MlQK7aPLy8xBZiq3mqkXUoIIT2vsLe3gLdIfRBXoFHlIgABAAAAR/QQAAQAAQCv"
        "KDdWAgCvKDdWAwCvKDdWBACvKDdW"
    ),
    (CHANNEL, 1, 1800000000): (
        "006970ca35de60c44645bbae8a215061b33IAAzW4ufSyvbFP54lBIWG0N3S0JctUa9/bDsJZXqNhbHYewxMFC379yDIgABAAAAR/QQAAQAAQAA"
        "0klrAgAA0klrAwAA0klrBAAA0klr"
    ),
}


@pytest.fixture(scope="module")
def agoras_own() -> ModuleType:
    """Agora's Python package, whose import warns of the old schemes that it still carries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("agoraiotools")
    return importlib.import_module("agoraiotools.RtcTokenBuilder2")


def inflate(token: str) -> bytes:
    """The signed content of a 007 token: compressors differ, what they compressed must not."""
    assert token.startswith("007")
    return zlib.decompress(base64.b64decode(token[3:]))


def make_007(**changes: Any) -> str:
    values: dict[str, Any] = {
        "app_id": APP_ID,
        "certificate": CERTIFICATE,
        "channel": CHANNEL,
        "uid": 2,
        "video": True,
        "now_s": 1_700_000_000,
        "life_s": 120,
        "salt": 12345,
    }
    return token_007(**(values | changes))


def grant(**changes: Any) -> Grant:
    values: dict[str, Any] = {
        "call_id": CALL_ID,
        "side": "caller",
        "media": "video",
        "now_ms": 1_700_000_000_500,
        "funded_until_ms": 1_700_000_060_000,
    }
    return Grant(**(values | changes))


@pytest.mark.parametrize(("video", "expected"), [(False, NODE_007_VOICE), (True, NODE_007_VIDEO)])
def test_007_is_what_agoras_node_package_makes(video: bool, expected: str) -> None:
    assert inflate(make_007(video=video)) == inflate(expected)


@pytest.mark.parametrize("uid", [1, 2, 2**32 - 1])
@pytest.mark.parametrize("life_s", [1, 60, 86_400])
def test_007_is_what_agoras_python_package_makes(agoras_own: ModuleType, uid: int, life_s: int) -> None:
    theirs = inflate(
        agoras_own.RtcTokenBuilder.build_token_with_uid(
            APP_ID, CERTIFICATE, CHANNEL, uid, agoras_own.Role_Publisher, life_s, life_s
        )
    )
    # Their salt and time are their own: read them out of their token, and make ours with them.
    start = 2 + 32 + 2 + 32
    now_s, _, salt = struct.unpack_from("<III", theirs, start)
    assert inflate(make_007(uid=uid, life_s=life_s, now_s=now_s, salt=salt)) == theirs


def test_007_is_read_by_agoras_parser(agoras_own: ModuleType) -> None:
    assert agoras_own.AccessToken().from_string(make_007())


@pytest.mark.parametrize(("case", "expected"), NODE_006.items())
def test_006_is_what_agoras_node_package_makes(
    case: tuple[str, int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FixedRandom:
        def randint(self, low: int, high: int) -> int:
            return 1

    monkeypatch.setattr(builder_006.secrets, "SystemRandom", FixedRandom)
    monkeypatch.setattr(builder_006.time, "time", lambda: 1_111_111 - 24 * 3600)
    channel, uid, expires_s = case
    made = token_006(
        app_id=APP_ID, certificate=CERTIFICATE, channel=channel, uid=uid, now_s=expires_s - 60, expires_s=expires_s
    )
    assert made == expected


BAD = [
    {"app_id": ""},
    {"app_id": APP_ID[:-1]},
    {"app_id": APP_ID.upper()},
    {"app_id": APP_ID + "\n"},
    {"certificate": ""},
    {"certificate": "z" * 32},
    {"channel": ""},
    {"channel": "x" * 64},
    {"channel": "x" * 200},
    {"channel": "naïve"},
    {"channel": "a/b"},
    {"channel": "a\n"},
    {"uid": 0},
    {"uid": -1},
    {"uid": 2**32},
    {"uid": 2**40},
]


@pytest.mark.parametrize("bad", [*BAD, {"life_s": 0}, {"life_s": -5}, {"life_s": 86_401}])
def test_007_refuses_what_must_not_be_signed(bad: dict[str, Any]) -> None:
    with pytest.raises(MediaError):
        make_007(**bad)


@pytest.mark.parametrize("bad", [*BAD, {"expires_s": 1_699_999_999}, {"expires_s": 1_700_086_401}])
def test_006_refuses_what_the_builder_would_sign(bad: dict[str, Any]) -> None:
    values: dict[str, Any] = {
        "app_id": APP_ID,
        "certificate": CERTIFICATE,
        "channel": CHANNEL,
        "uid": 1,
        "now_s": 1_700_000_000,
        "expires_s": 1_700_000_060,
    }
    with pytest.raises(MediaError):
        token_006(**(values | bad))


def test_provider_is_refused_with_a_wrong_identity() -> None:
    with pytest.raises(MediaError):
        AgoraProvider(app_id="no", certificate=CERTIFICATE)


def test_sides_share_a_channel_and_have_fixed_places() -> None:
    provider = AgoraProvider(app_id=APP_ID, certificate=CERTIFICATE)
    caller, host = provider.issue(grant(side="caller")), provider.issue(grant(side="host"))
    assert (caller.channel, caller.uid) == (CHANNEL, 1)
    assert (host.channel, host.uid) == (CHANNEL, 2)
    assert caller.token != host.token


@pytest.mark.parametrize("version", ["007", "006"])
def test_token_ends_a_minute_after_the_funded_time(version: Any) -> None:
    credentials = AgoraProvider(app_id=APP_ID, certificate=CERTIFICATE, version=version).issue(grant())
    assert credentials.expires_ms == 1_700_000_120_000
    token = credentials.token or ""
    assert token.startswith(version)
    if version == "007":
        now_s, life_s = struct.unpack_from("<II", inflate(token), 2 + 32 + 2 + 32)
        assert now_s + life_s == 1_700_000_120
    else:
        assert struct.pack("<I", 1_700_000_120) in base64.b64decode(token[3 + 32 :])


def test_token_lives_at_most_a_day() -> None:
    provider = AgoraProvider(app_id=APP_ID, certificate=CERTIFICATE)
    credentials = provider.issue(grant(funded_until_ms=1_700_000_000_500 + 3 * 86_400_000))
    assert credentials.expires_ms <= 1_700_000_000_500 + 86_400_000


def test_voice_token_carries_no_right_to_publish_video() -> None:
    def privileges(token: str) -> list[int]:
        content = inflate(token)
        at = 2 + 32 + 2 + 32 + 12 + 2 + 2
        (count,) = struct.unpack_from("<H", content, at)
        return [struct.unpack_from("<HI", content, at + 2 + 6 * n)[0] for n in range(count)]

    assert privileges(make_007(video=False)) == [1, 2, 4]
    assert privileges(make_007(video=True)) == [1, 2, 3, 4]
