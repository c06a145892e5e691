"""Bounds: sign-in deadline, heartbeats, floods, slow readers, and a thousand sockets that never sign in."""

from __future__ import annotations

import asyncio

import pytest

from realtime.protocol.close_codes import CloseCode
from realtime.transport import frames
from realtime.transport.connection import Connection
from realtime.transport.outbox import broadcast

from .sockets import (
    WAIT_S,
    Harness,
    News,
    RawClient,
    Recorder,
    client,
    closed_with,
    echo,
    masked,
    sign_in,
    upgrade_request,
)


async def test_a_socket_that_does_not_sign_in_is_closed(harness: Harness) -> None:
    recorder = Recorder(answer=echo)
    server = await harness.serve(recorder, sign_in_timeout_ms=60, tick_ms=10)
    async with client(server) as ws:
        await ws.send("talking is not signing in")
        assert await closed_with(ws) == CloseCode.SIGN_IN_TIMEOUT
    assert recorder.codes == [CloseCode.SIGN_IN_TIMEOUT]


async def test_a_signed_in_socket_outlives_the_sign_in_deadline(harness: Harness) -> None:
    recorder = Recorder(on_connected=sign_in, answer=echo)
    server = await harness.serve(recorder, sign_in_timeout_ms=30, heartbeat_ms=40, tick_ms=10)
    raw = await harness.raw(server)
    for _ in range(3):  # each ping comes after more than the deadline
        assert await raw.frame() == (frames.PING, b"")
        raw.send(masked(b"", 0x8A))
    assert not recorder.closes


async def test_a_silent_socket_is_pinged_and_then_given_up(harness: Harness) -> None:
    recorder = Recorder(on_connected=sign_in)
    server = await harness.serve(recorder, heartbeat_ms=40, heartbeat_timeout_ms=40, tick_ms=10)
    raw = await harness.raw(server)
    assert await raw.frame() == (frames.PING, b"")
    assert await raw.close_code() == CloseCode.HEARTBEAT_TIMEOUT
    assert recorder.codes == [CloseCode.HEARTBEAT_TIMEOUT]


async def test_a_flood_of_frames_is_closed_with_a_code_to_wait(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder, frames_per_s=10, frames_burst=50)
    quiet, flood = await harness.raw(server), await harness.raw(server)
    flood.send(masked(b"x") * 1_000)
    assert await flood.close_code() == CloseCode.RATE_LIMITED
    assert 50 <= len(recorder.messages) < 100
    quiet.send(masked(b"fine"))
    await recorder.until(lambda: recorder.payloads[-1] == b"fine")


async def test_pings_count_as_frames(harness: Harness) -> None:
    server = await harness.serve(Recorder(), frames_per_s=10, frames_burst=50)
    raw = await harness.raw(server)
    raw.send(masked(b"", 0x89) * 1_000)
    assert await raw.close_code() == CloseCode.RATE_LIMITED


async def test_a_slow_reader_is_closed_and_nobody_waits_for_it(harness: Harness) -> None:
    recorder = Recorder(on_connected=sign_in)
    server = await harness.serve(recorder, outbox_bytes_max=256 * 1024, close_timeout_ms=100, tick_ms=10)
    assert server.endpoint is not None
    slow = await RawClient.open(server.port, receive_buffer=4_096)
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    slow.send(upgrade_request())
    await recorder.until(lambda: len(recorder.sockets) == 1)
    quick = await harness.raw(server)
    await recorder.until(lambda: len(recorder.sockets) == 2)
    news = News(b"n" * 16_000)
    sent = 0
    while not recorder.closes:
        broadcast(recorder.sockets, news)
        assert await quick.frame() == (frames.TEXT, b"n" * 16_000)
        sent += 1
        assert sent < 2_000
    assert recorder.closes == [(recorder.sockets[0], CloseCode.SLOW_READER)]
    # It never reads, so the close timeout ends it with its unsent bytes.
    await recorder.until(lambda: server.endpoint is not None and len(server.endpoint.connections) == 1)
    broadcast(recorder.sockets, News(b"more"))
    assert await quick.frame() == (frames.TEXT, b"more")
    await slow.close()


async def test_a_slow_reader_that_catches_up_is_told_why_it_was_closed(harness: Harness) -> None:
    recorder = Recorder(on_connected=sign_in)
    server = await harness.serve(recorder, outbox_bytes_max=64 * 1024)
    raw = await harness.raw(server)
    for _ in range(1_000):
        recorder.sockets[0].send_reply(b"n" * 16_000)
    assert await raw.close_code() == CloseCode.SLOW_READER


async def test_a_thousand_sockets_that_never_sign_in_disturb_nobody(harness: Harness) -> None:
    def first_only(conn: Connection) -> None:
        if conn.id == 1:
            conn.sign_in("somebody")

    recorder = Recorder(on_connected=first_only, answer=echo)
    server = await harness.serve(
        recorder, unauthenticated_max=1_000, unauthenticated_per_ip_max=800, sign_in_timeout_ms=1_500, tick_ms=10
    )
    good = await harness.raw(server)

    async def squat() -> int:
        raw = await harness.tcp(server)
        return (await raw.request(upgrade_request()))[0]

    statuses: list[int] = []
    for _ in range(20):
        statuses += await asyncio.gather(*(squat() for _ in range(50)))
        good.send(masked(b"still served"))
        assert await good.frame() == (frames.TEXT, b"still served")
    refused = statuses.count(429)
    assert statuses.count(101) + refused == 1_000
    assert refused >= 200 or recorder.closes  # at most 800 at a time from one address
    await recorder.until(lambda: len(recorder.closes) == statuses.count(101))
    assert set(recorder.codes) == {CloseCode.SIGN_IN_TIMEOUT}
    good.send(masked(b"after"))
    assert await good.frame() == (frames.TEXT, b"after")
    assert server.endpoint is not None
    assert server.endpoint.gate.unauthenticated <= statuses.count(101)


async def test_a_full_node_turns_sockets_and_requests_away(harness: Harness) -> None:
    server = await harness.serve(Recorder(), connections_max=3)
    for _ in range(3):
        await harness.raw(server)
    raw = await harness.tcp(server)
    status, headers, _ = await raw.request(b"")
    assert status == 503
    assert int(headers["retry-after"]) > 0


async def test_connections_that_ask_nothing_are_bounded_by_address_and_do_not_wait_for_an_answer(
    harness: Harness,
) -> None:
    server = await harness.serve(Recorder(), unauthenticated_per_ip_max=3)
    assert server.endpoint is not None
    for _ in range(3):
        await harness.tcp(server)
    await Recorder().until(lambda: server.endpoint is not None and server.endpoint.gate.opening == 3)
    over = await harness.tcp(server)
    status, headers, _ = await over.request(b"")
    assert status == 429
    assert int(headers["retry-after"]) > 0
    await over.ended()
    assert server.endpoint.gate.opening == 3


async def test_a_thousand_connections_that_ask_nothing_disturb_nobody(harness: Harness) -> None:
    recorder = Recorder(on_connected=sign_in, answer=echo)
    server = await harness.serve(
        recorder, request_timeout_ms=300, tick_ms=10, unauthenticated_per_ip_max=100, connections_max=150
    )
    good = await harness.raw(server)
    for _ in range(20):
        await asyncio.gather(*(harness.tcp(server) for _ in range(50)))
        good.send(masked(b"still served"))
        assert await good.frame() == (frames.TEXT, b"still served")
        assert server.endpoint is not None
        assert server.endpoint.gate.opening <= 100
    await recorder.until(lambda: server.endpoint is not None and server.endpoint.gate.opening == 0)
    assert not recorder.closes


@pytest.mark.parametrize(
    "begun",
    [b"GET /hello HTTP/1.1\r\nX-Slow: ", b"POST /hello HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", b"\r\n"],
    ids=["head", "body", "nothing"],
)
async def test_a_later_request_that_trickles_in_is_cut_off_in_time(harness: Harness, begun: bytes) -> None:
    server = await harness.serve(Recorder(), request_timeout_ms=150, tick_ms=10)
    raw = await harness.tcp(server)
    status, _, _ = await raw.request(b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert status == 200
    raw.send(begun)

    async def trickle() -> None:
        while True:
            raw.send(begun[:2] if begun == b"\r\n" else b"x")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    try:
        await raw.ended()
    finally:
        trickling.cancel()
    assert server.endpoint is not None
    assert server.endpoint.gate.opening == 0


async def test_what_left_is_counted_back(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder, connections_max=2)
    assert server.endpoint is not None
    for _ in range(5):
        async with asyncio.timeout(WAIT_S):
            async with client(server) as ws:
                await ws.ping()
        await recorder.until(lambda: server.endpoint is not None and server.endpoint.gate.sockets == 0)
    assert len(recorder.closes) == 5
