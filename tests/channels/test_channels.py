"""Channels over two nodes: messages, history, resume, members, limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio as aioredis

from realtime.broker import Broker, Position
from realtime.channels.messages import ChannelJoinOk
from realtime.channels.policy import Action
from realtime.channels.service import Channels, key
from realtime.hub import Hub
from realtime.protocol.errors import Forbidden, PayloadTooLarge, TooManyPending
from realtime.protocol.later import Later
from realtime.protocol.principal import Principal
from tests.broker.support import Recorder, until

TTL_MS = 600


@dataclass
class Node:
    channels: Channels
    hub: Hub
    upkeep: asyncio.Task[None]

    async def join(
        self, conn: Recorder, who: Principal, name: str, position: Position | None = None, history: int = 20
    ) -> ChannelJoinOk:
        joined = await self.channels.join(conn, who, name, position, history)
        self.hub.flow(conn, key(who, name))
        return joined

    async def say(self, conn: Recorder, who: Principal, name: str, data: Any, **options: Any) -> Any:
        options = {"ephemeral": False, "message_id": None} | options
        published = self.channels.publish(conn, who, name, data, **options)
        return await published if isinstance(published, Later) else published


MakeNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def make(redis: aioredis.Redis, redis_url: str) -> AsyncIterator[MakeNode]:
    nodes: list[tuple[Node, Broker]] = []

    async def make(**options: Any) -> Node:
        broker = Broker(redis_url)
        hub = Hub(broker)
        await hub.start()
        channels = Channels(broker, hub, node=uuid4().hex, ttl_ms=TTL_MS, **options)
        nodes.append((Node(channels, hub, asyncio.create_task(channels.run())), broker))
        return nodes[-1][0]

    yield make
    for node, broker in nodes:
        node.upkeep.cancel()
        await asyncio.gather(node.upkeep, return_exceptions=True)
        await node.channels.close()
        await node.hub.close()
        await broker.close()


@pytest.fixture
async def one(make: MakeNode) -> Node:
    return await make()


@pytest.fixture
async def two(make: MakeNode) -> Node:
    return await make()


def user(name: str, tenant_id: int = 1) -> Principal:
    return Principal(tenant_id, f"t{tenant_id}", sum(name.encode()), name, frozenset(), f"{name}-phone", 2**53)


ANNA, BEN, CLEO = user("anna"), user("ben"), user("cleo")


def heard(conn: Recorder, event: str = "channel.message") -> list[dict[str, Any]]:
    return [message["data"] for message in conn.events() if message["event"] == event]


def told(conn: Recorder, which: str, user: str) -> bool:
    return any(user in diff[which] for diff in heard(conn, "channel.presence"))


def texts(conn: Recorder) -> list[Any]:
    return [data["data"] for data in heard(conn)]


async def test_a_message_reaches_all_members_on_all_nodes_in_order(one: Node, two: Node) -> None:
    anna, ben = Recorder(), Recorder()
    await one.join(anna, ANNA, "lobby")
    await two.join(ben, BEN, "lobby")
    for n in range(5):
        await one.say(anna, ANNA, "lobby", n)
        await two.say(ben, BEN, "lobby", n + 100)
    await until(lambda: len(texts(anna)) == len(texts(ben)) == 10, "ten messages at both")
    assert texts(anna) == texts(ben)
    first = anna.events()[0] if anna.events()[0]["event"] == "channel.message" else anna.events()[1]
    assert first["stream"] == "channel:lobby"
    assert first["data"]["from"] in ("anna", "ben")


async def test_history_comes_on_join_and_goes_on_without_a_gap(one: Node, two: Node) -> None:
    anna, ben = Recorder(), Recorder()
    await one.join(anna, ANNA, "lobby")
    for n in range(1, 31):
        await one.say(anna, ANNA, "lobby", n)
    joined = await two.channels.join(ben, BEN, "lobby", None, 10)
    assert not joined.recovered
    assert [entry.data["data"] for entry in joined.history] == list(range(21, 31))
    await one.say(anna, ANNA, "lobby", 31)
    two.hub.flow(ben, key(BEN, "lobby"))
    await until(lambda: texts(ben) == [31], "the next message follows")
    assert joined.offset == 30


async def test_rejoining_with_a_position_replays_what_was_missed(one: Node, two: Node) -> None:
    anna, ben = Recorder(), Recorder()
    await one.join(anna, ANNA, "lobby")
    joined = await one.join(ben, BEN, "lobby")
    one.channels.forget(ben)
    for n in range(3):
        await one.say(anna, ANNA, "lobby", n)
    back = Recorder()
    again = await two.join(back, BEN, "lobby", Position(joined.epoch, joined.offset))
    assert again.recovered
    assert again.history == []
    assert texts(back) == [0, 1, 2]


async def test_ephemeral_messages_are_in_no_log(one: Node) -> None:
    anna, ben = Recorder(), Recorder()
    await one.join(anna, ANNA, "lobby")
    place = await one.say(anna, ANNA, "lobby", "typing", ephemeral=True)
    assert (place.epoch, place.offset) == ("", 0)
    await until(lambda: texts(anna) == ["typing"], "it comes")
    assert (await one.join(ben, BEN, "lobby")).history == []


async def test_a_repeat_of_a_message_is_published_once(one: Node) -> None:
    anna = Recorder()
    await one.join(anna, ANNA, "lobby")
    first = await one.say(anna, ANNA, "lobby", "hi", message_id="m1")
    again = await one.say(anna, ANNA, "lobby", "hi", message_id="m1")
    assert (first.offset, first.event_id) == (again.offset, again.event_id)
    await one.say(anna, ANNA, "lobby", "end")
    await until(lambda: texts(anna)[-1:] == ["end"], "the last message came")
    assert texts(anna) == ["hi", "end"]


async def test_a_message_is_framed_once_for_thousands_of_sockets(one: Node) -> None:
    crowd = [Recorder() for _ in range(2_000)]
    await asyncio.gather(*(one.join(conn, CLEO, "hall") for conn in crowd))
    await one.say(crowd[0], CLEO, "hall", "hello")
    await until(lambda: all(texts(conn) == ["hello"] for conn in crowd[-5:]), "the last ones have it")
    frames = {id(frame) for conn in crowd for frame in conn.frames if b"channel.message" in frame}
    assert len(frames) == 1


async def test_members_are_counted_by_user_over_nodes_and_diffs_tell_changes(one: Node, two: Node) -> None:
    watcher, phone, tablet = Recorder(), Recorder(), Recorder()
    assert (await one.join(watcher, ANNA, "lobby")).count == 1
    assert (await one.join(phone, BEN, "lobby")).count == 2
    assert (await two.join(tablet, BEN, "lobby")).count == 2
    listed = await one.channels.presence(watcher, ANNA, "lobby", None, 100)
    assert (listed.count, listed.users, listed.more) == (2, ["anna", "ben"], False)
    await until(lambda: told(watcher, "joins", "ben"), "the join is told")

    one.channels.leave(phone, BEN, "lobby")
    two.channels.leave(tablet, BEN, "lobby")
    await until(lambda: told(watcher, "leaves", "ben"), "the leave is told")
    assert heard(watcher, "channel.presence")[-1]["count"] == 1
    assert sum("ben" in diff["joins"] for diff in heard(watcher, "channel.presence")) == 1


async def test_members_are_listed_a_page_at_a_time(one: Node) -> None:
    conns = [Recorder() for _ in range(5)]
    for n, conn in enumerate(conns):
        await one.join(conn, user(f"u{n}"), "lobby")
    first = await one.channels.presence(conns[0], user("u0"), "lobby", None, 2)
    rest = await one.channels.presence(conns[0], user("u0"), "lobby", first.users[-1], 3)
    assert (first.users, first.more) == (["u0", "u1"], True)
    assert (rest.users, rest.more) == (["u2", "u3", "u4"], False)


async def test_a_dead_nodes_members_leave(one: Node, two: Node) -> None:
    watcher, gone = Recorder(), Recorder()
    await one.join(watcher, ANNA, "lobby")
    await two.join(gone, BEN, "lobby")
    two.upkeep.cancel()
    await until(lambda: told(watcher, "leaves", "ben"), "the leave is told")
    assert (await one.channels.presence(watcher, ANNA, "lobby", None, 10)).users == ["anna"]


async def test_members_are_back_after_a_loss_of_redis(one: Node, two: Node, redis: aioredis.Redis) -> None:
    anna, ben = Recorder(), Recorder()
    await one.join(anna, ANNA, "lobby")
    await two.join(ben, BEN, "lobby")
    await redis.flushall()

    async def both() -> bool:
        return (await one.channels.presence(anna, ANNA, "lobby", None, 10)).users == ["anna", "ben"]

    await until(both, "both are members again")


async def test_who_left_hears_nothing_and_may_not_publish(one: Node) -> None:
    anna, ben = Recorder(), Recorder()
    await one.join(anna, ANNA, "lobby")
    await one.join(ben, BEN, "lobby")
    one.channels.leave(ben, BEN, "lobby")
    await one.say(anna, ANNA, "lobby", "secret")
    await until(lambda: texts(anna) == ["secret"], "members hear it")
    assert texts(ben) == []
    with pytest.raises(Forbidden):
        await one.say(ben, BEN, "lobby", "hello")
    with pytest.raises(Forbidden):
        await one.channels.presence(ben, BEN, "lobby", None, 10)


async def test_tenants_have_channels_of_their_own(one: Node) -> None:
    anna, stranger = Recorder(), Recorder()
    await one.join(anna, ANNA, "lobby")
    assert (await one.join(stranger, user("zoe", 2), "lobby")).count == 1
    await one.say(anna, ANNA, "lobby", "ours")
    await until(lambda: texts(anna) == ["ours"], "it came")
    assert texts(stranger) == []


async def test_the_policy_decides_who_joins_and_publishes(make: MakeNode) -> None:
    class Members:
        async def may(self, principal: Principal, channel: str, action: Action) -> bool:
            return principal.user == "anna" or (action is Action.JOIN and channel == "open")

    node, anna, ben = await make(policy=Members()), Recorder(), Recorder()
    await node.join(anna, ANNA, "closed")
    await node.join(ben, BEN, "open")
    with pytest.raises(Forbidden):
        await node.join(ben, BEN, "closed")
    with pytest.raises(Forbidden):
        await node.say(ben, BEN, "open", "x")


async def test_only_the_server_publishes_to_reserved_channels(one: Node) -> None:
    anna = Recorder()
    await one.join(anna, ANNA, "system:news")
    with pytest.raises(Forbidden):
        await one.say(anna, ANNA, "system:news", "x")


async def test_limits_on_size_and_number(one: Node) -> None:
    anna = Recorder()
    await one.join(anna, ANNA, "c0")
    with pytest.raises(PayloadTooLarge):
        await one.say(anna, ANNA, "c0", "x" * 9_000)
    for n in range(1, 100):
        await one.join(anna, ANNA, f"c{n}")
    with pytest.raises(TooManyPending):
        await one.join(anna, ANNA, "c100")
    assert (await one.join(anna, ANNA, "c5")).channel == "c5"
