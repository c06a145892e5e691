"""The C programs of bench/native: compiled at run time, started, and spoken to. Owns nothing of the server.

`Load` is the generator; `Bench.limit` is the least that a server can do, and `Bench.relay` the least that a node can do
which hears others through Valkey, for the ratios. All need a C compiler.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import psutil

from bench.harness import UNBOUND, ServerProcess, pin, raise_open_files_limit, server_process, split_cores

SOURCES = Path(__file__).resolve().parent / "native"
ANSWER_TIMEOUT_S = 900.0  # opening 15,000 signed-in sockets takes minutes: each is a new user in PostgreSQL
PORTS_PER_SOURCE = 20_000  # of one source address; the system's range has some 28,000
SECRET = "bench-secret-that-is-long-enough-for-hs256"  # of a server that lives for one benchmark
TOKEN_LIFE_S = 86_400
SIGN_IN_TIMEOUT_MS = 60_000
SOCKETS_PER_GENERATOR = 15_000
FILES_RESERVED = 500  # of a process: engines, pools, listening sockets
PING = '{"id":2,"op":"session.ping"}'


class BenchFailed(Exception):
    """The measurement could not be made; the message says why."""


def compiled(name: str, folder: Path) -> Path:
    """Compile a program of bench/native into `folder`.

    Raises:
        BenchFailed: there is no C compiler, or it refuses.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchFailed("this scenario needs a C compiler: its load generator is a C program")
    program = folder / name
    command = [compiler, "-O2", "-o", str(program), str(SOURCES / f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchFailed(f"{name}.c does not compile:\n{done.stderr}")
    return program


@dataclass(frozen=True, slots=True)
class Answer:
    """What the generator counted in one command; see bench/native/load.c."""

    seconds: float
    cpu_s: float
    replies: int
    events: int
    published: int
    lost: int
    doubled: int
    handshakes: int
    bytes: int
    errors: int
    closed: int
    p50_us: float
    p99_us: float
    late_p99_us: float

    @property
    def busy(self) -> float:
        """The share of its core that the generator used: near 1 it measures itself."""
        return round(self.cpu_s / self.seconds, 3)


class Load:
    """A running generator. `opened` is what it took to open the connections."""

    def __init__(self, program: Path, port: int, options: Mapping[str, object], cores: Iterable[int]) -> None:
        words = [f"{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            [str(program), "127.0.0.1", str(port), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        pin(cores, self._process.pid)
        self._complaints: list[str] = []
        self._reader = threading.Thread(target=self._read_complaints, daemon=True)
        self._reader.start()
        self.opened = self._answer()

    def echo(self, seconds: float, *, rate: float = 0) -> Answer:
        """One message in flight on each connection, or `rate` messages a second over all of them."""
        return self._command(f"echo {seconds} {rate}")

    def fan_out(self, seconds: float, *, publishers: int, in_flight: int) -> Answer:
        """So many connections publish, with so many messages in flight for each, and all due at every connection."""
        return self._command(f"fanout {seconds} {publishers} {in_flight}")

    def pairs(self, seconds: float, *, in_flight: int = 0, rate: float = 0) -> Answer:
        """In each pair of connections the one sends what the other has to hear: so many in flight, or evenly paced."""
        return self._command(f"pairs {seconds} {in_flight} {rate}")

    def handshakes(self, seconds: float) -> Answer:
        """Open and drop connections; with a greeting, once that has been answered."""
        return self._command(f"handshakes {seconds}")

    def close(self) -> None:
        """End the generator and its connections."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _command(self, line: str) -> Answer:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._answer()
        if answer.errors or answer.closed:
            raise BenchFailed(f"{answer.errors} errors, {answer.closed} closed: {''.join(self._complaints)}")
        return answer

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        timer = threading.Timer(ANSWER_TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            self._process.wait()
            self._reader.join()
            raise BenchFailed(f"the load generator ended: {''.join(self._complaints)}")
        fields: dict[str, Any] = json.loads(line)
        del fields["what"]
        return Answer(**fields)

    def _read_complaints(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            self._complaints.extend(lines)


class Bench:
    """The programs, compiled, and the cores: ours for the server, the other half for all else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._load = compiled("load", folder)
        self._limit = compiled("limit", folder)
        self._loads: list[Load] = []
        self.server_cores, self.load_cores = split_cores()

    def load(self, port: int, *, connections: int, **options: object) -> Load:
        """Open connections to a server on 127.0.0.1.

        Raises:
            BenchFailed: they cannot be opened.
        """
        options.setdefault("sources", 1 + connections // PORTS_PER_SOURCE)
        self._loads.append(Load(self._load, port, {"connections": connections, **options}, self.load_cores))
        return self._loads[-1]

    def sign_ins(self, users: range, *, name: str = "u") -> Path:
        """Return a file of session.sign_in messages, one a line, each for a user of its own."""
        path = self._folder / f"sign-ins-{name}-{users.start}"
        now = int(time.time())
        claims = {"iss": "talkmeter", "aud": "talkmeter", "iat": now, "exp": now + TOKEN_LIFE_S}
        with path.open("w") as out:
            for user in users:
                token = jwt.encode(claims | {"sub": f"{name}{user}"}, SECRET, "HS256", headers={"kid": "main"})
                data = {"token": token, "device_id": "bench"}
                out.write(json.dumps({"id": 1, "op": "session.sign_in", "data": data}) + "\n")
        return path

    def open_idle(self, server: ServerProcess, sockets: int, name: str) -> Iterator[Load]:
        """Open signed-in sockets, as many to a generator as it may have files, each a user of its own."""
        for start in range(0, sockets, SOCKETS_PER_GENERATOR):
            users = range(start, min(sockets, start + SOCKETS_PER_GENERATOR))
            first = self.sign_ins(users, name=name)
            source = 2 + start // SOCKETS_PER_GENERATOR  # each generator has an address's ports to itself
            yield self.load(port_of(server), connections=len(users), first=first, message=PING, source=source)

    @contextmanager
    def server(self, *arguments: str, **settings: object) -> Iterator[ServerProcess]:
        """A talkmeter on the server's cores, its engines on the others', with limits that a benchmark does not meet."""
        with server_process(*arguments, settings=unlimited(**settings), cores=self.server_cores) as server:
            for child in psutil.Process(server.pid).children(recursive=True):
                if not child.name().startswith("python"):
                    pin(self.load_cores, child.pid)
            yield server

    @contextmanager
    def limit(self, *arguments: str) -> Iterator[tuple[int, int]]:
        """The C server; gives its port and process id."""
        with self._c_server(self._limit, "0", *arguments) as port_and_pid:
            yield port_and_pid

    @contextmanager
    def relay(self, valkey_socket: str, event_bytes: int) -> Iterator[tuple[int, int]]:
        """The C server that publishes through Valkey, events of so many bytes; gives its port and process id."""
        with self._c_server(compiled("relay", self._folder), "0", valkey_socket, str(event_bytes)) as port_and_pid:
            yield port_and_pid

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Keep all cores from going idle, by processes that give way to everybody (bench/native/awake.c).

        Raises:
            BenchFailed: the system does not let it.
        """
        program = compiled("awake", self._folder)
        with ExitStack() as running:
            for core in sorted(self.server_cores | self.load_cores):
                process = running.enter_context(subprocess.Popen([str(program), str(core)], stdout=subprocess.PIPE))
                running.callback(process.kill)
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise BenchFailed(f"core {core} cannot be kept awake")
            yield

    @contextmanager
    def _c_server(self, program: Path, *arguments: str) -> Iterator[tuple[int, int]]:
        process = subprocess.Popen([str(program), *arguments], stdout=subprocess.PIPE, text=True)
        try:
            pin(self.server_cores, process.pid)
            assert process.stdout is not None
            with process.stdout as lines:
                listening = lines.readline().split()
                if not listening:
                    raise BenchFailed(f"{program.name} ended with status {process.wait()}")
                yield int(listening[1]), process.pid
        finally:
            process.kill()
            process.wait()

    def close_loads(self) -> None:
        """End all generators, so that the next server has the machine to itself."""
        for load in self._loads:
            load.close()
        self._loads.clear()


@contextmanager
def bench() -> Iterator[Bench]:
    """Compile the programs for the length of the block.

    Raises:
        BenchFailed: there is no C compiler.
    """
    folder = Path(tempfile.mkdtemp(prefix="tm-bench-native-"))
    bench: Bench | None = None
    try:
        bench = Bench(folder)
        yield bench
    finally:
        if bench is not None:
            bench.close_loads()
        shutil.rmtree(folder, ignore_errors=True)


def unlimited(**settings: object) -> dict[str, str]:
    """Return a server's settings: limits that no benchmark meets, the key of `Bench.sign_ins`, and `settings`."""
    values = {
        "jwt_secret": SECRET,
        "log_level": "error",
        **UNBOUND,
        "sign_in_timeout_ms": SIGN_IN_TIMEOUT_MS,
        **settings,
    }
    return {name: str(value) for name, value in values.items()}


def sockets_max(workers: int) -> int:
    """Return how many sockets so many hub processes may have open on this machine."""
    return (raise_open_files_limit() - FILES_RESERVED) * workers


def port_of(server: ServerProcess) -> int:
    """Return the port of a running talkmeter."""
    return int(server.url.rsplit(":", 1)[1])


def process_cpu_s(pid: int) -> float:
    """Return the CPU time of one process."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def stolen_s() -> float:
    """Return the time that the host has taken from this virtual machine's cores; 0 where that is unknown."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def median(values: Sequence[float]) -> float:
    """Return the middle value; of the two middle ones the lower."""
    return sorted(values)[(len(values) - 1) // 2]
