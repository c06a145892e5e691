"""Presence and the directory as clients have them, over two nodes on one Redis and one database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import redis.asyncio as aioredis

from presence.directory import Query
from realtime.accounts.models import HostChange
from realtime.accounts.service import Accounts
from realtime.broker import Broker, directory_topic, presence_topic
from realtime.hub import Hub
from realtime.outbox import Outbox, OutboxRow
from realtime.presence_api.service import Presence
from realtime.protocol.errors import InvalidData, TooManyPending
from realtime.protocol.principal import Principal
from tests.broker.support import Recorder, until
from tests.presence.conftest import HEARTBEAT_S, TTL_MS

TENANT = "acme"


class Unheard:
    """Nobody is told of events in these tests."""

    async def publish_rows(self, rows: Sequence[OutboxRow]) -> None: ...


@dataclass
class Node:
    presence: Presence
    accounts: Accounts
    outbox: Outbox
    hub: Hub

    async def sign_in(self, principal: Principal) -> Recorder:
        conn = Recorder()
        await self.presence.connected(principal, conn)
        return conn

    async def offer(self, principal: Principal, **change: Any) -> None:
        async with self.outbox.transaction(principal.tenant_id) as tx:
            await self.accounts.update_host(tx, principal.user_id, HostChange(**change))


MakeNode = Callable[[], Awaitable[Node]]
NewUser = Callable[..., Awaitable[Principal]]


@pytest.fixture
async def make(pool: asyncpg.Pool, redis: aioredis.Redis, redis_url: str) -> AsyncIterator[MakeNode]:
    nodes: list[tuple[Presence, Hub, Broker]] = []

    async def make() -> Node:
        broker = Broker(redis_url)
        hub = Hub(broker)
        accounts = Accounts(pool)
        presence = Presence(
            broker,
            hub,
            node=uuid4().hex,
            profiles=accounts,
            resolve=accounts.resolve,
            tracker_options={"heartbeat_s": HEARTBEAT_S, "ttl_ms": TTL_MS},
        )
        accounts.on_host_changed = presence.host_changed
        await hub.start()
        await presence.start()
        nodes.append((presence, hub, broker))
        return Node(presence, accounts, Outbox(pool, Unheard()), hub)

    yield make
    for presence, hub, broker in nodes:
        await presence.close()
        await hub.close()
        await broker.close()


@pytest.fixture
async def one(make: MakeNode) -> Node:
    return await make()


@pytest.fixture
async def two(make: MakeNode) -> Node:
    return await make()


@pytest.fixture
async def new_user(pool: asyncpg.Pool) -> NewUser:
    accounts = Accounts(pool)

    async def new_user(name: str, *, host: bool = False, tenant: str = TENANT) -> Principal:
        tenant_id = await accounts.ensure_tenant(tenant)
        async with pool.acquire() as conn, conn.transaction():
            card = await accounts.ensure_user(conn, tenant_id, name, name.title())
        roles = frozenset({"host"}) if host else frozenset()
        return Principal(tenant_id, tenant, card.user_id, name, roles, f"{name}-phone", 2**53)

    return new_user


def heard(conn: Recorder, event: str) -> list[dict[str, Any]]:
    return [message["data"] for message in conn.events() if message["event"] == event]


async def listed(node: Node, viewer: Principal, query: Query | None = None) -> list[str]:
    page = await node.presence.hosts(viewer, query or Query(), limit=50, cursor=None)
    return [host.user for host in page.hosts]


async def test_watchers_on_another_node_get_diffs(one: Node, two: Node, new_user: NewUser) -> None:
    anna, ben = await new_user("anna"), await new_user("ben")
    watcher = await one.sign_in(ben)
    states = await one.presence.watch(watcher, ben, ["anna", "nobody"])
    assert [(state.user, state.status) for state in states] == [("anna", "offline")]

    conn = await two.sign_in(anna)
    await until(lambda: bool(heard(watcher, "presence.diff")), "the join came")
    (join,) = heard(watcher, "presence.diff")[0]["joins"]
    assert (join["user"], join["status"], join["bookable"]) == ("anna", "online", True)

    await two.presence.set_status(anna, "dnd")
    await until(lambda: len(heard(watcher, "presence.diff")) == 2, "the change came")
    assert heard(watcher, "presence.diff")[1]["joins"][0]["status"] == "dnd"

    await two.presence.disconnected(anna, conn)
    await until(lambda: len(heard(watcher, "presence.diff")) == 3, "the leave came")
    last = heard(watcher, "presence.diff")[2]
    assert last["joins"] == []
    assert [state["user"] for state in last["leaves"]] == ["anna"]
    assert all("offset" not in event and event["stream"] == "presence" for event in watcher.events())


async def test_flapping_is_told_once(one: Node, new_user: NewUser) -> None:
    anna, ben = await new_user("anna"), await new_user("ben")
    watcher = await one.sign_in(ben)
    await one.presence.watch(watcher, ben, ["anna"])
    for _ in range(20):
        await one.presence.disconnected(anna, await one.sign_in(anna))
    await one.sign_in(anna)
    await until(lambda: bool(heard(watcher, "presence.diff")), "a diff came")

    def settled() -> bool:
        return bool(heard(watcher, "presence.diff")[-1]["joins"])

    await until(settled, "she is online in the end")
    assert len(heard(watcher, "presence.diff")) <= 4


async def test_who_no_longer_watches_hears_nothing(one: Node, new_user: NewUser) -> None:
    anna, ben, cleo = await new_user("anna"), await new_user("ben"), await new_user("cleo")
    former, watcher = await one.sign_in(ben), await one.sign_in(cleo)
    await one.presence.watch(former, ben, ["anna"])
    await one.presence.watch(watcher, cleo, ["anna"])
    await one.presence.unwatch(former, ben, ["anna"])
    await one.sign_in(anna)
    await until(lambda: bool(heard(watcher, "presence.diff")), "the other watcher hears it")
    assert heard(former, "presence.diff") == []


async def test_equal_diffs_are_one_frame_for_all_watchers(one: Node, new_user: NewUser) -> None:
    anna, ben = await new_user("anna"), await new_user("ben")
    watchers = [await one.sign_in(ben) for _ in range(3)]
    for conn in watchers:
        await one.presence.watch(conn, ben, ["anna"])
    await one.sign_in(anna)
    await until(lambda: all(heard(conn, "presence.diff") for conn in watchers), "all of them hear it")
    assert watchers[0].frames[-1] is watchers[1].frames[-1] is watchers[2].frames[-1]


async def test_a_tenant_cannot_watch_another_tenants_users(one: Node, new_user: NewUser) -> None:
    await new_user("anna")
    stranger = await new_user("ben", tenant="other")
    assert await one.presence.watch(Recorder(), stranger, ["anna"]) == []


async def test_a_connection_watches_a_limited_number(one: Node, pool: asyncpg.Pool, new_user: NewUser) -> None:
    ben = await new_user("ben")
    names = [f"u{n}" for n in range(501)]
    await pool.executemany(
        "insert into realtime.users (id, tenant_id, external_id) values ($1, $2, $3)",
        [(1_000_000 + n, ben.tenant_id, name) for n, name in enumerate(names)],
    )
    conn = Recorder()
    assert len(await one.presence.watch(conn, ben, names[:500])) == 500
    with pytest.raises(TooManyPending):
        await one.presence.watch(conn, ben, names[500:])
    assert len(await one.presence.watch(conn, ben, names[:100])) == 100, "those that it watches already are no more"


async def test_hosts_appear_and_disappear_with_their_presence(one: Node, two: Node, new_user: NewUser) -> None:
    anna, ben = await new_user("anna", host=True), await new_user("ben")
    await one.offer(anna, headline="Hello", languages=("hi",), price_coins=12)
    viewer = await two.sign_in(ben)
    assert (await two.presence.watch_hosts(viewer, ben)).hosts == []

    conn = await one.sign_in(anna)
    await until(lambda: bool(heard(viewer, "hosts.diff")), "the host joined")
    (card,) = heard(viewer, "hosts.diff")[0]["joins"]
    assert (card["user"], card["name"], card["headline"], card["price_coins"]) == ("anna", "Anna", "Hello", 12)
    assert (card["status"], card["bookable"]) == ("online", True)
    assert await listed(two, ben, Query(languages=("hi",))) == ["anna"]
    assert await listed(two, ben, Query(languages=("ta",))) == []

    await one.presence.tracker.set_busy([anna.user_id], True)
    await until(lambda: len(heard(viewer, "hosts.diff")) == 2, "she is busy")
    card = heard(viewer, "hosts.diff")[1]["joins"][0]
    assert (card["status"], card["bookable"]) == ("busy", False)

    await one.presence.disconnected(anna, conn)
    await one.presence.tracker.set_busy([anna.user_id], False)
    await until(lambda: heard(viewer, "hosts.diff")[-1]["leaves"] == ["anna"], "she left")
    assert await listed(two, ben) == []


async def test_a_new_price_reaches_the_directory_and_its_watchers(one: Node, two: Node, new_user: NewUser) -> None:
    anna, ben = await new_user("anna", host=True), await new_user("ben")
    await one.offer(anna, price_coins=12)
    await one.sign_in(anna)
    viewer = await two.sign_in(ben)

    async def there() -> bool:
        return await listed(two, ben) == ["anna"]

    await until(there, "she is listed")
    await two.presence.watch_hosts(viewer, ben)
    await one.offer(anna, price_coins=99)

    def told() -> bool:
        diffs = heard(viewer, "hosts.diff")
        return bool(diffs) and diffs[-1]["joins"][0]["price_coins"] == 99

    await until(told, "watchers know the new price")
    assert await listed(two, ben, Query(max_price_coins=50)) == []


async def test_callers_are_in_no_directory_and_tenants_have_their_own(
    one: Node, new_user: NewUser, pool: asyncpg.Pool
) -> None:
    anna, ben = await new_user("anna", host=True), await new_user("ben")
    stranger = await new_user("zoe", tenant="other")
    await one.offer(anna, price_coins=1)
    await one.sign_in(ben)
    await one.sign_in(anna)

    async def there() -> bool:
        return await listed(one, ben) == ["anna"]

    await until(there, "only the host is listed")
    assert await listed(one, stranger) == []


async def test_the_directory_comes_back_after_a_loss_of_redis(
    one: Node, two: Node, new_user: NewUser, redis: aioredis.Redis
) -> None:
    anna, ben = await new_user("anna", host=True), await new_user("ben")
    await one.offer(anna, price_coins=1)
    await one.sign_in(anna)

    async def there() -> bool:
        return await listed(two, ben) == ["anna"]

    await until(there, "she is listed")
    await redis.flushall()
    await until(there, "she is listed again")


async def test_a_made_up_cursor_is_invalid_data(one: Node, new_user: NewUser) -> None:
    with pytest.raises(InvalidData) as caught:
        await one.presence.hosts(await new_user("ben"), Query(), limit=5, cursor="next")
    assert caught.value.details == {"path": "$.cursor"}


async def test_what_a_cut_link_hid_from_watchers_is_shown_when_it_is_back(
    make: MakeNode, new_user: NewUser, redis_url: str
) -> None:
    """Both kinds of watchers: of a user, and of the directory."""
    one, two = await make(), await make()
    anna, cleo, ben = await new_user("anna", host=True), await new_user("cleo", host=True), await new_user("ben")
    for host in (anna, cleo):
        await one.offer(host, price_coins=1)
    conn = await one.sign_in(anna)
    viewer = await two.sign_in(ben)

    async def there() -> bool:
        return await listed(two, ben) == ["anna"]

    await until(there, "she is listed")
    await two.presence.watch_hosts(viewer, ben)
    await two.presence.watch(viewer, ben, ["anna", "cleo"])
    silence(two)
    await one.presence.disconnected(anna, conn)
    await one.sign_in(cleo)

    async def changed() -> bool:
        return await listed(two, ben) == ["cleo"]

    await until(changed, "the directory has changed")
    await until(lambda: not one.presence._changes, "everything was told")
    assert heard(viewer, "hosts.diff") == []
    restore(two, [directory_topic(ben.tenant_id), presence_topic(anna.user_id), presence_topic(cleo.user_id)])
    await until(lambda: bool(heard(viewer, "hosts.diff") and heard(viewer, "presence.diff")), "watchers are told")
    diff = heard(viewer, "hosts.diff")[0]
    assert ([card["user"] for card in diff["joins"]], diff["leaves"]) == (["cleo"], ["anna"])
    diff = heard(viewer, "presence.diff")[0]
    assert [[state["user"] for state in diff[which]] for which in ("joins", "leaves")] == [["cleo"], ["anna"]]


def silence(node: Node) -> None:
    """Let no news in, as a cut link does."""
    node.hub.broker._sink = None


def restore(node: Node, topics: list[str]) -> None:
    """Let news in again and say what was missed, as the subscriber does."""
    node.hub.broker._sink = node.hub
    node.hub.restored(topics)
