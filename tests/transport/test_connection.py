"""Messages in and out of a real server: order, kinds, fragments, control frames, closing, and what breaks the rules."""

from __future__ import annotations

import asyncio
import gc

import pytest

from realtime.protocol.close_codes import CloseCode
from realtime.protocol.envelope import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL
from realtime.transport import frames
from realtime.transport.connection import Connection
from realtime.transport.frames import frame
from realtime.transport.outbox import broadcast

from .sockets import WAIT_S, Harness, News, RawClient, Recorder, client, closed_with, echo, masked


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
async def test_a_message_of_any_length_is_answered_in_kind(harness: Harness, size: int) -> None:
    server = await harness.serve(Recorder(answer=echo), message_bytes_max=70_000)
    async with client(server) as text, client(server, subprotocol=MSGPACK_SUBPROTOCOL) as binary:
        await text.send("x" * size)
        assert await text.recv() == "x" * size
        await binary.send(bytes(size))
        assert await binary.recv() == bytes(size)


async def test_messages_sent_in_one_burst_keep_their_order(harness: Harness) -> None:
    server = await harness.serve(Recorder(answer=echo))
    raw = await harness.raw(server)
    sent = [str(number).encode() for number in range(300)]
    raw.send(b"".join(map(masked, sent)))
    assert [(await raw.frame())[1] for _ in sent] == sent


async def test_a_message_cut_anywhere_in_the_stream_is_the_same_message(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder)
    raw = await harness.raw(server)
    data = masked(b"short") + masked(b"y" * 200) + masked(b"z" * 3_000)
    for start in range(0, len(data), 7):
        raw.send(data[start : start + 7])
        await raw.writer.drain()
        await asyncio.sleep(0)
    await recorder.until(lambda: len(recorder.messages) == 3)
    assert recorder.payloads == [b"short", b"y" * 200, b"z" * 3_000]


async def test_fragments_are_joined_around_control_frames(harness: Harness) -> None:
    server = await harness.serve(Recorder(answer=echo))
    raw = await harness.raw(server)
    raw.send(masked(b"one ", 0x01) + masked(b"p", 0x89) + masked(b"two ", 0x00) + masked(b"three", 0x80))
    assert await raw.frame() == (frames.PONG, b"p")
    assert await raw.frame() == (frames.TEXT, b"one two three")
    raw.send(masked(b"after"))
    assert await raw.frame() == (frames.TEXT, b"after")


async def test_a_pong_that_nobody_asked_for_is_ignored(harness: Harness) -> None:
    server = await harness.serve(Recorder(answer=echo))
    raw = await harness.raw(server)
    raw.send(masked(b"what", 0x8A) + masked(b"hello"))
    assert await raw.frame() == (frames.TEXT, b"hello")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(b"\x81\x05hello", frames.PROTOCOL_ERROR, id="unmasked"),
        pytest.param(b"\x81\x00", frames.PROTOCOL_ERROR, id="unmasked and empty"),
        pytest.param(masked(b"", 0xC1), frames.PROTOCOL_ERROR, id="compression bit"),
        pytest.param(masked(b"", 0x83), frames.PROTOCOL_ERROR, id="reserved opcode"),
        pytest.param(masked(b"x" * 126, 0x89), frames.PROTOCOL_ERROR, id="long ping"),
        pytest.param(masked(b"", 0x09), frames.PROTOCOL_ERROR, id="ping in parts"),
        pytest.param(masked(b"", 0x80), frames.PROTOCOL_ERROR, id="continuation of nothing"),
        pytest.param(masked(b"a", 0x01) + masked(b"b"), frames.PROTOCOL_ERROR, id="message inside a message"),
        pytest.param(masked(b"\xff"), frames.INVALID_TEXT, id="not UTF-8"),
        pytest.param(masked(b"\xed\xa0\x80", 0x01), frames.INVALID_TEXT, id="part is not UTF-8"),
        pytest.param(masked(b"\x03", 0x88), frames.PROTOCOL_ERROR, id="half a close code"),
        pytest.param(masked(b"\x03\xed", 0x88), frames.PROTOCOL_ERROR, id="close code 1005"),
        pytest.param(masked(b"", 0x82), CloseCode.MALFORMED, id="binary on the text protocol"),
        pytest.param(masked(b"x" * 1_001), CloseCode.FRAME_TOO_LARGE, id="too large"),
        pytest.param(b"\x81\xff\x00\x00\x00\x00", None, id="head of a long frame is waited for"),
        pytest.param(b"\x81\xff" + bytes(2) + b"\xff" * 6, CloseCode.FRAME_TOO_LARGE, id="length beyond reason"),
        pytest.param(b"\x81\xff" + b"\xff" * 8 + b"mask", CloseCode.FRAME_TOO_LARGE, id="length with its top bit"),
        pytest.param(masked(b"x" * 600, 1) + masked(b"x" * 600, 0x80), CloseCode.FRAME_TOO_LARGE, id="large parts"),
    ],
)
async def test_what_breaks_the_rules_is_closed_with_its_code(harness: Harness, sent: bytes, code: int | None) -> None:
    recorder = Recorder(answer=echo)
    server = await harness.serve(recorder, message_bytes_max=1_000)
    other = await harness.raw(server)
    raw = await harness.raw(server)
    raw.send(sent)
    if code is not None:
        assert await raw.close_code() == code
        await raw.ended()
        await recorder.until(lambda: recorder.codes == [code])
    other.send(masked(b"still here"))
    assert await other.frame() == (frames.TEXT, b"still here")


async def test_nothing_after_a_broken_frame_is_handled(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder)
    raw = await harness.raw(server)
    raw.send(masked(b"good") + masked(b"", 0x83) + masked(b"late") + masked(b"", 0x83))
    assert await raw.close_code() == frames.PROTOCOL_ERROR
    raw.send(masked(b"later"))
    await raw.close()
    await recorder.until(lambda: not server.endpoint.connections)  # type: ignore[union-attr]
    assert recorder.payloads == [b"good"]
    assert recorder.codes == [frames.PROTOCOL_ERROR]


async def test_a_close_from_the_client_is_answered_with_its_code_and_told_once(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder)
    raw = await harness.raw(server)
    raw.send(masked((4321).to_bytes(2) + b"bye", 0x88))
    assert await raw.close_code() == 4321
    await raw.ended()
    await recorder.until(lambda: recorder.codes == [4321])


async def test_a_close_from_the_server_follows_what_was_sent_before_it(harness: Harness) -> None:
    def say_bye(conn: Connection, payload: bytes) -> None:
        conn.send_reply(b"last words")
        conn.close(CloseCode.REPLACED, CloseCode.REPLACED.reason)
        conn.send_reply(b"never sent")
        conn.close(CloseCode.SERVER_ERROR, "too late")

    recorder = Recorder(answer=say_bye)
    server = await harness.serve(recorder)
    async with client(server) as ws:
        await ws.send("go")
        assert await ws.recv() == "last words"
        assert await closed_with(ws) == CloseCode.REPLACED
        assert ws.close_reason == "replaced"
    assert recorder.codes == [CloseCode.REPLACED]


async def test_a_client_that_never_answers_the_close_is_cut_off(harness: Harness) -> None:
    recorder = Recorder(answer=lambda conn, payload: conn.close(CloseCode.SIGNED_OUT))
    server = await harness.serve(recorder, close_timeout_ms=50, tick_ms=10)
    raw = await harness.raw(server)
    raw.send(masked(b"go"))
    assert await raw.close_code() == CloseCode.SIGNED_OUT
    await raw.ended()
    assert recorder.codes == [CloseCode.SIGNED_OUT]


async def test_a_client_that_vanishes_is_told_as_abnormal(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder)
    raw = await harness.raw(server)
    raw.writer.transport.abort()
    await recorder.until(lambda: recorder.codes == [frames.ABNORMAL])
    assert server.endpoint is not None
    assert not server.endpoint.connections
    assert server.endpoint.gate.sockets == 0


async def test_messages_after_the_handler_closed_are_not_handled(harness: Harness) -> None:
    recorder = Recorder(answer=lambda conn, payload: conn.close(CloseCode.SIGNED_OUT))
    server = await harness.serve(recorder)
    raw = await harness.raw(server)
    raw.send(masked(b"one") + masked(b"two") + masked(b"th", 0x01) + masked(b"ree", 0x80))
    assert await raw.close_code() == CloseCode.SIGNED_OUT
    raw.send(masked((1000).to_bytes(2), 0x88))
    await raw.ended()
    assert recorder.payloads == [b"one"]


async def test_a_handler_that_fails_closes_its_own_socket_only(harness: Harness) -> None:
    def fail(conn: Connection, payload: bytes) -> None:
        if payload == b"fail":
            raise RuntimeError("a bug")
        conn.send_reply(payload)

    server = await harness.serve(Recorder(answer=fail))
    async with client(server) as good, client(server) as bad:
        await bad.send("fail")
        assert await closed_with(bad) == CloseCode.SERVER_ERROR
        await good.send("fine")
        assert await good.recv() == "fine"


async def test_pausing_holds_messages_back_and_resuming_brings_them_in_order(harness: Harness) -> None:
    def pause(conn: Connection, payload: bytes) -> None:
        if payload == b"2":
            conn.pause_reading()

    recorder = Recorder(answer=pause)
    server = await harness.serve(recorder)
    raw = await harness.raw(server)
    other = await harness.raw(server)
    sent = [str(number).encode() for number in range(100)]
    raw.send(b"".join(map(masked, sent)))
    await recorder.until(lambda: b"2" in recorder.payloads)
    other.send(masked(b"other"))
    await recorder.until(lambda: b"other" in recorder.payloads)
    assert recorder.payloads == [b"0", b"1", b"2", b"other"]
    recorder.messages.clear()
    recorder.sockets[0].resume_reading()
    await recorder.until(lambda: len(recorder.messages) == 97)
    assert recorder.payloads == sent[3:]


async def test_a_paused_socket_can_be_closed(harness: Harness) -> None:
    recorder = Recorder(answer=lambda conn, payload: conn.pause_reading())
    server = await harness.serve(recorder)
    async with client(server) as ws:
        await ws.send("pause")
        await recorder.until(lambda: bool(recorder.messages))
        recorder.sockets[0].close(CloseCode.REPLACED)
        assert await closed_with(ws) == CloseCode.REPLACED


async def test_a_connection_that_is_gone_is_freed_without_the_collector(harness: Harness) -> None:
    freed: list[int] = []
    both = asyncio.Event()

    class Session:
        """What dispatch keeps on a connection: it holds the connection, too."""

        def __init__(self, conn: Connection) -> None:
            self.conn = conn

        def __del__(self) -> None:
            freed.append(self.conn.id)
            if len(freed) == 2:
                both.set()

    class Handler:
        def connected(self, conn: Connection) -> None:
            conn.session = Session(conn)

        def received(self, conn: Connection, payload: bytes) -> None:
            conn.send_reply(payload)

        def closed(self, conn: Connection, code: int) -> None:
            pass

    server = await harness.serve(Handler())
    gc.disable()
    try:
        async with client(server) as ws:
            await ws.send("x")
            await ws.recv()
        (await harness.raw(server)).writer.transport.abort()
        async with asyncio.timeout(WAIT_S):
            await both.wait()
    finally:
        gc.enable()


async def test_a_closed_socket_takes_every_call_without_harm(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder)
    raw = await harness.raw(server)
    raw.writer.transport.abort()
    await recorder.until(lambda: bool(recorder.closes))
    (conn,) = recorder.sockets
    conn.sign_in("late")
    conn.send_reply(b"x")
    conn.send_frame(frame(b"x"))
    conn.pause_reading()
    conn.resume_reading()
    conn.close(4000)
    conn.abort()
    assert conn.closing
    assert recorder.codes == [frames.ABNORMAL]


async def test_what_is_sent_in_one_turn_leaves_in_one_write(harness: Harness) -> None:
    def many(conn: Connection, payload: bytes) -> None:
        for number in range(50):
            conn.send_reply(b"%d" % number)

    server = await harness.serve(Recorder(answer=many))
    raw = await harness.raw(server)
    raw.send(masked(b"go"))
    async with asyncio.timeout(WAIT_S):
        first = await raw.reader.read(65_536)
    assert first == b"".join(frame(b"%d" % number) for number in range(50))


async def test_a_broadcast_reaches_all_but_the_closed(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder)
    raws = [await harness.raw(server) for _ in range(20)]
    await recorder.until(lambda: len(recorder.sockets) == 20)
    recorder.sockets[3].close(CloseCode.SIGNED_OUT)
    for number in range(3):
        broadcast(recorder.sockets, News(b"news %d" % number))
    for index, raw in enumerate(raws):
        if index == 3:
            assert await raw.close_code() == CloseCode.SIGNED_OUT
        else:
            assert [(await raw.frame())[1] for _ in range(3)] == [b"news 0", b"news 1", b"news 2"]


async def test_heard_is_the_time_since_the_peers_last_byte(harness: Harness) -> None:
    recorder = Recorder(answer=echo)
    server = await harness.serve(recorder)
    raw: RawClient = await harness.raw(server, subprotocol=JSON_SUBPROTOCOL)
    raw.send(masked(b"x"))
    await raw.frame()
    (conn,) = recorder.sockets
    conn.heard_at -= 5
    assert 5_000 <= conn.heard_ms_ago() < 5_000 + WAIT_S * 1_000
    raw.send(masked(b"x"))
    await raw.frame()
    assert conn.heard_ms_ago() < 5_000


async def test_a_broadcast_reaches_each_socket_in_its_own_kind_of_frame(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder)
    raws = [await harness.raw(server, subprotocol=JSON_SUBPROTOCOL) for _ in range(3)]
    raws += [await harness.raw(server, subprotocol=MSGPACK_SUBPROTOCOL) for _ in range(3)]
    await recorder.until(lambda: len(recorder.sockets) == 6)
    news = News(b"both")
    broadcast(recorder.sockets[::2] + recorder.sockets[1::2], news)
    kinds = [await raw.frame() for raw in raws]
    assert kinds == [(frames.TEXT, b"both")] * 3 + [(frames.BINARY, b"both")] * 3
    assert sorted(news.made) == ["json", "msgpack"]
