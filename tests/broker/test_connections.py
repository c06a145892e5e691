"""The connections themselves: signing in, scripts that get lost, servers that talk nonsense."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aioredis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from realtime.broker import Broker, user_stream
from realtime.broker.address import Address
from realtime.broker.pipeline import PENDING_MAX
from realtime.broker.wire import Wire
from realtime.protocol.errors import Unavailable
from realtime.protocol.later import Later
from tests.broker.conftest import MakeNode, Node
from tests.broker.proxy import Proxy
from tests.broker.support import Recorder, Valkey, free_ports, outgoing, until

USER = 7
Serve = Callable[[bytes], Awaitable[str]]


@pytest.fixture
async def nonsense() -> AsyncIterator[Serve]:
    """Servers that answer everything with the same bytes; give their URLs."""
    servers: list[asyncio.Server] = []

    async def start(answer: bytes) -> str:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1024):
                writer.write(answer)
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        servers.append(server)
        return f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()


async def test_a_password_and_a_database_are_used_for_commands_and_news(make_node: MakeNode, folder: Path) -> None:
    port = free_ports(1)[0]
    server = Valkey(folder, "--requirepass", "pa:ss@word", port=port)
    server.password = "pa:ss@word"
    try:
        server.start()
        node = await make_node(f"redis://:pa%3Ass%40word@127.0.0.1:{port}/3")
        conn = Recorder()
        await node.hub.open_stream(conn, USER, None)
        node.hub.flow(conn)
        assert await node.broker.publish([outgoing(USER, 1)]) == [1]
        await until(lambda: conn.offsets() == [1], "the event came")
        client: aioredis.Redis = aioredis.from_url(f"redis://:pa%3Ass%40word@127.0.0.1:{port}/3")
        assert await client.exists(node.broker.keys.stream(user_stream(USER)).log)
        await client.aclose()
    finally:
        server.kill()


async def test_a_wrong_password_is_unavailable_and_says_why(make_node: MakeNode, folder: Path) -> None:
    port = free_ports(1)[0]
    server = Valkey(folder, "--requirepass", "right", port=port)
    server.password = "right"
    try:
        server.start()
        node = await make_node(f"redis://:wrong@127.0.0.1:{port}")
        with pytest.raises(Unavailable, match=r"WRONGPASS|AUTH"):
            await node.broker.publish([outgoing(USER, 1)])
    finally:
        server.kill()


async def test_scripts_that_were_flushed_are_loaded_again_under_the_same_epoch(
    node: Node, redis: aioredis.Redis
) -> None:
    await node.broker.publish([outgoing(USER, 1)])
    before = (await node.broker.positions([user_stream(USER)]))[0]
    await redis.script_flush()
    await asyncio.gather(*(node.broker.publish([outgoing(USER, n)]) for n in range(2, 30)))
    after = (await node.broker.positions([user_stream(USER)]))[0]
    assert (after.epoch, after.offset) == (before.epoch, 29)
    replay = await node.broker.replay(user_stream(USER), before)
    assert [event.v for event in replay.events] == list(range(2, 30))


NONSENSE = (
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x00\xff" * 100,
    b"+PONG\r\n+PONG\r\n",
    b"$5\r\nabc",
    b"*1\r\n:1\r\n",
)


@pytest.mark.parametrize("answer", NONSENSE)
async def test_a_server_that_talks_nonsense_is_unavailable(nonsense: Serve, make_node: MakeNode, answer: bytes) -> None:
    node = await make_node(await nonsense(answer))
    async with asyncio.timeout(15):
        with pytest.raises(Unavailable):
            await node.broker.publish([outgoing(USER, 1)])
        replay = await node.hub.open_stream(Recorder(), USER, None)
    assert replay.epoch == ""


async def test_what_waits_for_redis_is_bounded(valkey: Valkey, make_node: MakeNode) -> None:
    node = await make_node(valkey.url)
    answers: list[Later[int]] = [node.broker._pipeline.command("EXISTS", "k", key="k") for _ in range(PENDING_MAX + 1)]
    with pytest.raises(Unavailable, match="too much"):
        await answers[-1]
    assert await answers[0] == 0
    await asyncio.gather(*answers[:-1])


async def test_who_fails_to_take_an_answer_holds_up_nobody(valkey: Valkey, make_node: MakeNode) -> None:
    pipeline = (await make_node(valkey.url)).broker._pipeline
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["exception"]))

    def fail(answer: Later[Any]) -> None:
        raise ValueError("mine alone")

    pipeline.command("EXISTS", "k", key="k").on_settled(fail)
    behind: Later[int] = pipeline.command("EXISTS", "k", key="k").then(lambda count: count + 1)
    assert await behind == 1
    assert await behind == 1  # it stays
    assert [str(exc) for exc in complaints] == ["mine alone"]


async def test_one_error_for_all_who_wait_grows_with_none_of_them(valkey: Valkey, make_node: MakeNode) -> None:
    pipeline = (await make_node(valkey.url)).broker._pipeline
    waiting: list[Later[int]] = [pipeline.command("EXISTS", "k", key="k") for _ in range(50)]
    await pipeline.close()
    frames = []
    for answer in waiting:
        with pytest.raises(Unavailable) as caught:
            await answer
        frames.append(len(caught.traceback))
    assert len(set(frames)) == 1


async def test_who_stops_waiting_for_an_answer_holds_up_nobody(valkey: Valkey, make_node: MakeNode) -> None:
    pipeline = (await make_node(valkey.url)).broker._pipeline
    given_up: asyncio.Future[int] = asyncio.ensure_future(pipeline.command("EXISTS", "k", key="k"))
    behind: Later[int] = pipeline.command("EXISTS", "k", key="k")
    await asyncio.sleep(0)
    given_up.cancel()
    assert await behind == 0
    assert given_up.cancelled()


async def test_replies_belong_to_their_batches(valkey: Valkey) -> None:
    wire = await Wire.open(Address(path=str(valkey.socket)), username="", password="", db=0, tls=None, timeout_s=2)
    batches = [wire.run([("ECHO", f"{batch}-{n}") for n in range(batch)]) for batch in range(1, 60)]
    for batch, answer in enumerate(batches, 1):
        assert await answer == [f"{batch}-{n}".encode() for n in range(batch)]
    refused = (await wire.run([("NONSENSE",), ("PING",)]))[0]
    assert isinstance(refused, Exception)
    valkey.kill()
    await until(lambda: wire.closed, "the end is noticed")
    with pytest.raises(ConnectionError):
        await wire.run([("PING",)])


async def test_a_closed_broker_refuses(redis_url: str) -> None:
    broker = Broker(redis_url)
    broker.start()
    await broker.publish([outgoing(USER, 1)])
    await broker.close()
    with pytest.raises(Unavailable):
        await broker.publish([outgoing(USER, 2)])


async def test_tls_is_used_for_commands_and_news_and_the_certificate_is_checked(
    make_node: MakeNode, folder: Path
) -> None:
    server = Valkey(folder, port=free_ports(1)[0]).start()
    certificate, key = self_signed(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    proxy = await Proxy(server.port, tls=context).start()
    try:
        node = await make_node(f"rediss://localhost:{proxy.port}?ssl_ca_certs={certificate}")
        conn = Recorder()
        await node.hub.open_stream(conn, USER, None)
        node.hub.flow(conn)
        assert await node.broker.publish([outgoing(USER, 1)]) == [1]
        await until(lambda: conn.offsets() == [1], "the event came")
        assert await node.broker.backend.client.ping()

        stranger = await make_node(f"rediss://localhost:{proxy.port}")
        with pytest.raises(Unavailable, match="certificate"):
            await stranger.broker.publish([outgoing(USER, 2)])
    finally:
        await proxy.close()
        server.kill()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file
