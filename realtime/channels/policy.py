"""Who may do what in a channel. Pure; features that know better give a policy of their own."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

from realtime.protocol.principal import Principal

RESERVED: Final = "system:"


class Action(StrEnum):
    JOIN = "join"
    PUBLISH = "publish"


class Policy(Protocol):
    async def may(self, principal: Principal, channel: str, action: Action) -> bool:
        """Return whether this user may do that; a channel's name is unique within its tenant.

        Asked about both actions when a connection joins; the answer holds until it leaves.
        """
        ...


class OpenPolicy:
    """Everybody of the tenant may join and publish; where the name begins with RESERVED only the server publishes."""

    async def may(self, principal: Principal, channel: str, action: Action) -> bool:
        return action is Action.JOIN or not channel.startswith(RESERVED)
