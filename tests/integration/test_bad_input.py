"""What clients must not send: each gets a typed answer, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from realtime.accounts.keys import load_keys
from tests.integration.node import Node, running

JSON = Subprotocol("talkmeter.v1.json")
SOCKETS_THAT_NEVER_SIGN_IN = 1_000


@contextlib.asynccontextmanager
async def raw(node: Node, **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(node.socket_url, subprotocols=[JSON], proxy=None, **options) as socket:
        yield socket


async def ask(socket: ClientConnection, frame: Any) -> Any:
    """Send one frame and return the next reply; events in between are passed over."""
    await socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))
    async with asyncio.timeout(10):
        while True:
            reply = json.loads(await socket.recv())
            if "re" in reply:
                return reply


async def sign_in(socket: ClientConnection, token: str, device_id: str = "d") -> Any:
    return await ask(socket, {"id": 1, "op": "session.sign_in", "data": {"token": token, "device_id": device_id}})


async def close_code(socket: ClientConnection) -> int:
    async def read_on() -> None:
        async with asyncio.timeout(20):
            while True:
                await socket.recv()

    with pytest.raises(ConnectionClosed) as closed:
        await read_on()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


NO_REQUESTS = {
    "empty": "",
    "cut": "{",
    "a list": "[]",
    "null": "null",
    "a number": "7",
    "a string": '"text"',
    "neither op nor ack": '{"id": 1}',
    "op is no text": '{"op": 1}',
    "ack is no list": '{"ack": "x"}',
    "id is an object": '{"id": {}, "op": "session.ping"}',
    "deeply nested": "[" * 60_000,
}


async def test_a_frame_that_is_no_request_is_malformed(node: Node) -> None:
    async with raw(node) as socket:
        for name, frame in NO_REQUESTS.items():
            reply = await ask(socket, frame)
            assert reply["error"]["code"] == "malformed", name
            assert not reply["error"]["retryable"], name
        assert "ok" in await sign_in(socket, await node.token("ravi"))


async def test_a_socket_that_sends_nothing_but_nonsense_is_closed(node: Node) -> None:
    async with raw(node) as socket:
        for _ in range(20):
            await socket.send("nonsense")
        assert await close_code(socket) == 4500


async def test_an_unknown_operation_is_named(node: Node) -> None:
    async with raw(node) as socket:
        reply = await ask(socket, {"id": "a", "op": "money.print", "data": {}})
        assert reply["re"] == "a"
        assert reply["error"]["code"] == "unknown_op"
        assert reply["error"]["details"] == {"op": "money.print"}


async def test_nothing_is_done_before_sign_in(node: Node) -> None:
    async with raw(node) as socket:
        reply = await ask(socket, {"id": 1, "op": "wallet.get", "data": {}})
        assert reply["error"]["code"] == "unauthenticated"
        assert reply["error"]["next_action"] == "sign_in"


async def test_wrong_data_names_the_field(node: Node) -> None:
    async with raw(node) as socket:
        assert "ok" in await sign_in(socket, await node.token("ravi"))
        reply = await ask(socket, {"id": 2, "op": "call.invite", "key": "k", "data": {"host": 7, "media": "voice"}})
        assert reply["error"]["code"] == "invalid_data"
        assert reply["error"]["details"]["path"] == "$.host"
        reply = await ask(socket, {"id": 3, "op": "call.invite", "key": "k", "data": {"host": "a", "media": "smell"}})
        assert reply["error"]["details"]["path"] == "$.media"
        reply = await ask(socket, {"id": 4, "op": "call.get", "data": {"call_id": "no id"}})
        assert reply["error"]["code"] == "invalid_data"


async def test_a_mutation_needs_a_key(node: Node) -> None:
    async with raw(node) as socket:
        await sign_in(socket, await node.token("ravi"))
        reply = await ask(socket, {"id": 2, "op": "chat.send", "data": {"to": "x", "kind": "text", "body": "b"}})
        assert reply["error"]["code"] == "key_required"


def forged(node_data: Path, kind: str) -> str:
    """Return a token that must be refused, and differs from a good one in one thing."""
    keys = load_keys("", node_data)
    secret = keys.secrets[keys.signing_id]
    now = int(time.time())
    claims = {"iss": "talkmeter", "aud": "talkmeter", "sub": "ravi", "iat": now, "exp": now + 600}
    headers = {"kid": keys.signing_id}
    match kind:
        case "expired":
            claims |= {"iat": now - 1000, "exp": now - 100}
        case "wrong key":
            secret = b"x" * 32
        case "wrong audience":
            claims["aud"] = "somebody else"
        case "wrong issuer":
            claims["iss"] = "somebody else"
        case "no expiry":
            del claims["exp"]
        case "unknown key id":
            headers["kid"] = "other"
        case "unsigned":
            return jwt.encode(claims, "", algorithm="none", headers=headers)
        case "other algorithm":
            return jwt.encode(claims, secret * 2, algorithm="HS512", headers=headers)
        case "garbage":
            return "a.b.c"
    return jwt.encode(claims, secret, algorithm="HS256", headers=headers)


async def test_forged_and_expired_tokens_are_refused(node: Node, shared: dict[str, Any]) -> None:
    data = Path(shared["data_dir"])
    kinds = [
        "wrong key",
        "wrong audience",
        "wrong issuer",
        "no expiry",
        "unknown key id",
        "unsigned",
        "other algorithm",
        "garbage",
    ]
    for kind in kinds:
        async with raw(node) as socket:
            reply = await sign_in(socket, forged(data, kind))
            assert reply["error"]["code"] == "token_invalid", kind
            assert reply["error"]["next_action"] == "sign_in"
    async with raw(node) as socket:
        reply = await sign_in(socket, forged(data, "expired"))
        assert reply["error"]["code"] == "token_expired"
    async with raw(node) as socket:
        assert "ok" in await sign_in(socket, forged(data, "good"))


async def test_a_token_that_runs_out_ends_the_connection_unless_it_is_refreshed(
    node: Node, shared: dict[str, Any]
) -> None:
    keys = load_keys("", Path(shared["data_dir"]))
    now = time.time()
    claims = {"iss": "talkmeter", "aud": "talkmeter", "sub": "ravi", "iat": now, "exp": now + 2}
    short = jwt.encode(claims, keys.secrets[keys.signing_id], algorithm="HS256", headers={"kid": keys.signing_id})
    async with raw(node) as left, raw(node) as kept:
        await sign_in(left, short)
        await sign_in(kept, short, "tablet")
        reply = await ask(
            kept, {"id": 2, "op": "session.refresh", "data": {"token": forged(Path(shared["data_dir"]), "good")}}
        )
        assert reply["ok"]["token_expires_ms"] > (now + 100) * 1000
        assert await close_code(left) == 4502
        assert "ok" in await ask(kept, {"id": 3, "op": "wallet.get", "data": {}})


async def test_an_oversized_frame_closes_its_own_socket_only(node: Node) -> None:
    token = await node.token("ravi")
    async with raw(node) as good, raw(node) as bad:
        await sign_in(good, token)
        await bad.send("x" * (64 * 1024 + 1))
        assert await close_code(bad) == 4507
        assert "ok" in await ask(good, {"id": 2, "op": "wallet.get", "data": {}})


async def test_a_binary_frame_on_a_text_protocol_closes_the_socket(node: Node) -> None:
    async with raw(node) as socket:
        await socket.send(b"\x80")
        assert await close_code(socket) >= 1000


async def test_a_wrong_subprotocol_is_refused(node: Node) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(node.socket_url, subprotocols=[Subprotocol("soap")], proxy=None):
            pass
    assert refused.value.response.status_code == 400


async def test_a_flood_is_told_to_wait_and_others_are_served(node: Node) -> None:
    token = await node.token("ravi")
    async with raw(node) as flooder, raw(node) as other:
        await sign_in(flooder, token)
        await sign_in(other, token, "tablet")
        for number in range(400):
            await flooder.send(json.dumps({"id": number, "op": "wallet.get", "data": {}}))
        codes = set()
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(10):
                for _ in range(400):
                    reply = json.loads(await flooder.recv())
                    codes.add(reply["error"]["code"] if "error" in reply else "ok")
        assert codes & {"rate_limited", "too_many_pending"}
        assert codes <= {"ok", "rate_limited", "too_many_pending"}
        assert "ok" in await ask(other, {"id": 2, "op": "wallet.get", "data": {}})


async def test_sockets_that_never_sign_in_are_closed_and_disturb_nobody(shared: dict[str, Any], tmp_path: Path) -> None:
    limits: dict[str, Any] = {
        "sign_in_timeout_ms": 4000,
        "unauthenticated_per_ip_max": 800,
        "unauthenticated_max": 1000,
    }
    async with running(tmp_path, **shared, **limits) as node:
        token = await node.token("ravi")
        async with raw(node) as good:
            await sign_in(good, token)
            answers = await asyncio.gather(*(idle(node) for _ in range(SOCKETS_THAT_NEVER_SIGN_IN)))
            assert "ok" in await ask(good, {"id": 2, "op": "wallet.get", "data": {}})
        assert answers.count("refused") >= SOCKETS_THAT_NEVER_SIGN_IN - 800, "more sockets than the limit were taken"
        assert answers.count("4506") == SOCKETS_THAT_NEVER_SIGN_IN - answers.count("refused")
        async with raw(node) as late:
            assert "ok" in await sign_in(late, token, "tablet")


async def idle(node: Node) -> str:
    """Connect, never sign in, and return how that ended."""
    try:
        async with raw(node, open_timeout=30) as socket:
            return str(await close_code(socket))
    except (InvalidStatus, ConnectionError):
        return "refused"
