"""What calls need of the other parts, as small interfaces. Imports values of other parts, never their stores.

Everything that takes `conn` works inside the caller's transaction: a call's state, its meter and its events commit
together, and nobody waits for a second connection while holding one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import asyncpg

from realtime.accounts.models import HostProfile, PushTarget, UserCard
from realtime.broker import Outgoing


class People(Protocol):
    """Users and hosts; realtime.accounts.service.Accounts is one."""

    async def resolve_one(self, tenant_id: int, external_id: str, *, conn: asyncpg.Connection | None = None) -> int:
        """Return the internal id; raises NotFound."""
        ...

    async def host_profile(self, user_id: int, *, conn: asyncpg.Connection | None = None) -> HostProfile:
        """Return what a host offers; raises NotFound for a user who is no host."""
        ...

    async def user_cards(
        self, user_ids: Collection[int], *, conn: asyncpg.Connection | None = None
    ) -> dict[int, UserCard]: ...

    async def push_targets(
        self, user_ids: Collection[int], *, conn: asyncpg.Connection | None = None
    ) -> list[PushTarget]: ...


class Presence(Protocol):
    """Who can be rung, and a place to say who is busy."""

    async def bookable(self, user_ids: Sequence[int], *, conn: asyncpg.Connection) -> Mapping[int, bool]:
        """Return whether each may be rung now, leaving out whether a call has them: the database knows that better.

        Args:
            conn: for what has to be looked up in the database; the caller holds it, and must not wait for a second.
        """
        ...

    def busy(self, user_ids: Sequence[int], busy: bool) -> None:
        """Note, after a commit, that these users are in a call or free again. Must not block."""
        ...


class Signals(Protocol):
    """Publishes events past the outbox; realtime.broker.Broker is one."""

    async def publish(self, events: Sequence[Outgoing]) -> list[int]: ...


class Heard(Protocol):
    """A socket, as far as liveness has to know."""

    def heard_ms_ago(self) -> int:
        """Milliseconds since the last byte of the peer; goes on growing when the socket is gone."""
        ...
