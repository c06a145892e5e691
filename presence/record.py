"""A user's presence record in Redis, read. Pure; imports states only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from presence.states import Inputs, Mode, Standing, Status, rings, standing

CONNECTION = "c:"
AWAY = "a:"


@dataclass(frozen=True, slots=True)
class UserState:
    """A user's presence as others may learn it.

    Attributes:
        user_id: internal id.
        tenant_id, external_id: 0 and empty for a user who was never connected.
        host: signed in with the host's role at least once.
        status, bookable: as states.py makes them.
        rings: whether a call would ring if no other call had the user.
        busy: marked as in a call.
        sockets: live connections on all nodes.
        last_seen_ms: unix milliseconds; 0 when never seen.
        version: grows with every change; a lower one is older.
    """

    user_id: int
    tenant_id: int
    external_id: str
    host: bool
    status: Status
    bookable: bool
    rings: bool
    busy: bool
    sockets: int
    last_seen_ms: int
    version: int

    @property
    def standing(self) -> Standing:
        return Standing(self.status, self.bookable)

    @property
    def listed(self) -> bool:
        """Whether a directory of who can be reached shows this user."""
        return self.status is not Status.OFFLINE or self.bookable


def read(user_id: int, flat: Sequence[bytes], alive: Collection[str]) -> UserState:
    """Return the state that a record tells; connections of nodes that are not alive do not count.

    Args:
        user_id: whose record it is.
        flat: field, value, field, value, ... as HGETALL gives it.
        alive: names of the nodes that live.
    """
    fields = {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}
    away = {name[len(AWAY) :] for name in fields if name.startswith(AWAY)}
    live = [device for name, device in fields.items() if name.startswith(CONNECTION) and _node(name) in alive]
    away_sockets = sum(1 for device in live if device in away)
    inputs = Inputs(
        active_sockets=len(live) - away_sockets,
        away_sockets=away_sockets,
        push_reachable="p" in fields,
        busy="b" in fields,
        reserved="r" in fields,
        mode=Mode(fields.get("m", Mode.AVAILABLE)),
    )
    now = standing(inputs)
    return UserState(
        user_id=user_id,
        tenant_id=int(fields.get("t", 0)),
        external_id=fields.get("x", ""),
        host="h" in fields,
        status=now.status,
        bookable=now.bookable,
        rings=rings(inputs),
        busy=inputs.busy,
        sockets=len(live),
        last_seen_ms=int(fields.get("s", 0)),
        version=int(fields.get("v", 0)),
    )


def connection_field(node: str, connection_id: int) -> str:
    return f"{CONNECTION}{node}:{connection_id}"


def node_names(flat: Sequence[bytes]) -> set[str]:
    """Return the nodes that a record's connections name."""
    return {_node(name.decode()) for name in flat[::2] if name.startswith(CONNECTION.encode())}


def _node(field: str) -> str:
    return field[len(CONNECTION) :].rpartition(":")[0]
