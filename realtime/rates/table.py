"""The table of rates: what is bounded, by how much, and over what. Pure; imports the settings only.

A rate is a bucket of tokens: so many at once, and refilled evenly. docs/decisions/0062 says which buckets are exact
over all nodes, which are each node's own, and what holds while Redis is away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from realtime.config import Settings

OFF: Final = "off"


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, and `per_s` sustained."""

    burst: int
    per_s: float

    @property
    def interval_s(self) -> float:
        """How long the bucket takes for one token."""
        return 1 / self.per_s

    @property
    def room_s(self) -> float:
        """How long an empty bucket takes to be full."""
        return self.burst / self.per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An operation with a rate of its own, for each user.

    Attributes:
        op: the operation; the setting is `rate_` and its name.
        everywhere: whether one bucket in Redis counts for all nodes. It costs a round trip, so only what is rare and
            dear has one; on each node the same rate is taken first, and holds alone while Redis is away.
        why: what too much of it would do.
    """

    op: str
    everywhere: bool = False
    why: str

    @property
    def setting(self) -> str:
        return "rate_" + self.op.replace(".", "_")


ACTIONS: Final = (
    Action(op="call.invite", everywhere=True, why="wakes a phone, also when the host is busy or away"),
    Action(op="hosts.update", everywhere=True, why="is sent to everybody who watches the directory"),
    Action(op="profile.update", everywhere=True, why="is written, and shown to others"),
    Action(op="device.register", everywhere=True, why="is written, and asked of by every push"),
    Action(op="gift.send", why="is booked in the ledger; coins bound it too"),
    Action(op="chat.send", why="is written, and may be a push"),
    Action(op="channel.publish", why="goes to a whole room"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All rates of a node; what is None or missing is not bounded.

    Attributes:
        connection: requests of one connection, each at its route's cost.
        user: the same of all connections that a user has on this node.
        actions: requests of a user on this node, by operation.
        everywhere: requests of a user on all nodes, by operation.
        sign_ins: of one user on this node, with a token that holds.
        failed_sign_ins: of one address on this node.
    """

    connection: Rate
    user: Rate | None = None
    actions: Mapping[str, Rate] = field(default_factory=dict)
    everywhere: Mapping[str, Rate] = field(default_factory=dict)
    sign_ins: Rate | None = None
    failed_sign_ins: Rate | None = None


def read_limits(settings: Settings) -> Limits:
    """Return the table that the settings describe."""
    actions = {action: read_rate(getattr(settings, action.setting)) for action in ACTIONS}
    return Limits(
        connection=Rate(settings.requests_burst, settings.requests_per_s),
        user=Rate(settings.user_requests_burst, settings.user_requests_per_s),
        actions={action.op: rate for action, rate in actions.items() if rate},
        everywhere={action.op: rate for action, rate in actions.items() if rate and action.everywhere},
        sign_ins=read_rate(settings.rate_sign_ins),
        failed_sign_ins=read_rate(settings.rate_failed_sign_ins),
    )


def read_rate(text: str) -> Rate | None:
    """Read `30/60s`, 30 at once and 30 more in every 60 seconds, or `off`; the settings have checked the form."""
    if text == OFF:
        return None
    count, _, window = text.partition("/")
    return Rate(int(count), int(count) / int(window.removesuffix("s")))
