"""Sign-in on a whole server: forged and foreign tokens, Firebase's, and the emulator that would open the door."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest

from realtime.accounts.firebase import EMULATOR_VARIABLE, ISSUER_PREFIX
from realtime.accounts.keys import load_keys
from realtime.client import Stopped
from tests.integration.node import Node, running

PROJECT = "talkmeter-test"


@pytest.fixture
def settings(pg_url: str, redis_url: str, tmp_path: Path) -> dict[str, Any]:
    return {
        "database_url": pg_url,
        "redis_url": redis_url,
        "redis_prefix": f"t{uuid4().hex[:8]}",
        "data_dir": tmp_path / "data",
        "drain_ms": 200,
        "firebase_project_id": PROJECT,
    }


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": "talkmeter", "aud": "talkmeter", "sub": "eve", "iat": now, "exp": now + 600} | changed


async def refused(node: Node, token: str) -> str:
    """Return the code with which a sign-in is refused for good."""
    client = node.client(token, "d")
    with pytest.raises(Stopped) as caught:
        await client.connect()
    await client.close()
    return caught.value.code


async def test_forged_foreign_and_expired_tokens_do_not_get_in(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(EMULATOR_VARIABLE, raising=False)
    async with running(tmp_path, **settings) as node:
        keys = load_keys("", settings["data_dir"])
        secret, head = keys.secrets[keys.signing_id], {"kid": keys.signing_id}
        async with node.client(jwt.encode(claims(sub="ravi"), secret, headers=head), "d") as client:
            assert (await client.request("session.ping"))["server_time_ms"] > 0
        bad = {
            "forged": jwt.encode(claims(), "x" * 32, headers=head),
            "unsigned": jwt.encode(claims(), "", "none", headers=head),
            "foreign audience": jwt.encode(claims(aud="else"), secret, headers=head),
            "foreign issuer": jwt.encode(claims(iss="else"), secret, headers=head),
            "unsigned firebase": jwt.encode(claims(iss=ISSUER_PREFIX + PROJECT, aud=PROJECT), "", "none"),
            "nonsense": "a.b.c",
        }
        for name, token in bad.items():
            assert await refused(node, token) == "token_invalid", name
        expired = jwt.encode(claims(exp=int(time.time()) - 1), secret, headers=head)
        assert await refused(node, expired) == "token_expired"


async def test_a_firebase_user_signs_in_beside_the_backends_own(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EMULATOR_VARIABLE, "127.0.0.1:9")  # never asked: the emulator's tokens are unsigned
    token = jwt.encode(claims(iss=ISSUER_PREFIX + PROJECT, aud=PROJECT, sub="phone-user"), "", "none")
    async with running(tmp_path, **settings) as node:
        async with node.client(token, "d") as client:
            welcome = await client.request("profile.update", {"name": "By phone"})
            assert welcome["user"]["id"] == "phone-user"
        async with node.client(await node.token("ravi"), "d") as client:
            await client.request("session.ping")


async def test_the_server_does_not_start_with_the_emulator_outside_of_development(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EMULATOR_VARIABLE, "127.0.0.1:9")
    with pytest.raises(AssertionError, match=EMULATOR_VARIABLE):
        await Node.start(tmp_path, dev=False, **settings)
