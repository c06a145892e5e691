"""Who may open a socket: totals, totals per address, and the rate of new ones. Imports nothing of the project.

Every refusal is an HTTP answer before the upgrade, so that a refused client learns when to come back. A connection
counts from its first moment, before TLS and before its request.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from time import monotonic

from .options import SocketOptions

SWEEP_S = 30.0  # how often addresses without sockets are forgotten


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a socket is not let in, as an HTTP status with seconds to wait."""

    status: int
    code: str
    message: str
    retry_after_s: int


FULL = Refusal(503, "unavailable", "this node holds as many sockets as it may", 5)
ADDRESS_FULL = Refusal(429, "rate_limited", "too many sockets from this address", 30)
UNAUTHENTICATED_FULL = Refusal(503, "unavailable", "too many sockets have not signed in yet", 5)
ADDRESS_UNAUTHENTICATED = Refusal(429, "rate_limited", "too many sockets of this address have not signed in", 10)
TOO_FAST = Refusal(429, "rate_limited", "new sockets come too fast from this address", 2)


class _Address:
    __slots__ = ("opening", "sockets", "tokens", "tokens_at", "unauthenticated")

    def __init__(self, tokens: float, now: float) -> None:
        self.opening = 0
        self.sockets = 0
        self.unauthenticated = 0
        self.tokens = tokens
        self.tokens_at = now


class Gate:
    """Counts connections by state and address. One per process; every call is O(1) but the sweep.

    Attributes:
        opening: connections that speak TLS or HTTP.
        sockets: upgraded ones; `unauthenticated` of them have not signed in.
    """

    __slots__ = ("_addresses", "_options", "_swept_at", "opening", "sockets", "unauthenticated")

    def __init__(self, options: SocketOptions) -> None:
        self._options = options
        self._addresses: dict[str, _Address] = {}
        self._swept_at = 0.0
        self.opening = 0
        self.sockets = 0
        self.unauthenticated = 0

    def enter(self, peer: str, now: float | None = None) -> Refusal | None:
        """Count a new connection of `peer`, or say why it may not stay. Proxies that are trusted are never too many."""
        options = self._options
        now = monotonic() if now is None else now
        self._sweep(now)
        if self.opening + self.sockets >= options.connections_max:
            return FULL
        if peer not in options.trusted_proxies:
            address = self._address(peer, now)
            if address.opening >= options.unauthenticated_per_ip_max:
                return ADDRESS_UNAUTHENTICATED
            address.opening += 1
        self.opening += 1
        return None

    def leave(self, peer: str) -> None:
        """A connection that `enter` let in has gone, or has been upgraded."""
        if peer not in self._options.trusted_proxies:
            self._addresses[network(peer)].opening -= 1
        self.opening -= 1

    def admit(self, remote: str, now: float | None = None) -> Refusal | None:
        """Count a new socket of `remote` that has not signed in, or say why it may not come in."""
        options = self._options
        now = monotonic() if now is None else now
        self._sweep(now)
        if self.sockets >= options.connections_max:
            return FULL
        if self.unauthenticated >= options.unauthenticated_max:
            return UNAUTHENTICATED_FULL
        address = self._address(remote, now)
        if address.sockets >= options.connections_per_ip_max:
            return ADDRESS_FULL
        if address.unauthenticated >= options.unauthenticated_per_ip_max:
            return ADDRESS_UNAUTHENTICATED
        accrued = (now - address.tokens_at) * options.accepts_per_ip_per_s
        address.tokens = min(float(options.accepts_per_ip_burst), address.tokens + accrued)
        address.tokens_at = now
        if address.tokens < 1:
            return TOO_FAST
        address.tokens -= 1
        address.sockets += 1
        address.unauthenticated += 1
        self.sockets += 1
        self.unauthenticated += 1
        return None

    def signed_in(self, remote: str) -> None:
        """A socket that `admit` let in has signed in."""
        self._addresses[network(remote)].unauthenticated -= 1
        self.unauthenticated -= 1

    def left(self, remote: str, *, signed_in: bool) -> None:
        """A socket that `admit` let in has gone."""
        address = self._addresses[network(remote)]
        address.sockets -= 1
        self.sockets -= 1
        if not signed_in:
            address.unauthenticated -= 1
            self.unauthenticated -= 1

    def _address(self, remote: str, now: float) -> _Address:
        key = network(remote)
        address = self._addresses.get(key)
        if address is None:
            address = self._addresses[key] = _Address(float(self._options.accepts_per_ip_burst), now)
        return address

    def _sweep(self, now: float) -> None:
        if now - self._swept_at < SWEEP_S:
            return
        self._swept_at = now
        refilled_s = self._options.accepts_per_ip_burst / self._options.accepts_per_ip_per_s
        stale = [k for k, a in self._addresses.items() if a.sockets + a.opening == 0 and now - a.tokens_at > refilled_s]
        for key in stale:
            del self._addresses[key]


def network(remote: str) -> str:
    """Return what is counted as one address: itself, or the /64 that one IPv6 customer is given."""
    if ":" not in remote:
        return remote
    try:
        return str(ipaddress.IPv6Network((remote.split("%")[0], 64), strict=False))
    except ValueError:
        return remote
