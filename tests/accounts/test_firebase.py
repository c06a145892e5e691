"""Firebase ID tokens, checked by the real firebase-admin against certificates that a local server hands out."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from firebase_admin import _token_gen

from realtime.accounts.firebase import EMULATOR_VARIABLE, FirebaseVerifier
from realtime.accounts.keys import KeyRing
from realtime.accounts.tokens import JwtVerifier, Verifiers
from realtime.config import SettingsError
from realtime.protocol.errors import TokenExpired, TokenInvalid, Unavailable
from tests.push.local_http import Answer, serve

PROJECT = "talkmeter-test"


@dataclass
class Google:
    """Google's side: a key, its certificate under a key id, and an endpoint that can fail."""

    private_key: str
    certificate: str
    status: int = 200

    def token(self, *, key: str | None = None, kid: str | None = "g1", **changed: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": f"https://securetoken.google.com/{PROJECT}",
            "aud": PROJECT,
            "sub": "firebase-user",
            "iat": now,
            "exp": now + 3600,
            "auth_time": now,
            "phone_number": "+911234567890",
            "firebase": {"sign_in_provider": "phone"},
        } | changed
        return jwt.encode(claims, key or self.private_key, "RS256", headers={"kid": kid} if kid else None)


def make_google() -> Google:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "securetoken")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Google(private.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode())


@pytest.fixture
async def google(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Google]:
    monkeypatch.delenv(EMULATOR_VARIABLE, raising=False)
    google = make_google()

    async def respond(path: str, body: bytes) -> Answer:
        return Answer(google.status, json.dumps({"g1": google.certificate}).encode())

    async with serve(respond) as url:
        monkeypatch.setattr(_token_gen, "ID_TOKEN_CERT_URI", url)
        yield google


@pytest.fixture
async def verifier(google: Google) -> AsyncIterator[FirebaseVerifier]:
    verifier = FirebaseVerifier(PROJECT, default_tenant="main", clock_skew_s=5)
    yield verifier
    verifier.close()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_a_token_that_google_signed_is_taken(google: Google, verifier: FirebaseVerifier) -> None:
    identity = await verifier.verify(google.token(roles=["host"]), now_ms=now_ms())
    assert (identity.tenant, identity.user, identity.roles) == ("main", "firebase-user", frozenset({"host"}))
    assert identity.name == ""  # never the phone number


async def test_both_kinds_of_tokens_are_taken_behind_one_interface(google: Google, verifier: FirebaseVerifier) -> None:
    own = JwtVerifier(KeyRing.parse("k" * 32), issuer="backend", audience="talkmeter", default_tenant="main")
    verifiers = Verifiers([own, verifier])
    assert (await verifiers.verify(google.token(), now_ms=now_ms())).user == "firebase-user"


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"aud": "another-project"}, id="another audience"),
        pytest.param({"iss": "https://securetoken.google.com/another"}, id="another issuer"),
        pytest.param({"sub": ""}, id="no user"),
        pytest.param({"kid": None}, id="no key id"),
        pytest.param({"kid": "g2"}, id="unknown key id"),
        pytest.param({"iat": int(time.time()) + 600}, id="issued in the future"),
    ],
)
async def test_a_wrong_token_is_refused(google: Google, verifier: FirebaseVerifier, changed: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        await verifier.verify(google.token(**changed), now_ms=now_ms())


async def test_a_token_that_somebody_else_signed_is_refused(google: Google, verifier: FirebaseVerifier) -> None:
    with pytest.raises(TokenInvalid):
        await verifier.verify(google.token(key=make_google().private_key), now_ms=now_ms())


async def test_an_unsigned_token_is_refused(google: Google, verifier: FirebaseVerifier) -> None:
    claims = jwt.decode(google.token(), options={"verify_signature": False})
    with pytest.raises(TokenInvalid):
        await verifier.verify(jwt.encode(claims, "", "none", headers={"kid": "g1"}), now_ms=now_ms())


async def test_an_expired_token_is_refused_as_expired_beyond_the_skew(
    google: Google, verifier: FirebaseVerifier
) -> None:
    now = int(time.time())
    assert await verifier.verify(google.token(iat=now - 60, exp=now - 1), now_ms=now_ms())
    with pytest.raises(TokenExpired):
        await verifier.verify(google.token(iat=now - 7200, exp=now - 3600), now_ms=now_ms())


async def test_without_certificates_the_client_is_told_to_wait(google: Google, verifier: FirebaseVerifier) -> None:
    google.status = 503
    with pytest.raises(Unavailable):
        await verifier.verify(google.token(), now_ms=now_ms())


async def test_the_emulator_variable_is_refused_outside_of_development(
    google: Google, verifier: FirebaseVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EMULATOR_VARIABLE, "127.0.0.1:9099")
    with pytest.raises(SettingsError, match=EMULATOR_VARIABLE):
        FirebaseVerifier(PROJECT, default_tenant="main", clock_skew_s=5)
    # Set after the start it must not open the door either.
    claims = jwt.decode(google.token(), options={"verify_signature": False})
    with pytest.raises(SettingsError):
        await verifier.verify(jwt.encode(claims, "", "none"), now_ms=now_ms())


async def test_the_emulator_is_taken_in_development(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EMULATOR_VARIABLE, "127.0.0.1:9099")
    verifier = FirebaseVerifier(PROJECT, default_tenant="main", clock_skew_s=5, dev=True)
    try:
        claims = jwt.decode(google.token(), options={"verify_signature": False})
        identity = await verifier.verify(jwt.encode(claims, "", "none"), now_ms=now_ms())
        assert identity.user == "firebase-user"
    finally:
        verifier.close()
