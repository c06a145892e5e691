"""This node's buckets: of connections, of users over all their connections here, of actions, of addresses.

Owns who has how much left, and counts what was refused. Must never import dispatch or a feature. A bucket is one
number, the moment at which it will be full again (the generic cell rate algorithm: ITU-T I.371, annex A), so taking
from it costs a comparison and an addition.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from typing import Final, Protocol

from realtime.protocol.principal import Principal
from realtime.rates.shared import SharedRates
from realtime.rates.table import Limits
from realtime.transport.gate import network

# Users and addresses remembered after they have gone, so that a reconnect does not fill their buckets: five times the
# sockets of a node. Beyond it the one that came first is forgotten; whoever is connected keeps what they have.
REMEMBERED_MAX: Final = 100_000


class Allowance:
    """The buckets of one user on this node, each as the moment at which it is full."""

    __slots__ = ("actions", "full_at")

    def __init__(self) -> None:
        self.full_at = 0.0
        self.actions: dict[str, float] | None = None


class Metered(Protocol):
    """A connection, as far as rates go."""

    full_at: float
    allowance: Allowance | None

    @property
    def principal(self) -> Principal | None: ...


class Rates:
    """All rates of this node.

    Args:
        limits: the table.
        shared: the buckets of all nodes; without it those of this node are all there is.

    Attributes:
        refused: how often each limit refused: `connection`, `user`, `sign_ins`, `failed_sign_ins`, or an operation.
    """

    __slots__ = (
        "_actions", "_addresses", "_failures", "_interval_s", "_room_s", "_shared", "_sign_ins", "_signing_in",
        "_user_interval_s", "_user_room_s", "_users", "refused",
    )  # fmt: skip

    def __init__(self, limits: Limits, shared: SharedRates | None = None) -> None:
        # Copied out of the table: these are read for every request.
        self._interval_s = limits.connection.interval_s
        self._room_s = limits.connection.room_s
        self._user_interval_s = limits.user.interval_s if limits.user else 0.0
        self._user_room_s = limits.user.room_s if limits.user else math.inf
        self._actions = limits.actions
        self._sign_ins = limits.sign_ins
        self._failures = limits.failed_sign_ins
        self._shared = shared
        self._users: dict[int, Allowance] = {}
        self._signing_in: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._addresses: dict[str, float] = {}
        self.refused: Counter[str] = Counter()

    def take(self, session: Metered, op: str, cost: int, now: float) -> int:
        """Take a request of `cost` from all buckets of this node that it belongs to; asking costs, refused or not.

        Args:
            now: monotonic seconds.

        Returns: 0, or the milliseconds until it is worth asking again.
        """
        full_at = session.full_at
        if full_at < now:
            full_at = now
        full_at += cost * self._interval_s
        if full_at - now > self._room_s:
            return self._refuse("connection", full_at - now - self._room_s)
        session.full_at = full_at
        user = session.allowance
        if user is None:
            if session.principal is None:
                return 0
            user = session.allowance = self._allowance(session.principal.user_id)
        full_at = user.full_at
        if full_at < now:
            full_at = now
        full_at += cost * self._user_interval_s
        if full_at - now > self._user_room_s:
            return self._refuse("user", full_at - now - self._user_room_s)
        user.full_at = full_at
        return self._take_action(user, op, now) if op in self._actions else 0

    def _take_action(self, user: Allowance, op: str, now: float) -> int:
        rate = self._actions[op]
        if user.actions is None:
            user.actions = {}
        full_at = max(user.actions.get(op, 0.0), now) + rate.interval_s
        if full_at - now > rate.room_s:
            return self._refuse(op, full_at - now - rate.room_s)
        user.actions[op] = full_at
        return 0

    def counts_everywhere(self, op: str) -> bool:
        """Whether `take_everywhere` has to be asked too."""
        return self._shared is not None and op in self._shared.ops

    async def take_everywhere(self, user_id: int, op: str) -> int:
        """Take one from the bucket of all nodes; returns as `take`, and 0 while Redis is away."""
        wait_ms = await self._shared.take(user_id, op) if self._shared is not None else 0
        if wait_ms:
            self.refused[op] += 1
        return wait_ms

    # Sign-ins.

    def take_sign_in(self, tenant: str, user: str, now: float) -> int:
        """Take a sign-in of a user whose token holds; returns as `take`. A refused one costs nothing."""
        rate, known = self._sign_ins, self._signing_in
        if rate is None:
            return 0
        for _ in range(2):  # who has a full bucket is forgotten, and faster than others come
            if known and next(iter(known.values())) <= now:
                known.popitem(last=False)
        full_at = max(known.get((tenant, user), 0.0), now) + rate.interval_s
        if full_at - now > rate.room_s:
            return self._refuse("sign_ins", full_at - now - rate.room_s)
        if len(known) >= REMEMBERED_MAX:
            known.popitem(last=False)
        known[tenant, user] = full_at
        known.move_to_end((tenant, user))
        return 0

    def sign_in_wait_ms(self, remote: str, now: float) -> int:
        """Return 0, or how long an address from which too many sign-ins failed has to wait."""
        rate = self._failures
        if rate is None or not self._addresses:
            return 0
        over_s = self._addresses.get(network(remote), 0.0) + rate.interval_s - now - rate.room_s
        return self._refuse("failed_sign_ins", over_s) if over_s > 0 else 0

    def sign_in_failed(self, remote: str, now: float) -> None:
        """A token from this address was refused."""
        if self._failures is not None:
            key = network(remote)
            full_at = max(self._addresses.pop(key, 0.0), now) + self._failures.interval_s
            _make_room(self._addresses)
            self._addresses[key] = full_at

    def _allowance(self, user_id: int) -> Allowance:
        found = self._users.pop(user_id, None) or Allowance()
        _make_room(self._users)
        self._users[user_id] = found
        return found

    def _refuse(self, limit: str, over_s: float) -> int:
        self.refused[limit] += 1
        return int(over_s * 1_000) + 1


def _make_room(table: dict[int, Allowance] | dict[str, float]) -> None:
    if len(table) >= REMEMBERED_MAX:
        del table[next(iter(table))]  # type: ignore[arg-type]  # the key is one of its own
