"""TLS on the socket's port: it works, and whoever does not finish the handshake is bounded in number and time."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from realtime.protocol.close_codes import CloseCode
from realtime.transport import frames
from realtime.transport.server import ListenOptions, Server

from .sockets import Harness, RawClient, Recorder, client, closed_with, echo, masked, sign_in

CLIENT_HELLO_BEGINS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@dataclass(frozen=True)
class Tls:
    """A self-signed certificate for this machine, and a client's trust in it."""

    certificate: str
    key: str
    trust: ssl.SSLContext

    def listen(self, **options: int) -> ListenOptions:
        return ListenOptions(tls_certificate=self.certificate, tls_key=self.key, **options)  # type: ignore[arg-type]


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    made = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    certificate_path, key_path = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Tls(str(certificate_path), str(key_path), ssl.create_default_context(cafile=certificate_path))


async def test_sockets_and_requests_work_over_tls(harness: Harness, tls: Tls) -> None:
    recorder = Recorder(answer=echo)
    server = await harness.serve(recorder, listen=tls.listen())
    async with httpx.AsyncClient(verify=tls.trust) as http:
        assert (await http.get(f"{server.url}/hello")).status_code == 200
    async with client(server, ssl=tls.trust) as ws:
        await ws.send("x" * 50_000)
        assert await ws.recv() == "x" * 50_000
    await recorder.until(lambda: recorder.codes == [1000])


async def test_a_broken_frame_over_tls_is_closed_with_its_code(harness: Harness, tls: Tls) -> None:
    server = await harness.serve(Recorder(), listen=tls.listen())
    raw = await RawClient.open(server.port, tls=tls.trust)
    await raw.upgrade()
    raw.send(masked(b"", 0x83))
    assert await raw.close_code() == frames.PROTOCOL_ERROR
    await raw.close()


def opening(server: Server) -> int:
    assert server.endpoint is not None
    return server.endpoint.gate.opening


@pytest.mark.parametrize("said", [b"", CLIENT_HELLO_BEGINS], ids=["nothing", "half a hello"])
async def test_a_peer_that_does_not_finish_the_handshake_is_gone_in_time(
    harness: Harness, tls: Tls, said: bytes
) -> None:
    server = await harness.serve(Recorder(), listen=tls.listen(tls_handshake_timeout_ms=100))
    silent = await harness.tcp(server)
    silent.send(said)
    await silent.ended()
    await Recorder().until(lambda: opening(server) == 0)


async def test_a_peer_that_finishes_the_handshake_and_asks_nothing_is_gone_in_time(harness: Harness, tls: Tls) -> None:
    server = await harness.serve(Recorder(), listen=tls.listen(), request_timeout_ms=100, tick_ms=10)
    silent = await RawClient.open(server.port, tls=tls.trust)
    await silent.ended()
    await silent.close()
    assert opening(server) == 0


async def test_handshakes_of_one_address_are_bounded_and_others_are_served(harness: Harness, tls: Tls) -> None:
    recorder = Recorder(on_connected=sign_in, answer=echo)
    server = await harness.serve(recorder, listen=tls.listen(), unauthenticated_per_ip_max=5)
    for _ in range(4):
        await harness.tcp(server)
    await recorder.until(lambda: opening(server) == 4)
    async with client(server, ssl=tls.trust) as ws:
        last = await harness.tcp(server)
        await recorder.until(lambda: opening(server) == 5)  # an upgraded socket is counted elsewhere
        over = await harness.tcp(server)
        await over.ended()
        await ws.send("served")
        assert await ws.recv() == "served"
        await last.close()
        await recorder.until(lambda: opening(server) == 4)
        async with client(server, ssl=tls.trust):
            pass


async def test_a_drain_ends_handshakes_under_way(harness: Harness, tls: Tls) -> None:
    recorder = Recorder(on_connected=sign_in)
    server = await harness.serve(recorder, listen=tls.listen())
    silent = await harness.tcp(server)
    await recorder.until(lambda: opening(server) == 1)
    async with client(server, ssl=tls.trust) as ws:
        stopping = asyncio.create_task(server.stop(drain_ms=1))
        assert await closed_with(ws) == CloseCode.GOING_AWAY
        await stopping
    await silent.ended()
