"""The same promises on a Redis Cluster: sharded pub/sub, scripts on every master, slots that move."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import RedisCluster
from redis.crc import key_slot

from presence.directory import Directory, Host, Query
from presence.tracker import Person, Tracker
from realtime.broker import Position, user_stream
from realtime.protocol.errors import Unavailable
from tests.broker.cluster import Cluster
from tests.broker.conftest import MakeNode, Node
from tests.broker.support import Recorder, outgoing, until

USERS = range(1, 61)
RETURNS_MAX = 3  # of a client while its stream moves to another master


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder).start()
    yield cluster
    cluster.stop()


async def sign_in(node: Node, user_id: int, position: Position | None = None) -> Recorder:
    conn = Recorder()
    await node.hub.open_stream(conn, user_id, position)
    node.hub.flow(conn)
    return conn


async def test_events_cross_nodes_over_sharded_channels_of_all_masters(make_node: MakeNode, cluster: Cluster) -> None:
    one, two = await make_node(cluster.url), await make_node(cluster.url)
    conns = {user_id: await sign_in(two, user_id) for user_id in USERS}
    told = await one.broker.publish([outgoing(user_id, n) for n in (1, 2, 3) for user_id in USERS])
    assert told == [1] * len(told)
    await until(lambda: all(conn.offsets() == [1, 2, 3] for conn in conns.values()), "everybody has three events")
    channels = [int(cluster.ask(node, "PUBSUB", "SHARDNUMSUB") == "[]") for node in cluster.nodes]
    assert len(channels) == 3
    sharded = [len(cluster.ask(node, "PUBSUB", "SHARDCHANNELS").split(",")) for node in cluster.nodes]
    assert sum(sharded) == len(USERS)
    assert all(count > 1 for count in sharded)


async def test_replay_on_a_cluster(make_node: MakeNode, cluster: Cluster) -> None:
    node = await make_node(cluster.url)
    for user_id in USERS:
        await node.broker.publish([outgoing(user_id, n) for n in (1, 2, 3)])
    heads = await node.broker.positions([user_stream(user_id) for user_id in USERS])
    for user_id, head in zip(USERS, heads, strict=True):
        conn = await sign_in(node, user_id, Position(head.epoch, 1))
        assert conn.offsets() == [2, 3]


async def test_a_slot_that_moves_takes_its_stream_along_and_loses_nothing(
    make_node: MakeNode, cluster: Cluster
) -> None:
    node = await make_node(cluster.url)
    conn = await sign_in(node, 1)
    await node.broker.publish([outgoing(1, 1)])
    await until(lambda: conn.offsets() == [1], "events flow")
    keys = node.broker.keys.stream(user_stream(1))
    slot = key_slot(keys.meta.encode())
    source = next(one for one in cluster.nodes if keys.channel in cluster.ask(one, "PUBSUB", "SHARDCHANNELS"))
    target = next(one for one in cluster.nodes if one is not source)
    await asyncio.to_thread(cluster.move_slot, slot, source, target)

    async def taken() -> bool:
        try:
            await node.broker.publish([outgoing(1, 2, event_id="00000000-0000-7000-8000-000000000002")])
        except Unavailable:
            return False
        return True

    await until(taken, "the event was taken by the new master")
    # The new master did not begin the epoch, so the socket is sent for a snapshot; it could not know of a failover.
    await until(lambda: conn.closed_with is not None or conn.offsets() == [1, 2], "the socket knows")

    # It may be sent away once more, when it came before the hub had looked at the new master; then it comes again.
    def heard(socket: Recorder) -> bool:
        return bool(socket.frames or socket.closed_with)

    for number in range(3, 3 + RETURNS_MAX):
        node.hub.detach(conn)
        conn = await sign_in(node, 1)
        await until(
            lambda: keys.channel in cluster.ask(target, "PUBSUB", "SHARDCHANNELS"), "listening at the new master"
        )
        await node.broker.publish([outgoing(1, number)])
        await until(partial(heard, conn), "an event or a word to come again")
        if conn.frames:
            break
    assert conn.frames, "events flow again"


async def test_a_master_that_restarts_is_found_again(make_node: MakeNode, cluster: Cluster) -> None:
    node = await make_node(cluster.url)
    conns = {user_id: await sign_in(node, user_id) for user_id in USERS}
    await node.broker.publish([outgoing(user_id, 1) for user_id in USERS])
    await until(lambda: all(conn.offsets() == [1] for conn in conns.values()), "everybody has one event")
    victim = cluster.nodes[1]
    hit = [u for u in USERS if 5462 <= key_slot(node.broker.keys.stream(user_stream(u)).meta.encode()) <= 10923]
    assert 0 < len(hit) < len(USERS)
    victim.kill()
    await asyncio.to_thread(victim.start)
    await until(lambda: all(conns[user_id].closed_with for user_id in hit), "its users are told to come again")
    assert not any(conn.closed_with for user_id, conn in conns.items() if user_id not in hit)
    for user_id in hit:
        node.hub.detach(conns[user_id])
        conns[user_id] = await sign_in(node, user_id)

    async def taken() -> bool:
        try:
            await node.broker.publish([outgoing(user_id, 2) for user_id in hit])
        except Unavailable:
            return False
        return True

    await until(taken, "the restarted master takes events")
    await until(lambda: all(conns[user_id].frames for user_id in hit), "and they arrive")


async def test_presence_and_directory_on_a_cluster(cluster: Cluster) -> None:
    client = RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port)
    trackers = [Tracker(client, node=uuid4().hex, heartbeat_s=0.1, ttl_ms=600) for _ in range(2)]
    directory = Directory(client)
    try:
        for tracker in trackers:
            await tracker.start()
        for user_id in USERS:
            await trackers[user_id % 2].connected(Person(user_id, 1, f"u{user_id}", host=True), user_id, "phone")
        assert await trackers[0].online(USERS) == set(USERS)
        task = trackers[1]._task
        assert task is not None
        task.cancel()

        async def gone() -> bool:
            return await trackers[0].online(USERS) == {user_id for user_id in USERS if user_id % 2 == 0}

        await until(gone, "the dead node's users are offline")
        await directory.put(1, Host(user_id=1, version=1, card=b"a", languages=("hi",), tags=("x",)))
        await directory.put(1, Host(user_id=2, version=1, card=b"b", languages=("en",), tags=("x",)))
        page = await directory.query(1, Query(languages=("hi", "en"), tags=("x",)), limit=1)
        assert page.hosts == [(1, b"a")]
        rest = await directory.query(1, Query(languages=("hi", "en"), tags=("x",)), limit=1, cursor=page.cursor)
        assert (rest.hosts, rest.cursor) == ([(2, b"b")], None)
    finally:
        for tracker in trackers:
            await tracker.close()
        await directory.close()
        await client.aclose()
