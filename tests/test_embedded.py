"""The embedded engines: ready, private, gone with their parent, and not twice on one folder."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio as aioredis

from realtime.embedded import Engines

STARTER = """
import sys, time
from pathlib import Path
from realtime.embedded import Engines
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


async def test_a_killed_parent_leaves_no_orphan_and_loses_no_commit(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("killed")
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


def test_the_engines_do_not_run_as_root(engines: Engines) -> None:
    for pid in engines.pids().values():
        assert os.stat(f"/proc/{pid}").st_uid != 0
