"""Redis away, back, restarted; nodes killed; links cut. The long run is `python -m tests.broker.chaos`."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from realtime.broker import Position, user_stream
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.errors import Unavailable
from tests.broker import chaos
from tests.broker.conftest import MakeNode, Node
from tests.broker.proxy import Proxy
from tests.broker.support import Recorder, Valkey, free_ports, outgoing, until

USER = 7


async def sign_in(node: Node, position: Position | None = None) -> Recorder:
    conn = Recorder()
    await node.hub.open_stream(conn, USER, position)
    node.hub.flow(conn)
    return conn


async def published(node: Node, number: int) -> None:
    """Publish as the outbox's relay does: again until it was taken."""
    event = outgoing(USER, number)

    async def taken() -> bool:
        try:
            await node.broker.publish([event])
        except Unavailable:
            return False
        return True

    await until(taken, "the event was taken")


@pytest.mark.crash
async def test_no_event_is_lost_or_doubled_when_nodes_links_and_redis_fail() -> None:
    figures = await chaos.run(4_000, rate_per_s=400, cut_s=7, deaf_s=0.5)
    assert figures.errors == []
    assert figures.published >= 4_000
    assert figures.delivered > figures.published
    assert set(figures.faults) == {"redis_restart", "node_kill", "link_cut", "deaf_reader"}


async def test_a_node_starts_while_redis_is_down_and_heals(make_node: MakeNode, folder: Path) -> None:
    server = Valkey(folder)
    node = await make_node(server.url)
    with pytest.raises(Unavailable):
        await node.broker.publish([outgoing(USER, 1)])
    conn = Recorder()
    replay = await node.hub.open_stream(conn, USER, None)
    node.hub.flow(conn)
    assert (replay.recovered, replay.epoch) == (False, "")
    try:
        server.start()
        await until(lambda: conn.closed_with is not None, "the socket is told to come again")
        assert conn.closed_with == CloseCode.RESYNC
        node.hub.detach(conn)
        back = await sign_in(node)
        await published(node, 1)
        await until(lambda: back.offsets() == [1], "events flow")
    finally:
        server.kill()


async def test_a_restart_of_redis_tells_sockets_to_resync(make_node: MakeNode, valkey: Valkey) -> None:
    one, two = await make_node(valkey.url), await make_node(valkey.url)
    conns = [await sign_in(one), await sign_in(two)]
    await published(one, 1)
    await until(lambda: all(conn.offsets() == [1] for conn in conns), "events flow")
    position = Position(conns[0].events()[0]["epoch"], 1)
    valkey.kill()
    await asyncio.to_thread(valkey.start)
    await until(lambda: all(conn.closed_with == CloseCode.RESYNC for conn in conns), "both are told to come again")
    for node, conn in zip((one, two), conns, strict=True):
        node.hub.detach(conn)
    replay = await two.hub.open_stream(Recorder(), USER, position)
    assert not replay.recovered
    assert replay.epoch != position.epoch


async def test_a_restart_that_kept_its_data_still_begins_a_new_epoch(make_node: MakeNode, folder: Path) -> None:
    """With snapshots on disk a restart brings back an old state: what came after it is lost without a trace."""
    server = Valkey(folder, "--save", "3600 100000").start()
    try:
        node = await make_node(server.url)
        await published(node, 1)
        client = server.client()
        await client.save()
        await published(node, 2)
        before = (await node.broker.positions([user_stream(USER)]))[0]
        await client.aclose()
        server.kill()
        await asyncio.to_thread(server.start)
        await published(node, 3)
        after = (await node.broker.positions([user_stream(USER)]))[0]
        assert after.epoch != before.epoch
        assert not (await node.broker.replay(user_stream(USER), before)).recovered
    finally:
        server.kill()


async def test_a_failover_to_a_replica_begins_a_new_epoch(make_node: MakeNode, folder: Path) -> None:
    first, second = free_ports(2)
    master = Valkey(folder, "--repl-diskless-sync-delay", "0", port=first).start()
    replica = Valkey(folder, "--replicaof", "127.0.0.1", str(first), port=second).start()
    try:
        node = await make_node(master.url)
        await published(node, 1)
        before = (await node.broker.positions([user_stream(USER)]))[0]
        client = replica.client()

        async def copied() -> bool:
            return bool(await client.exists(node.broker.keys.stream(user_stream(USER)).log))

        await until(copied, "the replica has the log")
        master.kill()
        await client.replicaof("NO", "ONE")
        await client.aclose()
        promoted = await make_node(replica.url)
        replay = await promoted.broker.replay(user_stream(USER), before)
        assert not replay.recovered
        assert replay.epoch != before.epoch
    finally:
        master.kill()
        replica.kill()


async def test_what_a_cut_link_swallowed_is_replayed_without_a_reconnect(make_node: MakeNode, folder: Path) -> None:
    server = Valkey(folder, port=free_ports(1)[0]).start()
    proxy = await Proxy(server.port).start()
    try:
        behind, direct = await make_node(f"redis://127.0.0.1:{proxy.port}"), await make_node(server.url)
        conn = await sign_in(behind)
        await published(direct, 1)
        await until(lambda: conn.offsets() == [1], "events flow")
        proxy.cut()
        for number in range(2, 6):
            await published(direct, number)
        proxy.heal()
        await until(lambda: conn.offsets() == [1, 2, 3, 4, 5], "the gap is filled")
        assert conn.closed_with is None
        await published(direct, 6)
        await until(lambda: conn.offsets()[-1] == 6, "events flow again")
    finally:
        await proxy.close()
        server.kill()


async def test_a_publish_whose_answer_was_lost_is_not_doubled_by_the_repeat(
    make_node: MakeNode, valkey: Valkey
) -> None:
    one, two = await make_node(valkey.url), await make_node(valkey.url)
    conn = await sign_in(two)
    assert valkey.process is not None
    await published(one, 1)
    event = outgoing(USER, 2)
    os.kill(valkey.process.pid, signal.SIGSTOP)
    publishing = asyncio.create_task(one.broker.publish([event]))
    with pytest.raises(Unavailable):
        await publishing  # written to the socket, but never answered in time
    os.kill(valkey.process.pid, signal.SIGCONT)
    await until(lambda: conn.offsets() == [1, 2], "it was appended all the same")
    assert await one.broker.publish([event]) == [-1]
    await published(one, 3)
    await until(lambda: conn.offsets() == [1, 2, 3], "and only once")


async def test_a_node_closes_while_redis_is_down(folder: Path, make_node: MakeNode) -> None:
    node = await make_node(Valkey(folder).url)
    waiting = asyncio.create_task(node.hub.open_stream(Recorder(), USER, None))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await node.hub.close()
        await node.broker.close()
    await asyncio.gather(waiting, return_exceptions=True)
