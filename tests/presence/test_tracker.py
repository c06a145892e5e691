"""Presence over several nodes: devices, deaths, losses of Redis."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection
from pathlib import Path

import pytest
import redis.asyncio as aioredis

from presence.batch import PresenceUnavailable
from presence.states import Status
from presence.tracker import Person
from tests.broker.support import Valkey, until
from tests.presence.conftest import MakeNode, Node

ANNA = Person(1, 7, "anna", host=True)
BEN = Person(2, 7, "ben")


async def status(node: Node, user_id: int) -> Status:
    return (await node.tracker.states([user_id]))[user_id].status


async def started(make: MakeNode, **options: object) -> Node:
    node = make(**options)
    await node.tracker.start()
    return node


async def test_a_user_is_online_for_all_nodes_as_soon_as_one_has_a_socket(make_node: MakeNode) -> None:
    one, two = await started(make_node), await started(make_node)
    await one.tracker.connected(ANNA, 1, "phone")
    state = (await two.tracker.states([1, 2]))[1]
    assert state.status is Status.ONLINE
    assert state.bookable
    assert (state.tenant_id, state.external_id, state.host) == (7, "anna", True)
    assert await two.tracker.online([1, 2]) == {1}
    assert one.statuses(1) == ["online"]


async def test_a_node_that_has_just_started_counts_at_once(make_node: MakeNode) -> None:
    one = await started(make_node)
    await one.tracker.states([1])
    two = await started(make_node)
    await two.tracker.connected(ANNA, 1, "phone")
    assert await status(one, 1) is Status.ONLINE


async def test_the_last_device_to_leave_makes_the_user_offline(make_node: MakeNode) -> None:
    one, two = await started(make_node), await started(make_node)
    await one.tracker.connected(ANNA, 1, "phone")
    await two.tracker.connected(ANNA, 1, "tablet")
    await one.tracker.disconnected(1, 1)
    assert await status(one, 1) is Status.ONLINE
    await two.tracker.disconnected(1, 1)
    gone = (await one.tracker.states([1]))[1]
    assert gone.status is Status.OFFLINE
    assert gone.last_seen_ms > 0
    assert one.statuses(1) == ["online"]
    assert two.statuses(1) == ["offline"]


async def test_away_is_of_one_device_and_dnd_of_all(make_node: MakeNode) -> None:
    node = await started(make_node)
    await node.tracker.connected(ANNA, 1, "phone")
    await node.tracker.connected(ANNA, 2, "tablet")
    await node.tracker.set_status(1, "away", device_id="phone")
    assert await status(node, 1) is Status.ONLINE
    await node.tracker.set_status(1, "away", device_id="tablet")
    assert await status(node, 1) is Status.AWAY
    await node.tracker.set_status(1, "dnd", device_id="phone")
    assert await status(node, 1) is Status.DND
    await node.tracker.set_status(1, "online", device_id="phone")
    assert await status(node, 1) is Status.ONLINE


async def test_busy_and_reserved_take_a_host_off_the_market_and_give_her_back(make_node: MakeNode) -> None:
    node = await started(make_node)
    await node.tracker.connected(ANNA, 1, "phone")
    await node.tracker.set_busy([1, 2], True)
    state = (await node.tracker.states([1]))[1]
    assert (state.status, state.bookable, state.rings) == (Status.BUSY, False, True)
    await node.tracker.set_busy([1, 2], False)
    await node.tracker.set_reserved([1], True)
    state = (await node.tracker.states([1]))[1]
    assert (state.status, state.bookable) == (Status.ONLINE, False)
    await node.tracker.set_reserved([1], False)
    assert (await node.tracker.states([1]))[1].bookable


async def test_a_sleeping_phone_that_push_reaches_is_bookable(make_node: MakeNode) -> None:
    node = await started(make_node)
    await node.tracker.connected(ANNA, 1, "phone")
    await node.tracker.set_push_reachable([1], True)
    await node.tracker.disconnected(1, 1)
    state = (await node.tracker.states([1]))[1]
    assert (state.status, state.bookable, state.listed) == (Status.OFFLINE, True, True)


async def test_users_of_a_dead_node_go_offline_and_others_are_told(make_node: MakeNode) -> None:
    one, two = await started(make_node), await started(make_node)
    for user_id in range(1, 21):
        await two.tracker.connected(Person(user_id, 7, f"u{user_id}"), user_id, "phone")
    await one.tracker.connected(Person(20, 7, "u20"), 1, "tablet")
    await two.die()
    await until(lambda: len({state.user_id for state in one.heard if state.status is Status.OFFLINE}) == 19, "19 leave")
    assert await one.tracker.online(range(1, 21)) == {20}
    assert "offline" not in one.statuses(20)


async def test_a_dead_nodes_users_are_offline_for_readers_before_anybody_swept(make_node: MakeNode) -> None:
    one, two = await started(make_node), await started(make_node)
    await two.tracker.connected(ANNA, 1, "phone")
    await two.die()
    await until(lambda: bool(one.statuses(1)), "the leave is told")
    assert one.statuses(1) == ["offline"]


async def test_a_stalled_node_that_comes_back_has_its_users_online_again(make_node: MakeNode) -> None:
    one, two = await started(make_node), await started(make_node)
    await two.tracker.connected(ANNA, 1, "phone")
    await two.die()
    await until(lambda: one.statuses(1) == ["offline"], "it was given up")
    two.tracker._task = asyncio.create_task(two.tracker._live())
    await until(lambda: "online" in two.statuses(1)[1:], "its users are back")
    assert await status(one, 1) is Status.ONLINE
    await two.tracker.disconnected(1, 1)
    assert await status(one, 1) is Status.OFFLINE


async def test_a_node_that_leaves_takes_its_users_along_at_once(make_node: MakeNode) -> None:
    one, two = await started(make_node), await started(make_node)
    await two.tracker.connected(ANNA, 1, "phone")
    await two.tracker.close()
    assert await status(one, 1) is Status.OFFLINE


async def test_presence_is_rebuilt_from_live_sockets_when_redis_lost_everything(
    make_node: MakeNode, redis: aioredis.Redis
) -> None:
    one, two = await started(make_node), await started(make_node)
    for user_id in range(1, 41):
        await (one, two)[user_id % 2].tracker.connected(Person(user_id, 7, f"u{user_id}"), user_id, "phone")
    await one.tracker.set_status(2, "dnd", device_id="phone")
    await redis.flushall()

    async def back() -> bool:
        return len(await one.tracker.online(range(1, 41))) == 40

    await until(back, "everybody is online again")
    assert await status(two, 2) is Status.DND


async def test_a_restart_of_redis_is_survived_with_what_happened_meanwhile(make_node: MakeNode, tmp_path: Path) -> None:
    server = Valkey(tmp_path).start()
    try:
        node = await started(make_node, url=server.url)
        await node.tracker.connected(ANNA, 1, "phone")
        await node.tracker.connected(BEN, 2, "phone")
        server.kill()
        assert await node.tracker.disconnected(2, 2) is None
        assert await node.tracker.connected(Person(3, 7, "cleo"), 3, "phone") is None
        with pytest.raises(PresenceUnavailable):
            await node.tracker.states([1])
        server.start()

        async def back() -> bool:
            try:
                return await node.tracker.online([1, 2, 3]) == {1, 3}
            except PresenceUnavailable:
                return False

        await until(back, "live sockets are online, and only they")
        assert node.statuses(3) == ["online"]
    finally:
        server.kill()


async def test_a_disconnect_during_a_cut_link_is_made_good(make_node: MakeNode, tmp_path: Path) -> None:
    """Redis keeps its data but does not answer: what was taken off meanwhile must not stay online."""
    server = Valkey(tmp_path).start()
    try:
        one, two = await started(make_node, url=server.url), await started(make_node, url=server.url)
        await one.tracker.connected(ANNA, 1, "phone")
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        one.client.connection_pool.connection_kwargs["socket_timeout"] = 0.2
        await one.client.connection_pool.disconnect()
        assert await one.tracker.disconnected(1, 1) is None
        os.kill(server.process.pid, signal.SIGCONT)

        async def gone() -> bool:
            try:
                return not await two.tracker.online([1])
            except PresenceUnavailable:
                return False

        await until(gone, "the user is offline")
    finally:
        server.kill()


async def test_busy_marks_are_mended_from_the_calls(make_node: MakeNode, redis: aioredis.Redis) -> None:
    calls = {1}

    async def busy_of(user_ids: Collection[int]) -> set[int]:
        return calls & set(user_ids)

    node = await started(make_node, busy_of=busy_of)
    await node.tracker.connected(ANNA, 1, "phone")
    await until(lambda: node.statuses(1)[-1:] == ["busy"], "a mark that was missed is set")
    calls.clear()
    await until(lambda: node.statuses(1)[-1:] == ["online"], "a mark that was left over is taken off")


async def test_whom_push_can_wake_is_known_again_when_redis_lost_everything(
    make_node: MakeNode, redis: aioredis.Redis
) -> None:
    async def woken_of(user_ids: Collection[int]) -> set[int]:
        return {1} & set(user_ids)

    node = await started(make_node, woken_of=woken_of)
    await node.tracker.connected(ANNA, 1, "phone")
    await redis.flushall()

    async def told() -> bool:
        return (await node.tracker.states([1]))[1].push_reachable

    await until(told, "the mark is back")
    await node.tracker.disconnected(1, 1)
    assert (await node.tracker.states([1]))[1].rings, "and she can be rung while her phone sleeps"


async def test_versions_go_on_growing_after_a_loss_of_redis(make_node: MakeNode, redis: aioredis.Redis) -> None:
    node = await started(make_node)
    for _ in range(50):
        await node.tracker.set_busy([1], True)
        await node.tracker.set_busy([1], False)
    before = (await node.tracker.states([1]))[1].version
    await redis.flushall()
    await node.tracker.connected(ANNA, 1, "phone")
    assert (await node.tracker.states([1]))[1].version > before
