"""Operations on one's own profile, host page and push address. Imports its service; never another feature.

Sessions (sign-in, refresh, sign-out) belong to the connection and are handled there, through the same service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from msgspec import UnsetType

from realtime.accounts.messages import (
    DeviceRegister,
    HostsUpdate,
    HostsUpdateOk,
    ProfileUpdate,
    ProfileUpdateOk,
    host_card,
    user_view,
)
from realtime.accounts.models import HostChange
from realtime.accounts.service import HOST_ROLE, Accounts
from realtime.dispatch import Request
from realtime.protocol.registry import Empty, EventType, Route

EVENTS: tuple[EventType, ...] = ()
HostStatus = Callable[[int], Awaitable[tuple[str, bool]]]
T = TypeVar("T")


async def offline(user_id: int) -> tuple[str, bool]:
    """The status of a host where there is no presence."""
    return "offline", False


class AccountHandlers:
    """`host_status` gives (status, bookable) of an internal user id, from presence."""

    def __init__(self, accounts: Accounts, *, host_status: HostStatus = offline) -> None:
        self._accounts = accounts
        self._host_status = host_status

    def routes(self) -> list[Route]:
        return [
            Route(
                op="hosts.update",
                data=HostsUpdate,
                ok=HostsUpdateOk,
                handler=self.update_host,
                mutation=True,
                roles=frozenset({HOST_ROLE}),
                summary="Change what you offer as a host; the directory shows it at once.",
            ),
            Route(
                op="profile.update",
                data=ProfileUpdate,
                ok=ProfileUpdateOk,
                handler=self.update_profile,
                mutation=True,
                summary="Change your name or picture.",
            ),
            Route(
                op="device.register",
                data=DeviceRegister,
                ok=Empty,
                handler=self.register_device,
                mutation=True,
                summary="Say where pushes for this device go.",
            ),
            Route(
                op="device.unregister",
                data=Empty,
                ok=Empty,
                handler=self.unregister_device,
                mutation=True,
                summary="Send no more pushes to this device.",
            ),
        ]

    async def update_host(self, rq: Request, msg: HostsUpdate) -> HostsUpdateOk:
        change = HostChange(
            headline=_stripped(msg.headline),
            languages=_distinct(msg.languages),
            tags=_distinct(msg.tags),
            category=_stripped(msg.category),
            media=_distinct(msg.media),
            price_coins=_given(msg.price_coins),
            pulse_ms=_given(msg.pulse_ms),
        )
        user_id = rq.principal.user_id
        profile = await self._accounts.update_host(rq.tx, user_id, change, name=_stripped(msg.name))
        status, bookable = await self._host_status(user_id)
        return HostsUpdateOk(host_card(profile, status=status, bookable=bookable))

    async def update_profile(self, rq: Request, msg: ProfileUpdate) -> ProfileUpdateOk:
        card = await self._accounts.update_profile(
            rq.tx, rq.principal.user_id, name=_stripped(msg.name), avatar_url=_given(msg.avatar_url)
        )
        return ProfileUpdateOk(user_view(card))

    async def register_device(self, rq: Request, msg: DeviceRegister) -> Empty:
        await self._accounts.register_push(
            rq.tx, rq.principal, kind=msg.push_kind, address=msg.push_address, platform=msg.platform
        )
        return Empty()

    async def unregister_device(self, rq: Request, msg: Empty) -> Empty:
        await self._accounts.unregister_push(rq.tx, rq.principal)
        return Empty()


def _given(value: T | UnsetType) -> T | None:
    return None if isinstance(value, UnsetType) else value


def _stripped(value: str | UnsetType) -> str | None:
    return None if isinstance(value, UnsetType) else " ".join(value.split())


def _distinct(values: Iterable[str] | UnsetType) -> tuple[str, ...] | None:
    """Lower case, without repeats, in the order given: what is filtered by is compared exactly."""
    return None if isinstance(values, UnsetType) else tuple(dict.fromkeys(value.strip().lower() for value in values))
