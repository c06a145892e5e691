"""Signed tokens in compact form with HS256 (RFC 7515, section 3.1; RFC 7518, section 3.2): taken apart and checked.

Owns the bytes; what the claims mean is tokens.py's. Imports errors only. PyJWT takes nine times as long, and every
sign-in of a storm would pay it (docs/decisions/0063); tests compare the two.
"""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from realtime.protocol.errors import TokenInvalid

ALGORITHM: Final = "HS256"  # the only one: neither `none` nor a key meant for another algorithm is ever tried
TOKEN_CHARS_MAX: Final = 4096  # Firebase's are about 1,000; more is work for nothing

# base64url to base64 (RFC 4648, section 5). What base64url does not have becomes a character that neither has.
_ALPHABET: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
_PADDING: Final = (b"", b"!", b"==", b"=")  # by length modulo 4; no text has a length of 1 more than a multiple


class _Header(Struct):
    alg: str
    kid: str
    crit: Raw | UnsetType = UNSET  # names extensions that must be understood: none is
    b64: bool = True


class _Issuer(Struct):
    iss: str


_headers: Final = msgspec.json.Decoder(_Header)
_issuers: Final = msgspec.json.Decoder(_Issuer)
_claims: Final = msgspec.json.Decoder(dict[str, Any])
_MALFORMED: Final = (msgspec.MsgspecError, ValueError, RecursionError)


def claimed_issuer(token: str) -> str:
    """Return the `iss` claim, unverified.

    Raises:
        TokenInvalid: this is no token, or it names no issuer.
    """
    try:
        _, payload, _ = _split(token)
        return _issuers.decode(_decoded(payload)).iss
    except _MALFORMED:
        raise TokenInvalid("the token is not well-formed, or names no issuer") from None


def verified_claims(token: str, secrets: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the claims of a token that one of `secrets` (by key id) has signed.

    Raises:
        TokenInvalid: this is no token, its key is unknown, or the signature is wrong.
    """
    try:
        header_text, payload, signature_text = _split(token)
        header = _headers.decode(_decoded(header_text))
        signature = _decoded(signature_text)
    except _MALFORMED:
        raise TokenInvalid("the token is not well-formed, or has no key id") from None
    if header.alg != ALGORITHM or header.crit is not UNSET or not header.b64:
        raise TokenInvalid(f"tokens are signed with {ALGORITHM}, without extensions")
    secret = secrets.get(header.kid)
    if secret is None:
        raise TokenInvalid("the token's key id is unknown here")
    if not hmac.compare_digest(hmac.digest(secret, header_text + b"." + payload, "sha256"), signature):
        raise TokenInvalid("the token's signature is wrong")
    try:
        return _claims.decode(_decoded(payload))
    except _MALFORMED:
        raise TokenInvalid("the token's claims are not well-formed") from None


def _split(token: str) -> tuple[bytes, bytes, bytes]:
    if len(token) > TOKEN_CHARS_MAX:
        raise TokenInvalid("the token is too long")
    header, payload, signature = token.encode("ascii").split(b".")
    return header, payload, signature


def _decoded(text: bytes) -> bytes:
    """Decode base64url without padding (RFC 7515, section 2). Raises ValueError."""
    return binascii.a2b_base64(text.translate(_ALPHABET) + _PADDING[len(text) % 4], strict_mode=True)
