"""Login tokens: what is taken, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from realtime.accounts.jws import TOKEN_CHARS_MAX
from realtime.accounts.keys import KeyRing
from realtime.accounts.tokens import CLOCK_SKEW_MS, JwtVerifier, Verifiers, mint
from realtime.protocol.errors import TokenExpired, TokenInvalid

SECRET = "s" * 32
NOW_MS = 1_790_000_000_000
KEYS = KeyRing.parse(f"k1:{SECRET}")
CLAIMS: dict[str, Any] = {
    "iss": "backend",
    "aud": "talkmeter",
    "sub": "alice",
    "tenant": "acme",
    "roles": ["host"],
    "name": "Alice",
    "iat": NOW_MS // 1000,
    "exp": NOW_MS // 1000 + 3600,
}


def verifier(keys: KeyRing = KEYS) -> JwtVerifier:
    return JwtVerifier(keys, issuer="backend", audience="talkmeter", default_tenant="main")


def signed(secret: str = SECRET, *, algorithm: str = "HS256", kid: str | None = "k1", **changed: Any) -> str:
    claims = {name: value for name, value in (CLAIMS | changed).items() if value is not None}
    return jwt.encode(claims, secret, algorithm=algorithm, headers={"kid": kid} if kid else None)


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


async def test_a_valid_token_gives_its_claims() -> None:
    identity = await verifier().verify(signed(), now_ms=NOW_MS)
    assert (identity.tenant, identity.user, identity.name) == ("acme", "alice", "Alice")
    assert identity.roles == {"host"}
    assert (identity.issued_at_ms, identity.expires_at_ms) == (NOW_MS, NOW_MS + 3_600_000)


async def test_a_token_without_tenant_is_of_the_default_tenant() -> None:
    assert (await verifier().verify(signed(tenant=None), now_ms=NOW_MS)).tenant == "main"


async def test_an_expired_token_is_refused_as_expired() -> None:
    with pytest.raises(TokenExpired):
        await verifier().verify(signed(exp=NOW_MS // 1000), now_ms=NOW_MS)


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_a_token_of_the_future_is_refused_beyond_the_clock_skew(claim: str) -> None:
    changed: dict[str, Any] = {claim: (NOW_MS + CLOCK_SKEW_MS) / 1000}
    soon = signed(**changed)
    assert (await verifier().verify(soon, now_ms=NOW_MS)).user == "alice"
    with pytest.raises(TokenInvalid):
        await verifier().verify(signed(**changed | {claim: NOW_MS // 1000 + 60}), now_ms=NOW_MS)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(signed("x" * 32), id="another secret"),
        pytest.param(signed(kid=None), id="no key id"),
        pytest.param(signed(kid="k9"), id="unknown key id"),
        pytest.param(signed(SECRET * 2, algorithm="HS512"), id="another algorithm"),
        pytest.param(signed(iss="somebody"), id="another issuer"),
        pytest.param(signed(iss=None), id="no issuer"),
        pytest.param(signed(aud="other-app"), id="another audience"),
        pytest.param(signed(aud=None), id="no audience"),
        pytest.param(signed(exp=None), id="no expiry"),
        pytest.param(signed(iat=None), id="no issue time"),
        pytest.param(signed(sub=None), id="no user"),
        pytest.param(signed(sub=""), id="empty user"),
        pytest.param(signed(sub="a\0b"), id="user that no database text can hold"),
        pytest.param(signed(sub="u" * 129), id="long user"),
        pytest.param(signed(tenant=7), id="tenant of another type"),
        pytest.param(signed(roles="host"), id="roles of another type"),
        pytest.param(signed(roles=["r"] * 17), id="many roles"),
        pytest.param(signed(exp=1e30), id="expiry beyond all calendars"),
        pytest.param(unsigned({"alg": "none", "kid": "k1"}, CLAIMS), id="alg none"),
        pytest.param(unsigned({"alg": "None", "kid": "k1", "typ": "JWT"}, CLAIMS, b"x"), id="alg None"),
        pytest.param(unsigned({"alg": "HS256", "kid": "k1"}, CLAIMS), id="empty signature"),
        pytest.param(unsigned({"alg": "HS256", "kid": ["k1"]}, CLAIMS), id="key id of another type"),
        pytest.param(unsigned({"alg": "HS256", "kid": "k1", "crit": ["x"]}, CLAIMS), id="unknown critical header"),
        pytest.param("", id="empty"),
        pytest.param("a.b.c", id="no token"),
        pytest.param("💥" * 10, id="not ascii"),
        pytest.param("x" * (TOKEN_CHARS_MAX + 1), id="too long"),
        pytest.param(unsigned({"alg": "HS256"}, ["a", "list"]), id="claims that are a list"),  # type: ignore[arg-type]
    ],
)
async def test_a_wrong_token_is_refused_as_invalid(token: str) -> None:
    with pytest.raises(TokenInvalid):
        await verifier().verify(token, now_ms=NOW_MS)
    with pytest.raises(TokenInvalid):
        await Verifiers([verifier()]).verify(token, now_ms=NOW_MS)


@given(token=st.one_of(st.text(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}")))
async def test_nothing_that_is_sent_as_a_token_does_more_than_be_refused(token: str) -> None:
    with pytest.raises(TokenInvalid):
        await Verifiers([verifier()]).verify(token, now_ms=NOW_MS)
    with pytest.raises(TokenInvalid):
        await verifier().verify(token, now_ms=NOW_MS)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(claim=st.sampled_from([*CLAIMS, "nbf", "jti"]), value=JSON_VALUES)
async def test_a_signed_token_with_an_odd_claim_is_an_identity_or_refused(claim: str, value: Any) -> None:
    try:
        token = jwt.encode(CLAIMS | {claim: value}, SECRET, "HS256", headers={"kid": "k1"})
    except (TypeError, ValueError):
        return  # no backend could have made that
    try:
        identity = await verifier().verify(token, now_ms=NOW_MS)
    except (TokenInvalid, TokenExpired):
        return
    assert isinstance(identity.user, str)
    assert identity.expires_at_ms > NOW_MS


async def test_claims_changed_after_signing_are_refused() -> None:
    header, _, signature = signed().split(".")
    forged = base64.urlsafe_b64encode(json.dumps(CLAIMS | {"sub": "bob"}).encode()).rstrip(b"=").decode()
    with pytest.raises(TokenInvalid):
        await verifier().verify(f"{header}.{forged}.{signature}", now_ms=NOW_MS)


async def test_a_public_key_is_never_taken_for_a_shared_secret() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(TokenInvalid):
        await verifier().verify(jwt.encode(CLAIMS, private, "RS256", headers={"kid": "k1"}), now_ms=NOW_MS)


async def test_tokens_of_an_old_key_are_taken_while_the_new_one_signs() -> None:
    ring = KeyRing.parse(f"k2:{'n' * 32},k1:{SECRET}")
    assert (await verifier(ring).verify(signed(), now_ms=NOW_MS)).user == "alice"
    fresh = mint(ring, issuer="backend", audience="talkmeter", tenant="acme", user="bob", now_ms=NOW_MS)
    assert jwt.get_unverified_header(fresh)["kid"] == "k2"
    assert (await verifier(ring).verify(fresh, now_ms=NOW_MS)).user == "bob"
    with pytest.raises(TokenInvalid):
        await verifier().verify(fresh, now_ms=NOW_MS)


async def test_a_minted_token_keeps_the_millisecond_of_its_issue() -> None:
    token = mint(KEYS, issuer="backend", audience="talkmeter", tenant="t", user="u", now_ms=NOW_MS + 123, life_ms=5_000)
    identity = await verifier().verify(token, now_ms=NOW_MS + 123)
    assert (identity.issued_at_ms, identity.expires_at_ms) == (NOW_MS + 123, NOW_MS + 5_123)


async def test_a_token_goes_to_the_verifier_of_its_issuer_only() -> None:
    other = JwtVerifier(KEYS, issuer="other", audience="elsewhere", default_tenant="main")
    both = Verifiers([other, verifier()])
    assert (await both.verify(signed(), now_ms=NOW_MS)).user == "alice"
    with pytest.raises(TokenInvalid):  # it claims the other issuer, whose verifier wants another audience
        await both.verify(signed(iss="other"), now_ms=NOW_MS)
