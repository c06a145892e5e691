"""People: who exists, on which devices, and what hosts offer.

Owns users' whole life in the database, the device policy and the cache of ids. Must never import another feature; it
opens a new user's wallet through billing in the transaction that makes the user.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import asyncpg

from billing.wallets import open_wallet
from realtime.accounts.lru import Lru
from realtime.accounts.models import Device, HostChange, HostDefaults, HostProfile, PushTarget, UserCard
from realtime.accounts.sign_ins import LAST_SEEN_MIN, SignIns
from realtime.accounts.store import AccountStore, SignIn, SignInRow
from realtime.accounts.tokens import Identity
from realtime.outbox import Tx
from realtime.protocol.errors import Internal, InvalidData, NotFound, TokenInvalid
from realtime.protocol.principal import Principal

HOST_ROLE = "host"
DEVICES_MAX = 5  # per user: a phone or two, a tablet, a browser; more is an account that is shared or a leak
IDS_CACHED_MAX = 100_000  # about 30 MB; ids never change, so nothing has to be invalidated
TENANTS_CACHED_MAX = 10_000
HOSTS_PAGE_MAX = 1_000


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A sign-in that succeeded. `replaced` names devices that had to go under the policy: close their sockets."""

    principal: Principal
    card: UserCard
    replaced: tuple[str, ...]


class Accounts:
    """Users, devices and hosts. Methods that take `conn` or `tx` belong to the caller's transaction."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        devices_max: int = DEVICES_MAX,
        host_defaults: HostDefaults | None = None,
        on_host_changed: Callable[[int], None] = lambda user_id: None,
        on_push_changed: Callable[[int], None] = lambda user_id: None,
        push_enabled: bool = True,
    ) -> None:
        """Make the service.

        Args:
            devices_max: devices that one user may have signed in.
            host_defaults: price and pulse of a host who has not set them.
            on_host_changed: called with a host's internal id after a change has committed; must not block.
            on_push_changed: the same for a user whose push addresses have changed.
            push_enabled: whether there is a push service at all; without one nobody can be woken.
        """
        self._pool = pool
        self._store = AccountStore()
        self._devices_max = devices_max
        self._host_defaults = host_defaults or HostDefaults()
        self._sign_ins = SignIns(pool, self._store, self._host_defaults)
        self.on_host_changed = on_host_changed
        self.on_push_changed = on_push_changed
        self.push_enabled = push_enabled
        self._tenants: Lru[str, int] = Lru(TENANTS_CACHED_MAX)
        self._ids: Lru[tuple[int, str], int] = Lru(IDS_CACHED_MAX)
        self._names: Lru[int, str] = Lru(IDS_CACHED_MAX)

    # Who exists.

    async def ensure_tenant(self, external_id: str) -> int:
        """Return the tenant's internal id; the tenant is made when it is new."""
        tenant_id = self._tenants.get(external_id)
        if tenant_id is None:
            async with self._pool.acquire() as conn:
                tenant_id = await self._store.ensure_tenant(conn, external_id)
            self._tenants.put(external_id, tenant_id)
        return tenant_id

    async def ensure_user(
        self, conn: asyncpg.Connection, tenant_id: int, external_id: str, name: str | None = None
    ) -> UserCard:
        """Return the user; a new one is made in the caller's transaction, with `name` and a wallet."""
        found = await self._store.find_user(conn, tenant_id, external_id)
        if found is None:
            found = await self._store.insert_user(conn, tenant_id, external_id, name or "")
            if found is not None:
                await open_wallet(conn, tenant_id=tenant_id, user_id=found.user_id)
                return found
            # Made by another transaction since we looked, with its wallet: a later statement sees it.
            found = await self._store.find_user(conn, tenant_id, external_id)
        if found is None:
            raise Internal("the user was made by a transaction that this one cannot see")
        return found

    async def resolve(
        self, tenant_id: int, external_ids: Collection[str], *, conn: asyncpg.Connection | None = None
    ) -> dict[str, int]:
        """Return internal ids by outside id; unknown ones are left out.

        Args:
            conn: pass the connection that the caller holds; waiting for a second one could starve the pool.
        """
        known = {external: self._ids.get((tenant_id, external)) for external in external_ids}
        missing = [external for external, user_id in known.items() if user_id is None and "\0" not in external]
        if missing:
            async with self._conn(conn) as mine:
                found = await self._store.resolve(mine, tenant_id, missing)
            for external, user_id in found.items():
                known[external] = user_id
                self._ids.put((tenant_id, external), user_id)
                self._names.put(user_id, external)
        return {external: user_id for external, user_id in known.items() if user_id is not None}

    async def resolve_one(self, tenant_id: int, external_id: str, *, conn: asyncpg.Connection | None = None) -> int:
        """Return the internal id of one user.

        Raises:
            NotFound: there is no such user in this tenant.
        """
        user_id = (await self.resolve(tenant_id, (external_id,), conn=conn)).get(external_id)
        if user_id is None:
            raise NotFound("there is no such user", user=external_id)
        return user_id

    async def external_ids(
        self, user_ids: Collection[int], *, conn: asyncpg.Connection | None = None
    ) -> dict[int, str]:
        """Return outside ids by internal id; unknown ones are left out."""
        known = {user_id: self._names.get(user_id) for user_id in user_ids}
        missing = [user_id for user_id, external in known.items() if external is None]
        if missing:
            for user_id, card in (await self.user_cards(missing, conn=conn)).items():
                known[user_id] = card.user
                self._names.put(user_id, card.user)
        return {user_id: external for user_id, external in known.items() if external is not None}

    async def user_cards(
        self, user_ids: Collection[int], *, conn: asyncpg.Connection | None = None
    ) -> dict[int, UserCard]:
        """Return the cards of those who exist, fresh from the database, for names and pictures change."""
        if not user_ids:
            return {}
        async with self._conn(conn) as mine:
            return await self._store.user_cards(mine, user_ids)

    async def update_profile(self, tx: Tx, user_id: int, *, name: str | None, avatar_url: str | None) -> UserCard:
        """Change name or picture (None leaves it); the directory hears of it when the user is a host."""
        card = await self._store.update_profile(tx.conn, user_id, name=name, avatar_url=avatar_url)
        if await self._store.host_profiles(tx.conn, (user_id,)):
            tx.after_commit(lambda: self.on_host_changed(user_id))
        return card

    # Sign-in and devices.

    async def sign_in(self, identity: Identity, device: Device) -> SignedIn:
        """Let a verified identity in on a device: its user is made when new, the device touched, the policy applied.

        Sign-ins at the same time share their statements (sign_ins.py).

        Raises:
            Unavailable: the database cannot be reached.
            InvalidData: the device's fields hold what no database text can.
            TokenInvalid: the user has signed out everywhere since the token was issued.
        """
        if "\0" in device.device_id + device.platform + device.app_version:
            raise InvalidData("device_id, platform and app_version may not hold NUL", path="$.device_id")
        tenant_id = await self.ensure_tenant(identity.tenant)
        asked = SignIn(
            tenant_id, identity.user, device, identity.issued_at_ms, identity.name, HOST_ROLE in identity.roles
        )
        row = await self._sign_ins.sign_in(asked) or await self._first_sign_in(asked)
        if row.fresh is None:
            raise TokenInvalid("signed out everywhere after this token was issued")
        replaced: list[str] = []
        if row.fresh:
            async with self._pool.acquire() as conn, conn.transaction():
                replaced = await self._store.drop_oldest_devices(
                    conn, row.card.user_id, device.device_id, self._devices_max
                )
        principal = Principal(
            tenant_id=tenant_id,
            tenant=sys.intern(identity.tenant),  # the same for every socket
            user_id=row.card.user_id,
            user=identity.user,
            roles=identity.roles,
            device_id=device.device_id,
            expires_at_ms=identity.expires_at_ms,
        )
        return SignedIn(principal, row.card, tuple(replaced))

    async def refresh(self, principal: Principal, identity: Identity) -> Principal:
        """Return the principal with a new token's expiry and roles.

        Raises:
            TokenInvalid: the token is another user's, or older than a sign-out everywhere.
        """
        if (identity.tenant, identity.user) != (principal.tenant, principal.user):
            raise TokenInvalid("the new token is another user's")
        async with self._pool.acquire() as conn:
            valid_from_ms = await self._store.tokens_valid_from_ms(conn, principal.user_id)
        if valid_from_ms is None or identity.issued_at_ms < valid_from_ms:
            raise TokenInvalid("signed out everywhere after this token was issued")
        return Principal(
            tenant_id=principal.tenant_id,
            tenant=principal.tenant,
            user_id=principal.user_id,
            user=principal.user,
            roles=identity.roles,
            device_id=principal.device_id,
            expires_at_ms=identity.expires_at_ms,
        )

    async def sign_out(self, principal: Principal) -> None:
        """Forget this device and its push address."""
        async with self._pool.acquire() as conn:
            await self._store.drop_device(conn, principal.user_id, principal.device_id)
        self.on_push_changed(principal.user_id)

    async def sign_out_everywhere(self, user_id: int, *, now_ms: int) -> tuple[str, ...]:
        """Refuse all tokens issued until now and forget all devices; return their ids, to close their sockets."""
        async with self._pool.acquire() as conn, conn.transaction():
            await self._store.revoke_tokens(conn, user_id, now_ms)
            gone = await self._store.drop_all_devices(conn, user_id)
        self.on_push_changed(user_id)
        return tuple(gone)

    async def touch_devices(self, devices: Sequence[tuple[int, str]]) -> set[tuple[int, str]]:
        """Note that these (user, device) pairs are connected, to LAST_SEEN_MIN; return those that were signed out.

        "Last seen" decides which device goes when there is one too many.
        """
        async with self._pool.acquire() as conn:
            return await self._store.touch_devices(conn, devices, fresh_min=LAST_SEEN_MIN)

    async def register_push(self, tx: Tx, principal: Principal, *, kind: str, address: str, platform: str) -> None:
        """Give this device a push address; whoever had it before, on the same phone, loses it."""
        losers = await self._store.set_push_address(
            tx.conn, principal.user_id, principal.device_id, kind=kind, address=address, platform=platform
        )
        for user_id in {principal.user_id, *losers}:
            tx.after_commit(partial(self.on_push_changed, user_id))

    async def unregister_push(self, tx: Tx, principal: Principal) -> None:
        """Send no more pushes to this device."""
        await self._store.clear_push_address(tx.conn, principal.user_id, principal.device_id)
        tx.after_commit(lambda: self.on_push_changed(principal.user_id))

    async def push_targets(
        self, user_ids: Collection[int], *, conn: asyncpg.Connection | None = None
    ) -> list[PushTarget]:
        """Return where these users can be reached by push; nowhere while push is off."""
        if not self.push_enabled:
            return []
        async with self._conn(conn) as mine:
            return await self._store.push_targets(mine, user_ids)

    async def woken_of(self, user_ids: Collection[int]) -> set[int]:
        """Return which of these users a push can wake: what presence mends its marks by."""
        return {target.user_id for target in await self.push_targets(user_ids)}

    async def forget_push_addresses(self, dead: Sequence[tuple[str, str]]) -> set[int]:
        """Forget (kind, address) pairs that the push service has called dead; return the users who had them."""
        async with self._pool.acquire() as conn:
            losers = await self._store.forget_push_addresses(conn, dead)
        for user_id in losers:
            self.on_push_changed(user_id)
        return losers

    # Hosts.

    async def host_profile(self, user_id: int, *, conn: asyncpg.Connection | None = None) -> HostProfile:
        """Return one host.

        Raises:
            NotFound: the user is no host.
        """
        profile = (await self.host_cards((user_id,), conn=conn)).get(user_id)
        if profile is None:
            raise NotFound("this user is no host")
        return profile

    async def host_cards(
        self, user_ids: Collection[int], *, conn: asyncpg.Connection | None = None
    ) -> dict[int, HostProfile]:
        """Return the profiles of those who are hosts."""
        if not user_ids:
            return {}
        async with self._conn(conn) as mine:
            return await self._store.host_profiles(mine, user_ids)

    async def hosts_of(self, tenant_id: int, *, after: int = 0, limit: int = HOSTS_PAGE_MAX) -> list[int]:
        """Return a page of a tenant's hosts in the order of their internal ids, beginning after one."""
        async with self._pool.acquire() as conn:
            return await self._store.hosts_of(conn, tenant_id, after, min(limit, HOSTS_PAGE_MAX))

    async def update_host(
        self, tx: Tx, user_id: int, change: HostChange, *, name: str | None = None, tenant_id: int | None = None
    ) -> HostProfile:
        """Change what a host offers (and her name); the directory hears of it after the commit."""
        if name is not None:
            await self._store.update_profile(tx.conn, user_id, name=name, avatar_url=None)
        tenant = tx.tenant_id if tenant_id is None else tenant_id
        await self._store.update_host(tx.conn, user_id, tenant, change, self._host_defaults)
        tx.after_commit(lambda: self.on_host_changed(user_id))
        return await self.host_profile(user_id, conn=tx.conn)

    async def rate_host(self, tx: Tx, user_id: int, stars: int) -> None:
        """Add one rating of 1 to 5 stars; the caller sees to it that each call is rated once."""
        if not 1 <= stars <= 5:
            raise ValueError("stars must be 1 to 5")
        await self._store.rate_host(tx.conn, user_id, stars)
        tx.after_commit(lambda: self.on_host_changed(user_id))

    async def close(self) -> None:
        """Refuse sign-ins that wait, and wait for those at the database."""
        await self._sign_ins.close()

    # Inside.

    async def _first_sign_in(self, asked: SignIn) -> SignInRow:
        """Make the user, and sign in."""
        async with self._pool.acquire() as conn, conn.transaction():
            await self.ensure_user(conn, asked.tenant_id, asked.external_id, asked.name)
        row = await self._sign_ins.sign_in(asked)
        if row is None:
            raise Internal("the user has gone since the sign-in began")
        return row

    @contextlib.asynccontextmanager
    async def _conn(self, conn: asyncpg.Connection | None) -> AsyncIterator[asyncpg.Connection]:
        if conn is not None:
            yield conn
        else:
            async with self._pool.acquire() as mine:
                yield mine
