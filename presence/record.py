"""A user's presence record in Redis, read. Pure; imports states only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from msgspec import Struct

from presence.states import Inputs, Mode, Standing, Status, rings, standing

CONNECTION: Final = "c:"
AWAY: Final = "a:"
REVOKED: Final = "o"  # the field with the instant before which issued tokens are refused
_CONNECTION: Final = CONNECTION.encode()
_AWAY: Final = AWAY.encode()
_REVOKED: Final = REVOKED.encode()
_MODES: Final = {mode.value.encode(): mode for mode in Mode}


class UserState(Struct, frozen=True):
    """A user's presence as others may learn it.

    Attributes:
        user_id: internal id.
        tenant_id, external_id: 0 and empty for a user who was never connected.
        host: signed in with the host's role at least once.
        status, bookable: as states.py makes them.
        rings: whether a call would ring if no other call had the user.
        busy: marked as in a call.
        push_reachable: marked as having a device that a push can wake.
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
    push_reachable: bool
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


class Record:
    """A user's record as Redis gave it: field, value, field, value, ...

    Attributes:
        connections: (node, device) of each.
    """

    __slots__ = ("_fields", "connections")

    def __init__(self, flat: Sequence[bytes]) -> None:
        self._fields = fields = dict(zip(flat[::2], flat[1::2], strict=True))
        self.connections = [
            (name[2 : name.rindex(b":")].decode(), device)
            for name, device in fields.items()
            if name.startswith(_CONNECTION)
        ]

    @property
    def host(self) -> bool:
        """Whether the user has signed in with the host's role."""
        return b"h" in self._fields

    @property
    def revoked_ms(self) -> int:
        """The instant (unix ms) before which issued tokens are refused; 0 when the user never signed out of all."""
        return int(self._fields.get(_REVOKED, 0))

    def connections_of(self, device_id: str, alive: Collection[str]) -> int:
        """Return how many live connections a device has, on all nodes."""
        wanted = device_id.encode()
        return sum(device == wanted and node in alive for node, device in self.connections)

    def state(self, user_id: int, alive: Collection[str]) -> UserState:
        """Return the state that it tells; connections of nodes that are not alive do not count.

        Args:
            user_id: whose record it is.
            alive: names of the nodes that live.
        """
        fields = self._fields
        inputs = self._inputs(alive)
        now = standing(inputs)
        return UserState(
            user_id=user_id,
            tenant_id=int(fields.get(b"t", 0)),
            external_id=fields.get(b"x", b"").decode(),
            host=self.host,
            status=now.status,
            bookable=now.bookable,
            rings=rings(inputs),
            busy=inputs.busy,
            push_reachable=inputs.push_reachable,
            sockets=inputs.active_sockets + inputs.away_sockets,
            last_seen_ms=int(fields.get(b"s", 0)),
            version=int(fields.get(b"v", 0)),
        )

    def standing(self, alive: Collection[str]) -> Standing:
        """Return what `state(...).standing` would be; what a change is compared by needs no more."""
        return standing(self._inputs(alive))

    def _inputs(self, alive: Collection[str]) -> Inputs:
        fields = self._fields
        live = [device for node, device in self.connections if node in alive]
        away_sockets = sum([_AWAY + device in fields for device in live])
        return Inputs(
            active_sockets=len(live) - away_sockets,
            away_sockets=away_sockets,
            push_reachable=b"p" in fields,
            busy=b"b" in fields,
            reserved=b"r" in fields,
            mode=_MODES[fields.get(b"m", b"available")],
        )


def connection_field(node: str, connection_id: int) -> str:
    return f"{CONNECTION}{node}:{connection_id}"
