"""Users, devices and hosts on real PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from billing.wallets import balance
from realtime.accounts.models import Device, HostChange, HostDefaults
from realtime.accounts.service import Accounts
from realtime.accounts.tokens import Identity
from realtime.outbox import Outbox
from realtime.protocol.errors import NotFound, TokenInvalid

NOW_MS = 1_790_000_000_000


class Nowhere:
    """A publisher for tests in which nothing is published."""

    async def publish_rows(self, rows: Any) -> None:
        raise AssertionError(rows)


def identity(user: str = "alice", *, tenant: str = "main", issued_at_ms: int = NOW_MS, **changed: Any) -> Identity:
    values: dict[str, Any] = {"roles": frozenset(), "name": "", "expires_at_ms": NOW_MS + 3_600_000} | changed
    return Identity(tenant=tenant, user=user, issued_at_ms=issued_at_ms, **values)


@pytest.fixture
def accounts(pool: asyncpg.Pool) -> Accounts:
    return Accounts(pool, devices_max=3, host_defaults=HostDefaults(price_coins=7, pulse_ms=30_000))


@pytest.fixture
def outbox(pool: asyncpg.Pool) -> Outbox:
    return Outbox(pool, Nowhere())


async def devices(pool: asyncpg.Pool, user_id: int) -> list[str]:
    rows = await pool.fetch("select device_id from realtime.devices where user_id = $1 order by device_id", user_id)
    return [row["device_id"] for row in rows]


async def test_a_first_sign_in_makes_the_user_with_a_wallet(accounts: Accounts, pool: asyncpg.Pool) -> None:
    signed = await accounts.sign_in(identity(name="Alice"), Device(device_id="d1", platform="android"))
    assert (signed.card.user, signed.card.name, signed.replaced) == ("alice", "Alice", ())
    assert signed.principal.user_id == signed.card.user_id
    assert signed.principal.device_id == "d1"
    async with pool.acquire() as conn:
        wallet = await balance(conn, signed.card.user_id)
    assert (wallet.paid, wallet.promo) == (0, 0)


async def test_a_second_sign_in_finds_the_same_user(accounts: Accounts, pool: asyncpg.Pool) -> None:
    first = await accounts.sign_in(identity(name="Alice"), Device(device_id="d1"))
    again = await Accounts(pool).sign_in(identity(name="Somebody"), Device(device_id="d1"))
    assert again.card == first.card


async def test_a_user_without_a_name_gets_that_of_a_later_token(accounts: Accounts) -> None:
    nameless = await accounts.sign_in(identity(), Device(device_id="d1"))
    assert nameless.card.name == ""
    named = await accounts.sign_in(identity(name="Alice"), Device(device_id="d1"))
    assert named.card.name == "Alice"
    assert (await accounts.user_cards([named.card.user_id]))[named.card.user_id].name == "Alice"


async def test_many_first_sign_ins_at_once_make_one_user(accounts: Accounts, pool: asyncpg.Pool) -> None:
    signed = await asyncio.gather(
        *(accounts.sign_in(identity(), Device(device_id=f"d{number % 3}")) for number in range(12))
    )
    assert len({one.card.user_id for one in signed}) == 1
    assert await pool.fetchval("select count(*) from realtime.users") == 1


async def test_the_same_id_in_two_tenants_is_two_users(accounts: Accounts) -> None:
    here = await accounts.sign_in(identity(), Device(device_id="d"))
    there = await accounts.sign_in(identity(tenant="other"), Device(device_id="d"))
    assert here.card.user_id != there.card.user_id
    assert await accounts.resolve(here.principal.tenant_id, ["alice"]) == {"alice": here.card.user_id}
    assert await accounts.resolve(there.principal.tenant_id, ["alice"]) == {"alice": there.card.user_id}


async def test_a_device_too_many_replaces_the_one_unseen_for_longest(accounts: Accounts, pool: asyncpg.Pool) -> None:
    for name in ("d1", "d2", "d3"):
        signed = await accounts.sign_in(identity(), Device(device_id=name))
        assert signed.replaced == ()
    await pool.execute("update realtime.devices set last_seen_at = last_seen_at - interval '1 hour'")
    await accounts.sign_in(identity(), Device(device_id="d1"))
    signed = await accounts.sign_in(identity(), Device(device_id="d4"))
    assert signed.replaced == ("d2",)
    assert await devices(pool, signed.card.user_id) == ["d1", "d3", "d4"]


async def test_a_device_that_stays_connected_is_not_the_one_unseen_for_longest(
    accounts: Accounts, pool: asyncpg.Pool
) -> None:
    for name in ("d1", "d2", "d3"):
        user_id = (await accounts.sign_in(identity(), Device(device_id=name))).card.user_id
    await pool.execute("update realtime.devices set last_seen_at = last_seen_at - interval '1 hour'")
    assert await accounts.touch_devices([(user_id, "d1"), (user_id, "d3")]) == set()
    assert (await accounts.sign_in(identity(), Device(device_id="d4"))).replaced == ("d2",)


async def test_touching_tells_which_devices_were_signed_out(accounts: Accounts) -> None:
    here = await accounts.sign_in(identity(), Device(device_id="d1"))
    gone = await accounts.sign_in(identity("bob"), Device(device_id="d1"))
    await accounts.sign_out(gone.principal)
    asked = [(here.card.user_id, "d1"), (gone.card.user_id, "d1"), (here.card.user_id, "never")]
    assert await accounts.touch_devices(asked) == set(asked[1:])


async def test_a_device_that_comes_back_soon_is_looked_up_only_unless_it_has_changed(
    accounts: Accounts, pool: asyncpg.Pool
) -> None:
    written = "select xmin::text || ctid::text from realtime.devices"
    await accounts.sign_in(identity(), Device(device_id="d1", app_version="1"))
    first = await pool.fetchval(written)
    await accounts.sign_in(identity(), Device(device_id="d1", app_version="1"))
    assert await pool.fetchval(written) == first
    await accounts.sign_in(identity(), Device(device_id="d1", app_version="2"))
    assert await pool.fetchval("select app_version from realtime.devices") == "2"
    await pool.execute("update realtime.devices set last_seen_at = last_seen_at - interval '1 hour'")
    await accounts.sign_in(identity(), Device(device_id="d1", app_version="2"))
    assert await pool.fetchval("select last_seen_at > now() - interval '1 minute' from realtime.devices")


async def test_a_sign_out_everywhere_refuses_older_tokens_and_forgets_devices(
    accounts: Accounts, pool: asyncpg.Pool
) -> None:
    signed = await accounts.sign_in(identity(), Device(device_id="d1"))
    await accounts.sign_in(identity(), Device(device_id="d2"))
    gone = await accounts.sign_out_everywhere(signed.card.user_id, now_ms=NOW_MS + 500)
    assert sorted(gone) == ["d1", "d2"]
    for issued_at_ms in (NOW_MS, NOW_MS + 499):
        with pytest.raises(TokenInvalid):
            await accounts.sign_in(identity(issued_at_ms=issued_at_ms), Device(device_id="d1"))
    assert await devices(pool, signed.card.user_id) == []
    with pytest.raises(TokenInvalid):
        await accounts.refresh(signed.principal, identity())
    again = await accounts.sign_in(identity(issued_at_ms=NOW_MS + 500), Device(device_id="d1"))
    assert again.card.user_id == signed.card.user_id


async def test_a_refresh_takes_over_expiry_and_roles_of_the_same_user_only(accounts: Accounts) -> None:
    signed = await accounts.sign_in(identity(), Device(device_id="d1"))
    fresh = identity(expires_at_ms=NOW_MS + 9_000_000, roles=frozenset({"host"}))
    refreshed = await accounts.refresh(signed.principal, fresh)
    assert (refreshed.expires_at_ms, refreshed.roles) == (NOW_MS + 9_000_000, frozenset({"host"}))
    for other in (identity("bob"), identity(tenant="other")):
        with pytest.raises(TokenInvalid):
            await accounts.refresh(signed.principal, other)


async def test_a_sign_out_forgets_this_device_only(accounts: Accounts, pool: asyncpg.Pool) -> None:
    signed = await accounts.sign_in(identity(), Device(device_id="d1"))
    await accounts.sign_in(identity(), Device(device_id="d2"))
    await accounts.sign_out(signed.principal)
    assert await devices(pool, signed.card.user_id) == ["d2"]


async def test_unknown_ids_are_left_out_and_one_alone_is_not_found(accounts: Accounts, pool: asyncpg.Pool) -> None:
    signed = await accounts.sign_in(identity(), Device(device_id="d1"))
    tenant_id, user_id = signed.principal.tenant_id, signed.card.user_id
    fresh = Accounts(pool)
    assert await fresh.resolve(tenant_id, ["alice", "nobody", "a\0b"]) == {"alice": user_id}
    assert await fresh.external_ids([user_id, 999]) == {user_id: "alice"}
    assert await fresh.resolve_one(tenant_id, "alice") == user_id
    with pytest.raises(NotFound):
        await fresh.resolve_one(tenant_id, "nobody")


async def test_a_push_address_belongs_to_whoever_registered_it_last(accounts: Accounts, outbox: Outbox) -> None:
    alice = (await accounts.sign_in(identity("alice"), Device(device_id="phone"))).principal
    bob = (await accounts.sign_in(identity("bob"), Device(device_id="phone"))).principal
    for principal in (alice, bob):
        async with outbox.transaction(principal.tenant_id) as tx:
            await accounts.register_push(tx, principal, kind="fcm", address="token-1", platform="android")
    targets = await accounts.push_targets([alice.user_id, bob.user_id])
    assert [(target.user_id, target.address, target.platform) for target in targets] == [
        (bob.user_id, "token-1", "android")
    ]
    async with outbox.transaction(bob.tenant_id) as tx:
        await accounts.unregister_push(tx, bob)
    assert await accounts.push_targets([alice.user_id, bob.user_id]) == []


async def test_a_dead_push_address_is_forgotten_once(accounts: Accounts, outbox: Outbox) -> None:
    alice = (await accounts.sign_in(identity("alice"), Device(device_id="phone"))).principal
    async with outbox.transaction(alice.tenant_id) as tx:
        await accounts.register_push(tx, alice, kind="fcm", address="dead", platform="")
    changed: list[int] = []
    accounts.on_push_changed = changed.append
    dead = [("fcm", "dead"), ("fcm", "unknown"), ("fcm_fid", "dead")]
    assert await accounts.forget_push_addresses(dead) == {alice.user_id}
    assert await accounts.forget_push_addresses(dead) == set()
    assert changed == [alice.user_id]
    assert await accounts.push_targets([alice.user_id]) == []


async def test_nobody_can_be_woken_while_there_is_no_push_service(accounts: Accounts, outbox: Outbox) -> None:
    alice = (await accounts.sign_in(identity("alice"), Device(device_id="phone"))).principal
    async with outbox.transaction(alice.tenant_id) as tx:
        await accounts.register_push(tx, alice, kind="fcm", address="token", platform="")
    assert len(await accounts.push_targets([alice.user_id])) == 1
    accounts.push_enabled = False
    assert await accounts.push_targets([alice.user_id]) == []


async def test_every_loss_of_a_push_address_is_told(accounts: Accounts, outbox: Outbox) -> None:
    alice = (await accounts.sign_in(identity("alice"), Device(device_id="phone"))).principal
    bob = (await accounts.sign_in(identity("bob"), Device(device_id="phone"))).principal
    changed: list[int] = []
    accounts.on_push_changed = changed.append
    for principal in (alice, bob):
        async with outbox.transaction(principal.tenant_id) as tx:
            await accounts.register_push(tx, principal, kind="fcm", address="token", platform="")
    assert (changed[0], set(changed[1:])) == (alice.user_id, {alice.user_id, bob.user_id})
    changed.clear()
    await accounts.sign_out(bob)
    await accounts.sign_out_everywhere(alice.user_id, now_ms=NOW_MS + 1)
    assert changed == [bob.user_id, alice.user_id]


async def test_a_sign_in_as_host_makes_a_host_page_with_the_defaults(accounts: Accounts) -> None:
    host = await accounts.sign_in(identity("hanna", roles=frozenset({"host"})), Device(device_id="d"))
    caller = await accounts.sign_in(identity("carl"), Device(device_id="d"))
    profile = await accounts.host_profile(host.card.user_id)
    assert (profile.price_coins, profile.pulse_ms, profile.media) == (7, 30_000, ("voice", "video"))
    assert profile.rating is None
    assert await accounts.hosts_of(host.principal.tenant_id) == [host.card.user_id]
    assert await accounts.hosts_of(host.principal.tenant_id, after=host.card.user_id) == []
    with pytest.raises(NotFound):
        await accounts.host_profile(caller.card.user_id)


async def test_a_change_of_a_host_is_told_after_the_commit_only(accounts: Accounts, outbox: Outbox) -> None:
    changed: list[int] = []
    accounts.on_host_changed = changed.append
    host = (await accounts.sign_in(identity("hanna", roles=frozenset({"host"})), Device(device_id="d"))).principal

    async def fail() -> None:
        async with outbox.transaction(host.tenant_id) as tx:
            await accounts.update_host(tx, host.user_id, HostChange(headline="lost"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert changed == []
    async with outbox.transaction(host.tenant_id) as tx:
        profile = await accounts.update_host(
            tx, host.user_id, HostChange(languages=("hi", "en"), price_coins=12, media=("voice",)), name="Hanna"
        )
        assert changed == []
    assert changed == [host.user_id]
    assert (profile.card.name, profile.headline, profile.languages) == ("Hanna", "", ("hi", "en"))
    assert (profile.price_coins, profile.pulse_ms, profile.media) == (12, 30_000, ("voice",))
    async with outbox.transaction(host.tenant_id) as tx:
        profile = await accounts.update_host(tx, host.user_id, HostChange(headline="Listens"))
    assert (profile.headline, profile.languages, profile.price_coins) == ("Listens", ("hi", "en"), 12)


async def test_ratings_make_a_mean(accounts: Accounts, outbox: Outbox) -> None:
    host = (await accounts.sign_in(identity("hanna", roles=frozenset({"host"})), Device(device_id="d"))).principal
    for stars in (5, 4, 4):
        async with outbox.transaction(host.tenant_id) as tx:
            await accounts.rate_host(tx, host.user_id, stars)
    assert (await accounts.host_profile(host.user_id)).rating == 4.3


async def test_the_next_shard_gives_ids_that_carry_it(accounts: Accounts, owner: asyncpg.Connection) -> None:
    await owner.execute(f"alter sequence realtime.user_ids minvalue {3 << 48} start {3 << 48} restart")
    signed = await accounts.sign_in(identity(), Device(device_id="d"))
    assert signed.card.user_id >> 48 == 3
