"""Signed tokens taken apart: what we take, PyJWT takes too, and says the same."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from realtime.accounts.jws import TOKEN_CHARS_MAX, claimed_issuer, verified_claims
from realtime.protocol.errors import TokenInvalid

SECRET = b"s" * 32
SECRETS = {"k1": SECRET}
CLAIMS = {"iss": "backend", "sub": "alice", "iat": 1, "exp": 2, "roles": ["host"], "name": "Ålice ✓"}
TOKEN = jwt.encode(CLAIMS, SECRET, "HS256", headers={"kid": "k1"})


def by_pyjwt(token: str) -> dict[str, Any]:
    """Verify as PyJWT does, without a look at the claims. Raises jwt.PyJWTError."""
    options: Any = dict.fromkeys(("verify_exp", "verify_iat", "verify_nbf", "verify_aud", "verify_iss"), False)
    claims: dict[str, Any] = jwt.decode(token, SECRET, algorithms=["HS256"], options=options)
    return claims


def signed(header: bytes, payload: bytes) -> str:
    """Return a token with any header and payload, and a right signature."""
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload))
    signature = jwt.get_algorithm_by_name("HS256").sign(text, SECRET)
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


HEADER = json.dumps({"alg": "HS256", "kid": "k1"}).encode()
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=10)
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=6)


@given(claims=OBJECTS)
def test_what_pyjwt_signs_is_read_as_pyjwt_reads_it(claims: dict[str, Any]) -> None:
    for claim in ("sub", "jti"):  # PyJWT looks at their type even so
        claims.pop(claim, None)
    token = jwt.encode(claims | {"iss": "backend"}, SECRET, "HS256", headers={"kid": "k1"})
    assume(len(token) <= TOKEN_CHARS_MAX)  # what is longer is refused, whoever signed it
    assert verified_claims(token, SECRETS) == by_pyjwt(token)
    assert claimed_issuer(token) == "backend"


@given(
    place=st.integers(0, len(TOKEN)),
    cut=st.integers(0, 3),
    put=st.text("ABab01-_+/=. \n\0é", max_size=3),
)
@example(place=len(TOKEN), cut=0, put="=")
def test_a_token_changed_anywhere_is_refused_or_the_same(place: int, cut: int, put: str) -> None:
    changed = TOKEN[:place] + put + TOKEN[place + cut :]
    try:
        claims = verified_claims(changed, SECRETS)
    except TokenInvalid:
        return
    assert claims == CLAIMS
    assert by_pyjwt(changed) == CLAIMS


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        pytest.param({"alg": "HS256", "kid": "k1", "crit": ["exp"]}, CLAIMS, id="critical extension"),
        pytest.param({"alg": "HS256", "kid": "k1", "crit": []}, CLAIMS, id="empty list of extensions"),
        pytest.param({"alg": "HS256", "kid": "k1", "b64": False, "crit": ["b64"]}, CLAIMS, id="payload not encoded"),
        pytest.param({"alg": "HS256", "kid": "k1", "b64": False}, CLAIMS, id="payload not encoded, unsaid"),
        pytest.param({"alg": "hs256", "kid": "k1"}, CLAIMS, id="algorithm in lower case"),
        pytest.param({"alg": ["HS256"], "kid": "k1"}, CLAIMS, id="algorithms"),
        pytest.param({"kid": "k1"}, CLAIMS, id="no algorithm"),
        pytest.param({"alg": "HS256"}, CLAIMS, id="no key id"),
        pytest.param({"alg": "HS256", "kid": ""}, CLAIMS, id="empty key id"),
        pytest.param(["HS256"], CLAIMS, id="header that is a list"),
        pytest.param({"alg": "HS256", "kid": "k1"}, [CLAIMS], id="claims that are a list"),
        pytest.param({"alg": "HS256", "kid": "k1"}, "claims", id="claims that are a text"),
    ],
)
def test_a_right_signature_under_a_wrong_header_or_payload_is_refused(header: Any, payload: Any) -> None:
    with pytest.raises(TokenInvalid):
        verified_claims(signed(json.dumps(header).encode(), json.dumps(payload).encode()), SECRETS)


@pytest.mark.parametrize("payload", [b"", b"{", b'{"iss":"a"', b"\xff\xfe", b'{"a":NaN}', b"[" * 3000])
def test_a_signed_payload_that_is_no_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(TokenInvalid):
        verified_claims(signed(HEADER, payload), SECRETS)
    with pytest.raises(TokenInvalid):
        claimed_issuer(signed(HEADER, payload))
