"""Operations on people, through the real dispatcher, transaction and idempotency record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from realtime.accounts.handlers import AccountHandlers
from realtime.accounts.models import Device
from realtime.accounts.service import Accounts
from tests.accounts.peer import Peer, Peers, identity


@pytest.fixture
def accounts(pool: asyncpg.Pool) -> Accounts:
    return Accounts(pool)


@pytest.fixture
async def peers(pool: asyncpg.Pool, accounts: Accounts) -> AsyncIterator[Peers]:
    async def status(user_id: int) -> tuple[str, bool]:
        return "online", True

    peers = Peers(pool, accounts)
    peers.add(AccountHandlers(accounts, host_status=status).routes())
    yield peers
    await peers.close()


@pytest.fixture
async def hanna(peers: Peers) -> Peer:
    return await peers.sign_in("hanna", roles={"host"})


async def test_a_host_changes_what_she_offers(hanna: Peer) -> None:
    ok = await hanna.ok(
        "hosts.update",
        {
            "name": "  Hanna   K ",
            "languages": ["Hi", "en", "hi"],
            "tags": ["Stress"],
            "media": ["video"],
            "pulse_ms": 1000,
        },
    )
    assert ok["host"]["name"] == "Hanna K"
    assert (ok["host"]["languages"], ok["host"]["tags"], ok["host"]["media"]) == (["hi", "en"], ["stress"], ["video"])
    assert (ok["host"]["pulse_ms"], ok["host"]["status"], ok["host"]["bookable"]) == (1000, "online", True)
    later = await hanna.ok("hosts.update", {"headline": "Listens"})
    assert (later["host"]["headline"], later["host"]["languages"]) == ("Listens", ["hi", "en"])


async def test_a_repeat_under_the_same_key_changes_nothing_more(hanna: Peer) -> None:
    first = await hanna.ok("hosts.update", {"price_coins": 5}, key="k")
    await hanna.ok("hosts.update", {"price_coins": 6})
    assert await hanna.ok("hosts.update", {"price_coins": 5}, key="k") == first
    assert (await hanna.ok("hosts.update", {}))["host"]["price_coins"] == 6
    assert (await hanna.error("hosts.update", {"price_coins": 7}, key="k"))["code"] == "key_reused"


async def test_who_is_no_host_has_no_host_page(peers: Peers) -> None:
    carl = await peers.sign_in("carl")
    assert (await carl.error("hosts.update", {"headline": "me"}))["code"] == "forbidden"


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"price_coins": -1}, "$.price_coins"),
        ({"price_coins": 1.5}, "$.price_coins"),
        ({"pulse_ms": 10}, "$.pulse_ms"),
        ({"name": "a\0b"}, "$.name"),
        ({"name": "n" * 81}, "$.name"),
        ({"languages": ["English!"]}, "$.languages[0]"),
        ({"tags": ["t"] * 17}, "$.tags"),
        ({"media": []}, "$.media"),
        ({"media": ["smell"]}, "$.media[0]"),
    ],
)
async def test_a_wrong_field_is_named(hanna: Peer, data: dict[str, Any], path: str) -> None:
    error = await hanna.error("hosts.update", data)
    assert (error["code"], error["details"]) == ("invalid_data", {"path": path})


async def test_a_profile_takes_name_and_picture(peers: Peers, accounts: Accounts) -> None:
    carl = await peers.sign_in("carl")
    ok = await carl.ok("profile.update", {"name": "Carl", "avatar_url": "https://pictures.example/c.png"})
    assert ok["user"] == {"id": "carl", "name": "Carl", "avatar_url": "https://pictures.example/c.png"}
    assert (await carl.ok("profile.update", {"avatar_url": ""}))["user"]["name"] == "Carl"
    for url in ("javascript:alert(1)", 'https://x.example/"onerror=', "data:text/html,x"):
        assert (await carl.error("profile.update", {"avatar_url": url}))["code"] == "invalid_data"


async def test_the_directory_hears_of_a_hosts_new_name_and_not_of_a_callers(
    peers: Peers, accounts: Accounts, hanna: Peer
) -> None:
    changed: list[int] = []
    accounts.on_host_changed = changed.append
    carl = await peers.sign_in("carl")
    await carl.ok("profile.update", {"name": "Carl"})
    await hanna.ok("profile.update", {"name": "Hanna"})
    assert changed == [hanna.principal.user_id]


async def test_a_device_registers_and_unregisters_its_push_address(peers: Peers, accounts: Accounts) -> None:
    carl = await peers.sign_in("carl", device_id="phone")
    await accounts.sign_in(identity("carl"), Device(device_id="tablet"))
    await carl.ok("device.register", {"push_kind": "fcm", "push_address": "abc:def", "platform": "android"})
    (target,) = await accounts.push_targets([carl.principal.user_id])
    assert (target.device_id, target.kind, target.address) == ("phone", "fcm", "abc:def")
    await carl.ok("device.unregister", {})
    assert await accounts.push_targets([carl.principal.user_id]) == []
    assert (await carl.error("device.register", {"push_kind": "fcm", "push_address": ""}))["code"] == "invalid_data"
