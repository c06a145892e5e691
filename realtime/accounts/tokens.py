"""Login tokens: who somebody is, according to a signature that we trust.

Owns the claims of our own JWTs and the choice of a verifier; their signatures are checked in jws.py. Imports errors and
keys only; never a store. Firebase's tokens are verified in firebase.py behind the same interface.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from realtime.accounts.jws import ALGORITHM, claimed_issuer, verified_claims
from realtime.accounts.keys import KeyRing
from realtime.protocol.errors import TokenExpired, TokenInvalid

CLOCK_SKEW_MS = 5_000  # between the clocks of the app's backend and ours
USER_CHARS_MAX = 128
TENANT_CHARS_MAX = 64
NAME_CHARS_MAX = 80
ROLES_MAX = 16
ROLE_CHARS_MAX = 32
TOKEN_LIFE_MS = 3_600_000  # of the tokens that we mint ourselves


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified token says. All from signed claims; `user` and `tenant` are outside ids, times unix ms."""

    tenant: str
    user: str
    roles: frozenset[str]
    name: str
    issued_at_ms: int
    expires_at_ms: int


class Verifier(Protocol):
    """Checks tokens of one issuer."""

    @property
    def issuer(self) -> str:
        """The `iss` claim of the tokens that it takes."""
        ...

    async def verify(self, token: str, *, now_ms: int) -> Identity:
        """Return who the token speaks for.

        Raises:
            TokenExpired: it was ours, and is over.
            TokenInvalid: anything else about it is wrong.
            Unavailable: it cannot be checked at the moment.
        """
        ...


class Verifiers:
    """Hands a token to the verifier of its issuer. The issuer is read unverified, to choose and for nothing else:
    each verifier checks signature and issuer itself.
    """

    __slots__ = ("_by_issuer",)

    def __init__(self, verifiers: Iterable[Verifier]) -> None:
        self._by_issuer = {verifier.issuer: verifier for verifier in verifiers}

    async def verify(self, token: str, *, now_ms: int) -> Identity:
        """See Verifier.verify."""
        verifier = self._by_issuer.get(claimed_issuer(token))
        if verifier is None:
            raise TokenInvalid("no tokens of this issuer are taken here")
        return await verifier.verify(token, now_ms=now_ms)


class JwtVerifier:
    """Checks the JWTs of the app's backend: HS256 under a known key id; issuer, audience, sub, iat and exp required.

    Claims: `sub` the user, `tenant` (the default one when absent), `roles` a list, `name`.
    """

    __slots__ = ("_audience", "_default_tenant", "_keys", "issuer")

    def __init__(self, keys: KeyRing, *, issuer: str, audience: str, default_tenant: str) -> None:
        self._keys = keys
        self.issuer = issuer
        self._audience = audience
        self._default_tenant = default_tenant

    async def verify(self, token: str, *, now_ms: int) -> Identity:
        """See Verifier.verify."""
        claims = self._checked_claims(token)
        identity = identity_of(claims, default_tenant=self._default_tenant)
        check_times(identity, claims, now_ms=now_ms)
        return identity

    def _checked_claims(self, token: str) -> Mapping[str, Any]:
        claims = verified_claims(token, self._keys.secrets)
        if claims.get("iss") != self.issuer:
            raise TokenInvalid("the token is of another issuer")
        audience = claims.get("aud")
        if audience != self._audience and not (isinstance(audience, list) and self._audience in audience):
            raise TokenInvalid("the token is meant for another audience")
        return claims


def identity_of(claims: Mapping[str, Any], *, default_tenant: str) -> Identity:
    """Return the identity in verified claims.

    Raises:
        TokenInvalid: a claim has the wrong type or length.
    """
    roles = claims.get("roles", [])
    if not isinstance(roles, list) or len(roles) > ROLES_MAX:
        raise TokenInvalid(f"the claim roles should be a list of up to {ROLES_MAX}")
    name = claims.get("name", "")
    if not isinstance(name, str):
        raise TokenInvalid("the claim name should be a text")
    return Identity(
        tenant=_text(claims.get("tenant", default_tenant), "tenant", TENANT_CHARS_MAX),
        user=_text(claims.get("sub"), "sub", USER_CHARS_MAX),
        roles=frozenset(_text(role, "roles", ROLE_CHARS_MAX) for role in roles),
        name=" ".join(name.replace("\0", "").split())[:NAME_CHARS_MAX],
        issued_at_ms=_millis(claims.get("iat"), "iat"),
        expires_at_ms=_millis(claims.get("exp"), "exp"),
    )


def check_times(identity: Identity, claims: Mapping[str, Any], *, now_ms: int) -> None:
    """Refuse a token outside of its time.

    Raises:
        TokenExpired, TokenInvalid: over; not yet begun, or issued in the future.
    """
    if now_ms >= identity.expires_at_ms:
        raise TokenExpired
    begins_ms = max(identity.issued_at_ms, _millis(claims["nbf"], "nbf") if "nbf" in claims else 0)
    if begins_ms > now_ms + CLOCK_SKEW_MS:
        raise TokenInvalid("the token is not valid yet")


def mint(
    keys: KeyRing,
    *,
    issuer: str,
    audience: str,
    tenant: str,
    user: str,
    now_ms: int,
    roles: Collection[str] = (),
    name: str = "",
    life_ms: int = TOKEN_LIFE_MS,
) -> str:
    """Return a login token as an app's backend would make it: for development, tests and tools."""
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": user,
        "tenant": tenant,
        "roles": sorted(roles),
        "name": name,
        # A NumericDate may have a fraction (RFC 7519, section 2); with it a token made in the same second as a
        # sign-out everywhere is known to be older or newer.
        "iat": now_ms / 1000,
        "exp": (now_ms + life_ms) / 1000,
    }
    return jwt.encode(claims, keys.secrets[keys.signing_id], algorithm=ALGORITHM, headers={"kid": keys.signing_id})


def _text(value: object, claim: str, chars_max: int) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= chars_max or "\0" in value:
        raise TokenInvalid(f"the claim {claim} should be a text of 1 to {chars_max} characters")
    return value


def _millis(value: object, claim: str) -> int:
    # 2^43 ms is the year 2248: beyond it something counts in other units.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value * 1000 < 2**43:
        raise TokenInvalid(f"the claim {claim} should be seconds since 1970")
    return math.floor(value * 1000 + 0.5)
