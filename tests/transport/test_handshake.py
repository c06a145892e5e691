"""The upgrade: where, by whom, speaking what; and HTTP beside it on the same port."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from realtime.protocol.envelope import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL
from realtime.transport import frames
from realtime.transport.handshake import remote_address
from realtime.transport.server import ListenOptions, Server

from .sockets import WAIT_S, Harness, Recorder, client, echo, masked, upgrade_request


async def ask(harness: Harness, server: Server, **request: object) -> tuple[int, dict[str, str], bytes]:
    raw = await harness.tcp(server)
    return await raw.request(upgrade_request(**request))  # type: ignore[arg-type]


async def test_http_and_sockets_share_one_port(harness: Harness) -> None:
    server = await harness.serve(Recorder(answer=echo))
    async with httpx.AsyncClient() as http, client(server) as ws:
        assert (await http.get(f"{server.url}/hello")).text == "127.0.0.1"
        await ws.send("x")
        assert await ws.recv() == "x"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param({"path": "/elsewhere"}, 404, id="wrong path"),
        pytest.param({"path": "/v1/socket/"}, 404, id="path with a slash more"),
        pytest.param({"method": "POST"}, 405, id="not a GET"),
        pytest.param({"subprotocol": None}, 400, id="no subprotocol"),
        pytest.param({"subprotocol": "graphql-ws"}, 400, id="foreign subprotocol"),
        pytest.param({"version": "8"}, 426, id="old WebSocket"),
        pytest.param({"key": "c2hvcnQ="}, 400, id="short key"),
        pytest.param({"key": "not base64, though 24 in"}, 400, id="key that is not base64"),
        pytest.param({"headers": (("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),)}, 400, id="two keys"),
        pytest.param({"headers": (("Origin", "https://evil.example"),)}, 403, id="foreign origin"),
        pytest.param({"headers": (("Origin", "null"),)}, 403, id="opaque origin"),
        pytest.param(
            {"headers": (("Origin", "http://127.0.0.1"), ("Origin", "https://evil.example"))}, 403, id="two origins"
        ),
    ],
)
async def test_upgrades_that_are_refused_say_why(harness: Harness, request_: dict[str, object], status: int) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder)
    got, headers, body = await ask(harness, server, **request_)
    assert got == status
    assert headers["content-type"] == "application/json"
    assert b'"message"' in body
    assert not recorder.sockets


async def test_a_plain_request_for_the_sockets_path_is_told_to_upgrade(harness: Harness) -> None:
    server = await harness.serve(Recorder())
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{server.url}/v1/socket")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1", "127.0.0.1"),
        ("http://127.0.0.1:80", "127.0.0.1"),
        ("https://chat.example", "chat.example"),  # a proxy ends TLS and keeps the host
        ("https://app.example", "chat.example"),  # allowed by the setting
    ],
)
async def test_the_servers_own_and_allowed_origins_may_connect(harness: Harness, origin: str, host: str) -> None:
    server = await harness.serve(Recorder(), origins=("https://app.example",))
    raw = await harness.tcp(server)
    request = upgrade_request(headers=(("Origin", origin),)).replace(b"Host: 127.0.0.1", b"Host: " + host.encode())
    assert (await raw.request(request))[0] == 101


async def test_any_origin_may_connect_when_the_setting_says_so(harness: Harness) -> None:
    server = await harness.serve(Recorder(), origins=("*",))
    assert (await ask(harness, server, headers=(("Origin", "https://any.example"),)))[0] == 101


async def test_the_servers_preference_among_subprotocols_wins(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder)
    offered = f"{MSGPACK_SUBPROTOCOL}, {JSON_SUBPROTOCOL}"
    _, headers, _ = await ask(harness, server, subprotocol=offered)
    assert headers["sec-websocket-protocol"] == JSON_SUBPROTOCOL
    assert recorder.sockets[0].codec.name == "json"


async def test_the_answer_to_the_key_is_the_one_of_the_rfc(harness: Harness) -> None:
    server = await harness.serve(Recorder())
    _, headers, _ = await ask(harness, server, key="dGhlIHNhbXBsZSBub25jZQ==")
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3


async def test_the_authorization_header_is_kept_until_sign_in(harness: Harness) -> None:
    recorder = Recorder()
    server = await harness.serve(recorder)
    await ask(harness, server, headers=(("Authorization", "Bearer abc"),))
    (conn,) = recorder.sockets
    assert conn.authorization == "Bearer abc"
    conn.sign_in("somebody")
    assert conn.authorization is None


async def test_frames_that_came_with_the_upgrade_are_not_lost(harness: Harness) -> None:
    recorder = Recorder(answer=echo)
    server = await harness.serve(recorder)
    raw = await harness.tcp(server)
    status, _, _ = await raw.request(upgrade_request() + masked(b"early") + masked(b"bird")[:4])
    assert status == 101
    raw.send(masked(b"bird")[4:])
    assert await raw.frame() == (frames.TEXT, b"early")
    assert await raw.frame() == (frames.TEXT, b"bird")


async def test_a_request_head_without_end_is_refused(harness: Harness) -> None:
    server = await harness.serve(Recorder())
    raw = await harness.tcp(server)
    raw.send(b"GET /hello HTTP/1.1\r\n")
    for number in range(80):
        raw.send(b"X-Padding-%d: " % number + b"x" * 1_000 + b"\r\n")
    status, _, _ = await raw.request(b"")
    assert status == 431


async def test_what_is_not_http_is_refused(harness: Harness) -> None:
    server = await harness.serve(Recorder())
    raw = await harness.tcp(server)
    assert (await raw.request(b"\x16\x03\x01 what\r\n\r\n"))[0] == 400


async def test_a_connection_that_sends_no_request_is_ended(harness: Harness) -> None:
    server = await harness.serve(Recorder(), request_timeout_ms=50, tick_ms=10)
    silent, slow = await harness.tcp(server), await harness.tcp(server)
    slow.send(b"GET /hello HTTP/1.1\r\nHost:")
    async with asyncio.timeout(WAIT_S):
        await silent.ended()
        await slow.ended()


@pytest.mark.parametrize(
    ("peer", "forwarded", "remote"),
    [
        ("9.9.9.9", [b"1.2.3.4"], "9.9.9.9"),
        ("10.0.0.1", [b"1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", [b"6.6.6.6, 1.2.3.4", b"10.0.0.2"], "1.2.3.4"),
        ("10.0.0.1", [b"2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", [b"unknown"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
    ],
)
def test_only_named_proxies_may_say_who_connects(peer: str, forwarded: list[bytes], remote: str) -> None:
    assert remote_address(peer, forwarded, frozenset({"10.0.0.1", "10.0.0.2"})) == remote


async def test_behind_a_named_proxy_sockets_and_requests_have_the_clients_address(harness: Harness) -> None:
    recorder = Recorder()
    listen = ListenOptions(trusted_proxies=("127.0.0.1",))
    server = await harness.serve(recorder, listen=listen, trusted_proxies=("127.0.0.1",))
    await ask(harness, server, headers=(("X-Forwarded-For", "198.51.100.7"),))
    assert recorder.sockets[0].remote == "198.51.100.7"
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{server.url}/hello", headers={"X-Forwarded-For": "198.51.100.7"})
    assert answer.text == "198.51.100.7"
