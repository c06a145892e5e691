"""Starting, draining and stopping; compression."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from realtime.protocol.close_codes import CloseCode
from realtime.transport import frames
from realtime.transport.options import SocketOptions
from realtime.transport.outbox import broadcast
from realtime.transport.server import ListenOptions, bind

from .sockets import Harness, News, Recorder, client, closed_with, echo, masked, sign_in, upgrade_request


async def test_a_drain_closes_every_socket_with_a_retryable_code_and_frees_the_port(harness: Harness) -> None:
    recorder = Recorder(on_connected=sign_in)
    server = await harness.serve(recorder)
    sockets = [await client(server) for _ in range(25)]
    port = server.port
    stopping = asyncio.create_task(server.stop(drain_ms=50))
    assert {await closed_with(ws) for ws in sockets} == {CloseCode.GOING_AWAY}
    await stopping
    assert recorder.codes == [CloseCode.GOING_AWAY] * 25
    bind("127.0.0.1", port).close()


async def test_while_draining_nobody_new_comes_in(harness: Harness) -> None:
    recorder = Recorder(on_connected=sign_in)
    server = await harness.serve(recorder, close_timeout_ms=100, tick_ms=10)
    before = await harness.tcp(server)
    silent = await harness.raw(server)  # does not answer the close, so the drain takes its timeout
    stopping = asyncio.create_task(server.stop(drain_ms=1))
    assert await silent.close_code() == CloseCode.GOING_AWAY
    status, _, _ = await before.request(upgrade_request())
    assert status == 503
    await stopping


async def test_a_server_can_be_stopped_twice_and_before_it_started(harness: Harness) -> None:
    server = await harness.serve(Recorder())
    await server.stop(drain_ms=1)
    await server.stop(drain_ms=1)


async def test_a_taken_port_is_an_error_that_says_so(harness: Harness) -> None:
    server = await harness.serve(Recorder())
    with pytest.raises(OSError, match=r"[Aa]ddress already in use"):
        await harness.serve(Recorder(), listen=ListenOptions(port=server.port))


async def test_a_listening_socket_can_be_handed_in(harness: Harness) -> None:
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    server = await harness.serve(Recorder(), listen=ListenOptions(sock=sock))
    assert server.port == port
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{server.url}/hello")).status_code == 200


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="outbox_bytes_max"):
        SocketOptions(outbox_bytes_max=0)


async def test_compressed_messages_go_both_ways_and_broadcasts_are_compressed_once(harness: Harness) -> None:
    recorder = Recorder(answer=echo)
    server = await harness.serve(recorder, compression=True)
    assert server.endpoint is not None
    text = "the same words again and again; " * 100
    async with client(server, compression="deflate") as small, client(server) as plain:
        for ws in (small, plain):
            await ws.send(text)
            assert await ws.recv() == text
            await ws.send("short")
            assert await ws.recv() == "short"
        assert [extension.name for extension in small.protocol.extensions] == ["permessage-deflate"]
        assert not plain.protocol.extensions
        broadcast(recorder.sockets, News(text.encode()))
        assert await small.recv() == await plain.recv() == text


async def test_compression_is_not_offered_unless_it_is_switched_on(harness: Harness) -> None:
    server = await harness.serve(Recorder(answer=echo))
    async with client(server, compression="deflate") as ws:
        assert not ws.protocol.extensions


async def test_a_message_that_inflates_beyond_the_limit_is_refused(harness: Harness) -> None:
    server = await harness.serve(Recorder(answer=echo), compression=True, message_bytes_max=10_000)
    async with client(server, compression="deflate") as ws:
        await ws.send("x" * 10_001)
        assert await closed_with(ws) == CloseCode.FRAME_TOO_LARGE


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        (
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
        ),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate; mystery", None),
    ],
)
async def test_compression_is_agreed_on_the_first_offer_that_can_be_kept(
    harness: Harness, offer: str, answer: str | None
) -> None:
    server = await harness.serve(Recorder(answer=echo), compression=True)
    raw = await harness.tcp(server)
    request = upgrade_request(headers=(("Sec-WebSocket-Extensions", offer),))
    status, headers, _ = await raw.request(request)
    assert status == 101
    assert headers.get("sec-websocket-extensions") == answer


async def test_extensions_that_cannot_be_read_are_refused(harness: Harness) -> None:
    server = await harness.serve(Recorder(), compression=True)
    raw = await harness.tcp(server)
    status, _, _ = await raw.request(upgrade_request(headers=(("Sec-WebSocket-Extensions", "; ="),)))
    assert status == 400


async def test_what_does_not_inflate_is_a_protocol_error(harness: Harness) -> None:
    server = await harness.serve(Recorder(answer=echo), compression=True)
    raw = await harness.raw(server, headers=(("Sec-WebSocket-Extensions", "permessage-deflate"),))
    raw.send(masked(b"\xff\xff\xff\xff", 0xC1))
    assert await raw.close_code() == frames.PROTOCOL_ERROR
