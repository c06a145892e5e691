"""Resume, gaps, and fan-out on one and two nodes."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import redis.asyncio as aioredis

from realtime.broker import Position, StreamEvent, user_stream
from realtime.encoded import EncodedEvent
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.envelope import JSON, MSGPACK
from tests.broker.conftest import Node
from tests.broker.support import Recorder, outgoing, until

USER = 7


async def sign_in(
    node: Node, user_id: int = USER, position: Position | None = None, conn: Recorder | None = None
) -> Recorder:
    conn = conn or Recorder()
    await node.hub.open_stream(conn, user_id, position)
    node.hub.flow(conn)
    return conn


async def test_an_event_published_on_one_node_reaches_the_sockets_of_another(node: Node, other: Node) -> None:
    here, there = await sign_in(node), await sign_in(other)
    told = await node.broker.publish([outgoing(USER, 1)])
    await until(lambda: bool(here.frames and there.frames), "both sockets have the event")
    assert told == [2]
    assert here.events() == there.events()
    event = here.events()[0]
    assert event["event"] == "call.incoming"
    assert event["stream"] == "user"
    assert event["offset"] == 1
    assert event["v"] == 1
    assert event["ts_ms"] == 1_700_000_000_001
    assert event["data"] == {"n": 1}


async def test_both_codecs_carry_the_same_event(node: Node) -> None:
    text, binary = await sign_in(node), await sign_in(node, conn=Recorder(MSGPACK))
    await node.broker.publish([outgoing(USER, 1)])
    await node.broker.publish_ephemeral(user_stream(USER), "chat.typing", b'{"from":"b"}')
    await until(lambda: len(text.frames) == 2 and len(binary.frames) == 2, "both sockets have both events")
    assert text.events() == binary.events()
    assert "offset" not in text.events()[1]


async def test_a_frame_is_made_once_for_all_sockets_of_a_codec(node: Node) -> None:
    sockets = [await sign_in(node) for _ in range(3)]
    await node.broker.publish([outgoing(USER, 1)])
    await until(lambda: all(conn.frames for conn in sockets), "all sockets have the event")
    assert sockets[0].frames[0] is sockets[1].frames[0] is sockets[2].frames[0]
    event = EncodedEvent("a", b"{}", stream="user")
    assert event.frame(MSGPACK) is event.frame(MSGPACK)
    assert event.frame(JSON) is event.frame(JSON)


async def test_a_reconnect_replays_exactly_what_was_missed_in_order(node: Node, other: Node) -> None:
    first = await sign_in(node)
    await node.broker.publish([outgoing(USER, n) for n in range(1, 4)])
    await until(lambda: len(first.frames) == 3, "three events came")
    node.hub.detach(first)
    await node.broker.publish([outgoing(USER, n) for n in range(4, 9)])
    epoch = first.events()[-1]["epoch"]

    back = Recorder()
    replay = await other.hub.open_stream(back, USER, Position(epoch, 3))
    assert replay.recovered
    assert (replay.epoch, replay.offset) == (epoch, 8)
    assert back.frames == []
    other.hub.flow(back)
    assert back.offsets() == [4, 5, 6, 7, 8]
    assert [event["data"]["n"] for event in back.events()] == [4, 5, 6, 7, 8]


async def test_what_is_published_between_replay_and_reply_follows_once(node: Node) -> None:
    await node.broker.publish([outgoing(USER, n) for n in range(1, 4)])
    conn = Recorder()
    replay = await node.hub.open_stream(conn, USER, None)
    assert not replay.recovered
    await node.broker.publish([outgoing(USER, n) for n in range(4, 7)])
    live = await sign_in(node)
    await node.broker.publish([outgoing(USER, 7)])
    await until(lambda: live.offsets() == [7], "the other socket is live")
    node.hub.flow(conn)
    assert conn.offsets() == [4, 5, 6, 7]


async def test_events_racing_with_sign_in_are_neither_lost_nor_doubled(node: Node, other: Node) -> None:
    """Publishers never pause while sockets come and go with their positions: each device sees every offset once."""
    total = 3_000
    done = asyncio.Event()

    async def publish() -> None:
        for start in range(0, total, 5):
            await (node, other)[start % 2].broker.publish([outgoing(USER, n) for n in range(start, start + 5)])
        done.set()

    epoch = (await node.broker.positions([user_stream(USER)]))[0].epoch

    async def device(index: int) -> list[int]:
        seen: list[int] = []
        turn = index
        while not (done.is_set() and len(seen) == total):
            conn, where = Recorder(), (node, other)[turn % 2]
            turn += 1
            replay = await where.hub.open_stream(conn, USER, Position(epoch, len(seen)))
            assert replay.recovered
            await asyncio.sleep(0)
            where.hub.flow(conn)
            goal = min(total, len(seen) + 40 + 10 * index)
            await have(conn, goal - len(seen))
            where.hub.detach(conn)
            seen += conn.offsets()
        return seen

    publishing = asyncio.create_task(publish())
    for seen in await asyncio.gather(*(device(index) for index in range(5))):
        assert seen == list(range(1, total + 1))
    await publishing


async def test_an_unknown_epoch_is_not_recovered(node: Node) -> None:
    await node.broker.publish([outgoing(USER, 1)])
    replay = await node.hub.open_stream(Recorder(), USER, Position("0123456789abcdef", 1))
    assert not replay.recovered
    assert replay.offset == 1


async def test_an_offset_beyond_the_head_is_not_recovered(node: Node) -> None:
    await node.broker.publish([outgoing(USER, 1)])
    epoch = (await node.broker.positions([user_stream(USER)]))[0].epoch
    replay = await node.hub.open_stream(Recorder(), USER, Position(epoch, 2))
    assert not replay.recovered
    assert replay.events == ()


async def test_a_lost_publish_is_filled_in_when_the_next_event_comes(node: Node) -> None:
    conn = await sign_in(node)
    await node.broker.publish([outgoing(USER, 1)])
    await until(lambda: len(conn.frames) == 1, "the first event came")
    silent = await silently(node, 2)
    await node.broker.publish([outgoing(USER, 3)])
    await until(lambda: len(conn.frames) == 3, "the gap is filled")
    assert conn.offsets() == [1, 2, 3]
    assert conn.events()[1]["event_id"] == silent


async def test_a_lost_publish_is_noticed_when_positions_are_checked(node: Node) -> None:
    conn = await sign_in(node)
    await silently(node, 1)
    node.hub.restored([user_stream(USER)])
    await until(lambda: conn.offsets() == [1], "the check found it")


async def test_news_that_overtakes_the_answer_of_a_check_is_no_reason_to_resync(node: Node, other: Node) -> None:
    conn = await sign_in(node)
    total = 600

    async def publish() -> None:
        for n in range(1, total + 1):
            await other.broker.publish([outgoing(USER, n)])

    publishing = asyncio.create_task(publish())
    while not publishing.done():
        node.hub.restored([user_stream(USER)])
        await asyncio.sleep(0)
    await have(conn, total)
    assert conn.offsets() == list(range(1, total + 1))
    assert node.hub.resyncs == 0


async def test_a_flushed_redis_sends_sockets_back_for_a_snapshot(node: Node, redis: aioredis.Redis) -> None:
    conn = await sign_in(node)
    await node.broker.publish([outgoing(USER, 1)])
    await until(lambda: len(conn.frames) == 1, "the first event came")
    old = conn.events()[0]
    await redis.flushall()
    await node.broker.publish([outgoing(USER, 2)])
    await until(lambda: conn.closed_with is not None, "the socket was closed")
    assert conn.closed_with == CloseCode.RESYNC
    assert len(conn.frames) == 1
    node.hub.detach(conn)
    replay = await node.hub.open_stream(Recorder(), USER, Position(old["epoch"], old["offset"]))
    assert not replay.recovered
    assert replay.epoch != old["epoch"]


async def test_a_repeated_event_id_is_dropped(node: Node, other: Node) -> None:
    conn = await sign_in(node)
    event = outgoing(USER, 1)
    assert await node.broker.publish([event]) == [1]
    assert await other.broker.publish([event, outgoing(USER, 2)]) == [-1, 1]
    await until(lambda: len(conn.frames) == 2, "two events came")
    assert conn.offsets() == [1, 2]


async def test_a_node_listens_only_to_streams_with_sockets_on_it(
    node: Node, other: Node, redis: aioredis.Redis
) -> None:
    conn = await sign_in(node)
    assert await other.broker.publish([outgoing(USER, 1), outgoing(8, 1)]) == [1, 0]
    node.hub.detach(conn)

    async def unsubscribed() -> bool:
        return await other.broker.publish([outgoing(USER, 2)]) == [0]

    await until(unsubscribed, "the subscription is given up")
    assert node.hub.stream_count() == 0


async def test_a_log_that_was_trimmed_is_not_recovered(node: Node) -> None:
    await node.broker.publish([outgoing(USER, n) for n in range(1, 5)])
    epoch = (await node.broker.positions([user_stream(USER)]))[0].epoch
    for start in range(0, 3_000, 500):
        await node.broker.publish([outgoing(USER, n) for n in range(start, start + 500)])
    assert not (await node.broker.replay(user_stream(USER), Position(epoch, 2))).recovered
    assert (await node.broker.replay(user_stream(USER), Position(epoch, 2_504))).recovered


async def test_control_events_reach_hubs_and_no_socket(node: Node, other: Node) -> None:
    heard: list[tuple[str, bytes]] = []
    conn = await sign_in(node)
    node.hub.listen("_close", lambda stream, data: heard.append((stream, data)))
    await other.broker.publish_ephemeral(user_stream(USER), "_close", b"{}")
    await until(lambda: bool(heard), "the hub heard it")
    assert heard == [(user_stream(USER), b"{}")]
    assert conn.frames == []


async def have(conn: Recorder, count: int) -> None:
    await until(lambda: len(conn.frames) >= count, f"{count} events came")


async def silently(node: Node, number: int) -> str:
    """Append an event as if its publish got lost on the way: told to a channel that nobody listens to."""
    keys = node.broker.keys.stream(user_stream(USER))
    event = StreamEvent(str(uuid4()), "call.ended", number, 0, b"{}")
    await node.broker._pipeline.script(
        "append", (keys.meta, keys.log, keys.seen, keys.channel + "-nobody"), "0" * 16, 1_000, 60_000, "PUBLISH",
        event.event_id, event.pack(),
    )  # fmt: skip
    return event.event_id
