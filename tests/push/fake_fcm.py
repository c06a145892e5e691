"""Google's side of a push: the FCM v1 endpoint over HTTP/2 and TLS, and the OAuth token endpoint, on loopback.

The real firebase-admin talks to it. It misbehaves on demand: any status, any body, late, or never.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import ipaddress
import json
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.push.local_http import Answer, serve

PROJECT = "talkmeter-test"
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """How the endpoint answers one request: an FCM error by status and code, or a raw body."""

    status: int
    code: str = ""
    message: str = "said the fake"
    body: bytes | None = None
    retry_after: str = ""
    after: asyncio.Event | None = None

    def encoded(self) -> bytes:
        if self.body is not None:
            return self.body
        details = [{"@type": FCM_ERROR, "errorCode": self.code}] if self.code else []
        error = {"code": self.status, "message": self.message, "status": STATUS_NAMES[self.status], "details": details}
        return json.dumps({"error": error}).encode()


UNREGISTERED = Reply(404, "UNREGISTERED")
HANG_UP = Reply(0)  # the connection is cut instead of an answer


@dataclass
class FakeFcm:
    """What was asked, and what will be answered. `replies` are used up, one for each request to that address."""

    url: str = ""
    certificate: dict[str, Any] = field(default_factory=dict)
    replies: defaultdict[str, list[Reply]] = field(default_factory=lambda: defaultdict(list))
    always: dict[str, Reply] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0
    connections: int = 0
    token_requests: int = 0
    token_status: int = 200
    token_life_s: int = 3600
    token_gate: asyncio.Event | None = None
    token: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    token_asked: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def to(self, address: str) -> list[dict[str, Any]]:
        """Return the messages that were accepted for an address."""
        return [message for message in self.messages if address in (message.get("token"), message.get("fid"))]

    async def accepted(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many messages have been accepted."""
        async with asyncio.timeout(20):
            while len(self.messages) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.messages

    def revoke(self) -> None:
        """Forget the access token that was handed out last."""
        self.token = "revoked"

    async def answer_token(self, path: str, body: bytes) -> Answer:
        self.token_requests += 1
        self.token_asked.set()
        if self.token_gate is not None:
            await self.token_gate.wait()
        if self.token_status != 200:
            return Answer(self.token_status, json.dumps({"error": "invalid_grant"}).encode())
        self.token = f"token-{self.token_requests}"
        grant = {"access_token": self.token, "expires_in": self.token_life_s, "token_type": "Bearer"}
        return Answer(200, json.dumps(grant).encode())

    async def answer_send(self, path: str, authorization: str, body: bytes) -> Reply:
        if authorization != f"Bearer {self.token}" or path != f"/v1/projects/{PROJECT}/messages:send":
            self.refused += 1
            return Reply(401)
        message = json.loads(body)["message"]
        address = message.get("token") or message.get("fid")
        self.asked.set()
        queued = self.replies[address]
        reply = queued.pop(0) if queued else self.always.get(address)
        if reply is not None and reply.after is not None:
            await reply.after.wait()
        if reply is not None:
            return reply
        self.messages.append(message)
        self.changed.set()
        name = f"projects/{PROJECT}/messages/{len(self.messages)}"
        return Reply(200, body=json.dumps({"name": name}).encode())


class _Http2(asyncio.Protocol):
    """One HTTP/2 connection of the fake (RFC 9113), by the sans-io h2."""

    def __init__(self, fake: FakeFcm) -> None:
        self._fake = fake
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._fake.connections += 1
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived) and event.stream_id is not None:
                headers = {str(name): str(value) for name, value in event.headers or ()}
                self._requests[event.stream_id] = (headers, bytearray())
            elif isinstance(event, h2.events.DataReceived) and event.stream_id is not None:
                self._requests[event.stream_id][1].extend(event.data or b"")
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded) and event.stream_id is not None:
                task = asyncio.get_running_loop().create_task(self._respond(event.stream_id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif isinstance(event, h2.events.StreamReset) and event.stream_id is not None:
                self._requests.pop(event.stream_id, None)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        for task in list(self._tasks):
            task.cancel()

    async def _respond(self, stream_id: int) -> None:
        headers, body = self._requests[stream_id]
        reply = await self._fake.answer_send(headers[":path"], headers.get("authorization", ""), bytes(body))
        if self.transport is None or self._requests.pop(stream_id, None) is None:
            return
        if reply is HANG_UP:
            self.transport.abort()
            return
        answer = reply.encoded()
        head = [(":status", str(reply.status)), ("content-type", "application/json")]
        if reply.retry_after:
            head.append(("retry-after", reply.retry_after))
        self._h2.send_headers(stream_id, head)
        self._h2.send_data(stream_id, answer, end_stream=True)
        self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self.transport is not None:
            self.transport.write(data)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.transport is not None:
            self.transport.abort()


@dataclass(frozen=True, slots=True)
class Trust:
    """A certificate for 127.0.0.1, its key, and the file by which clients know it."""

    chain: Path
    key: Path


def make_trust(folder: Path) -> Trust:
    """Write a self-signed certificate for 127.0.0.1 into a folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trust = Trust(folder / "fcm.pem", folder / "fcm.key")
    trust.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    trust.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return trust


def service_account(token_url: str) -> dict[str, Any]:
    """Return the contents of a service account's file, with a key of its own."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": base64.b16encode(b"key").decode(),
        "private_key": pem.decode(),
        "client_email": f"push@{PROJECT}.iam.example",
        "token_uri": token_url,
    }


@contextlib.asynccontextmanager
async def fake_fcm(trust: Trust) -> AsyncIterator[FakeFcm]:
    """Run both endpoints; clients must have SSL_CERT_FILE set to `trust.chain`."""
    fake = FakeFcm()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trust.chain, trust.key)
    context.set_alpn_protocols(["h2"])
    open_protocols: list[_Http2] = []

    def connect() -> _Http2:
        open_protocols.append(_Http2(fake))
        return open_protocols[-1]

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0, ssl=context)
    async with serve(fake.answer_token) as token_url:
        fake.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        fake.certificate = service_account(token_url)
        try:
            yield fake
        finally:
            server.close()
            for protocol in open_protocols:
                await protocol.close()
            await server.wait_closed()
