"""Behind Sentinel: the master is asked for, and after a failover the new one is used by publishers and listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from realtime.broker import Position, user_stream
from realtime.protocol.errors import Unavailable
from tests.broker.conftest import MakeNode, Node
from tests.broker.support import Recorder, Valkey, free_ports, outgoing, until

USER = 7
CONFIG = """
sentinel monitor calls 127.0.0.1 {master} 1
sentinel down-after-milliseconds calls 500
sentinel failover-timeout calls 3000
sentinel parallel-syncs calls 1
"""


@dataclass
class Deployment:
    master: Valkey
    replica: Valkey
    sentinel: Valkey

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/calls"


class SentinelProcess(Valkey):
    def command(self) -> list[str]:
        config = self.folder / "sentinel.conf"
        return [super().command()[0], str(config), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"]


@pytest.fixture
def deployment(folder: Path) -> Iterator[Deployment]:
    first, second, third = free_ports(3)
    (folder / "sentinel.conf").write_text(CONFIG.format(master=first))
    master = Valkey(folder, "--repl-diskless-sync-delay", "0", port=first)
    replica = Valkey(folder, "--replicaof", "127.0.0.1", str(first), port=second)
    sentinel = SentinelProcess(folder, port=third)
    servers = (master, replica, sentinel)
    try:
        for server in servers:
            server.start()
        yield Deployment(*servers)
    finally:
        for server in servers:
            server.kill()


async def sign_in(node: Node, position: Position | None = None) -> Recorder:
    conn = Recorder()
    await node.hub.open_stream(conn, USER, position)
    node.hub.flow(conn)
    return conn


async def test_a_failover_moves_publishers_and_listeners_and_begins_a_new_epoch(
    make_node: MakeNode, deployment: Deployment
) -> None:
    one, two = await make_node(deployment.url), await make_node(deployment.url)
    conn = await sign_in(two)
    await one.broker.publish([outgoing(USER, 1)])
    await until(lambda: conn.offsets() == [1], "events flow")
    before = (await one.broker.positions([user_stream(USER)]))[0]
    await until(lambda: replicas_known(deployment) == 1, "the sentinel knows the replica")

    await asyncio.to_thread(deployment.master.kill)
    event = outgoing(USER, 2)

    async def taken() -> bool:
        try:
            await one.broker.publish([event])
        except Unavailable:
            return False
        return True

    await until(taken, "the new master takes events", timeout_s=30)
    await until(lambda: conn.closed_with is not None, "the socket is told to come again")
    two.hub.detach(conn)
    back = await sign_in(two, before)
    assert (await one.broker.positions([user_stream(USER)]))[0].epoch != before.epoch

    async def heard() -> bool:
        await one.broker.publish([outgoing(USER, 3)])
        return bool(back.frames) or back.closed_with is not None

    await until(heard, "events flow from the new master")


def replicas_known(deployment: Deployment) -> int:
    with redis.Redis(port=deployment.sentinel.port, decode_responses=True) as client:
        return int(client.sentinel_master("calls")["num-slaves"])
