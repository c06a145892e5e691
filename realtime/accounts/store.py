"""Rows of tenants, users, devices and hosts: no other part touches these tables. Imports values only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import asyncpg

from realtime.accounts.models import Device, HostChange, HostDefaults, HostProfile, PushTarget, UserCard
from realtime.sql import load_sql


class SignIn(NamedTuple):
    """One sign-in, as its token and its device tell it. `name` is the token's."""

    tenant_id: int
    external_id: str
    device: Device
    issued_at_ms: int
    name: str
    hosting: bool


class SignInRow(NamedTuple):
    """What one sign-in found. `fresh` is None when the token was refused as too old, else whether the device is new."""

    card: UserCard
    fresh: bool | None


class AccountStore:
    """Each method is one statement on the caller's connection."""

    def __init__(self) -> None:
        self._sql = load_sql(Path(__file__).with_name("store.sql"))

    async def ensure_tenant(self, conn: asyncpg.Connection, external_id: str) -> int:
        while True:
            # Nothing comes back in the one case that another transaction has made it since this statement began.
            tenant_id: int | None = await conn.fetchval(self._sql["ensure_tenant"], external_id)
            if tenant_id is not None:
                return tenant_id

    async def find_user(self, conn: asyncpg.Connection, tenant_id: int, external_id: str) -> UserCard | None:
        row = await conn.fetchrow(self._sql["find_user"], tenant_id, external_id)
        return None if row is None else _card(row)

    async def insert_user(
        self, conn: asyncpg.Connection, tenant_id: int, external_id: str, name: str
    ) -> UserCard | None:
        """Return the new user, or None when there is one of that id already."""
        row = await conn.fetchrow(self._sql["insert_user"], tenant_id, external_id, name)
        return None if row is None else _card(row)

    async def sign_in(
        self,
        conn: asyncpg.Connection,
        batch: Sequence[SignIn],
        host: HostDefaults,
        *,
        fresh_min: int,
        timeout_s: float | None = None,
    ) -> list[SignInRow | None]:
        """Touch users and devices, no user of which may be there twice; None for a user who does not exist yet.

        Args:
            host: what a new host offers.
            fresh_min: minutes in which a device that was seen is not noted again.
            timeout_s: for the statement.
        """
        tenants, users, devices, issued, names, hosting = zip(*batch, strict=True)
        rows = await conn.fetch(
            self._sql["sign_in"],
            tenants,
            users,
            [device.device_id for device in devices],
            [device.platform for device in devices],
            [device.app_version for device in devices],
            issued,
            names,
            hosting,
            host.price_coins,
            host.pulse_ms,
            fresh_min,
            timeout=timeout_s,
        )
        found: list[SignInRow | None] = [None] * len(batch)
        for place, user_id, name, avatar_url, fresh in rows:
            asked = batch[place - 1]
            found[place - 1] = SignInRow(UserCard(user_id, asked.tenant_id, asked.external_id, name, avatar_url), fresh)
        return found

    async def drop_oldest_devices(
        self, conn: asyncpg.Connection, user_id: int, keep_device_id: str, devices_max: int
    ) -> list[str]:
        """Drop devices beyond `devices_max`, longest unseen first; call it in a transaction."""
        await conn.fetchval(self._sql["lock_user"], user_id)
        rows = await conn.fetch(self._sql["drop_oldest_devices"], user_id, keep_device_id, devices_max)
        return [row["device_id"] for row in rows]

    async def resolve(self, conn: asyncpg.Connection, tenant_id: int, external_ids: Sequence[str]) -> dict[str, int]:
        rows = await conn.fetch(self._sql["resolve"], tenant_id, external_ids)
        return {row["external_id"]: row["id"] for row in rows}

    async def user_cards(self, conn: asyncpg.Connection, user_ids: Collection[int]) -> dict[int, UserCard]:
        rows = await conn.fetch(self._sql["user_cards"], list(user_ids))
        return {row["id"]: _card(row) for row in rows}

    async def update_profile(
        self, conn: asyncpg.Connection, user_id: int, *, name: str | None, avatar_url: str | None
    ) -> UserCard:
        return _card(await conn.fetchrow(self._sql["update_profile"], user_id, name, avatar_url))

    async def tokens_valid_from_ms(self, conn: asyncpg.Connection, user_id: int) -> int | None:
        valid_from_ms: int | None = await conn.fetchval(self._sql["tokens_valid_from"], user_id)
        return valid_from_ms

    async def revoke_tokens(self, conn: asyncpg.Connection, user_id: int, now_ms: int) -> None:
        await conn.execute(self._sql["revoke_tokens"], user_id, now_ms)

    async def drop_all_devices(self, conn: asyncpg.Connection, user_id: int) -> list[str]:
        return [row["device_id"] for row in await conn.fetch(self._sql["drop_all_devices"], user_id)]

    async def drop_device(self, conn: asyncpg.Connection, user_id: int, device_id: str) -> None:
        await conn.execute(self._sql["drop_device"], user_id, device_id)

    async def touch_devices(
        self, conn: asyncpg.Connection, devices: Sequence[tuple[int, str]], *, fresh_min: int
    ) -> set[tuple[int, str]]:
        """Note that they are still there, unless that was noted in the last minutes; return those that are gone."""
        rows = await conn.fetch(
            self._sql["touch_devices"], [user for user, _ in devices], [name for _, name in devices], fresh_min
        )
        return {(row["user_id"], row["device_id"]) for row in rows}

    async def set_push_address(
        self, conn: asyncpg.Connection, user_id: int, device_id: str, *, kind: str, address: str, platform: str
    ) -> set[int]:
        """Call it in a transaction: the address is first taken from whoever has it; return those users."""
        losers = await conn.fetch(self._sql["release_push_address"], kind, address, user_id, device_id)
        await conn.execute(self._sql["set_push_address"], user_id, device_id, kind, address, platform)
        return {row["user_id"] for row in losers}

    async def clear_push_address(self, conn: asyncpg.Connection, user_id: int, device_id: str) -> None:
        await conn.execute(self._sql["set_push_address"], user_id, device_id, None, None, None)

    async def push_targets(self, conn: asyncpg.Connection, user_ids: Collection[int]) -> list[PushTarget]:
        rows = await conn.fetch(self._sql["push_targets"], list(user_ids))
        return [PushTarget(*row) for row in rows]

    async def forget_push_addresses(self, conn: asyncpg.Connection, dead: Sequence[tuple[str, str]]) -> set[int]:
        rows = await conn.fetch(
            self._sql["forget_push_addresses"], [kind for kind, _ in dead], [address for _, address in dead]
        )
        return {row["user_id"] for row in rows}

    async def host_profiles(self, conn: asyncpg.Connection, user_ids: Collection[int]) -> dict[int, HostProfile]:
        rows = await conn.fetch(self._sql["host_profiles"], list(user_ids))
        return {row["id"]: _host(row) for row in rows}

    async def update_host(
        self, conn: asyncpg.Connection, user_id: int, tenant_id: int, change: HostChange, defaults: HostDefaults
    ) -> None:
        await conn.execute(
            self._sql["update_host"],
            user_id,
            tenant_id,
            defaults.price_coins,
            defaults.pulse_ms,
            change.headline,
            change.languages,
            change.tags,
            change.category,
            change.media,
            change.price_coins,
            change.pulse_ms,
        )

    async def rate_host(self, conn: asyncpg.Connection, user_id: int, stars: int) -> None:
        await conn.execute(self._sql["rate_host"], user_id, stars)

    async def hosts_of(self, conn: asyncpg.Connection, tenant_id: int, after: int, limit: int) -> list[int]:
        return [row["user_id"] for row in await conn.fetch(self._sql["hosts_of"], tenant_id, after, limit)]


def _card(row: asyncpg.Record) -> UserCard:
    return UserCard(row["id"], row["tenant_id"], row["external_id"], row["name"], row["avatar_url"])


def _host(row: asyncpg.Record) -> HostProfile:
    return HostProfile(
        _card(row),
        row["headline"],
        tuple(row["languages"]),
        tuple(row["tags"]),
        row["category"],
        tuple(row["media"]),
        row["price_coins"],
        row["pulse_ms"],
        row["rating_sum"],
        row["rating_count"],
    )
