"""The command line, as an operator uses it, with embedded engines on a data folder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from tests.integration.node import ROOT, STOP_TIMEOUT_S, Node, running, until


async def command(*arguments: str, **settings: object) -> tuple[int, str, str]:
    """Run `talkmeter ARGUMENTS` to its end; return exit status, output, errors."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TALKMETER_")}
    env |= {f"TALKMETER_{name.upper()}": str(value) for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "realtime", *arguments,
        cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
def data_dir(engine_folder: Path) -> str:
    return str(engine_folder / "data")


@pytest.mark.crash
async def test_a_killed_server_starts_again_with_every_committed_row(data_dir: str, tmp_path: Path) -> None:
    node = await Node.start(tmp_path, "--data-dir", data_dir)
    token = await node.token("ravi", coins=42)
    await node.kill()
    async with running(tmp_path, "--data-dir", data_dir) as again:
        async with again.client(token, "d") as client:
            wallet = (await client.request("wallet.get", {}))["wallet"]
        assert wallet["coins"] == 42
        status, out, _ = await command("audit", "--data-dir", data_dir)
        assert status == 0
        assert "the books are right" in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_the_server_and_its_engines(data_dir: str, tmp_path: Path, number: int) -> None:
    node = await Node.start(tmp_path, "--data-dir", data_dir)
    children = psutil.Process(node.process.pid).children()
    assert len(children) == 2
    node.process.send_signal(number)
    assert await asyncio.wait_for(node.process.wait(), STOP_TIMEOUT_S) == 0
    assert not any(child.is_running() for child in children)


async def test_a_token_of_the_command_line_signs_in_with_its_coins(data_dir: str, tmp_path: Path) -> None:
    status, _, err = await command("token", "--user", "ravi", "--coins", "30", "--data-dir", data_dir)
    assert status == 0, err
    async with running(tmp_path, "--data-dir", data_dir) as node:
        status, token, err = await command("token", "--user", "ravi", "--name", "Ravi", "--data-dir", data_dir)
        assert status == 0, err
        async with node.client(token.strip(), "d") as client:
            assert client.welcome["user"] == {"id": "ravi", "name": "Ravi", "avatar_url": ""}
            assert client.welcome["snapshot"]["wallet"]["coins"] == 30


async def test_audit_finds_a_planted_fault(data_dir: str, tmp_path: Path) -> None:
    async with running(tmp_path, "--data-dir", data_dir) as node:
        await node.token("ravi", coins=30)
        url = json.loads((Path(data_dir) / "engines.json").read_text())["database_url"]
        conn = await asyncpg.connect(url)
        try:
            await conn.execute("update billing.spending_wallets set promo = promo + 1")
        finally:
            await conn.close()
        status, out, _ = await command("audit", "--data-dir", data_dir)
        assert status == 1
        assert "THE BOOKS ARE WRONG" in out


async def test_a_month_that_does_not_exist_is_not_archived(data_dir: str, tmp_path: Path) -> None:
    status, out, err = await command("archive", "1999-01", "--folder", str(tmp_path), "--data-dir", data_dir)
    assert (status, out) == (2, "")
    assert "charges_199901" in err


async def test_a_wrong_setting_is_one_line_that_names_it() -> None:
    status, out, err = await command("serve", port="http")
    assert status == 2
    assert out == ""
    assert err.strip().startswith("talkmeter: TALKMETER_PORT='http' is wrong")
    assert len(err.strip().splitlines()) == 1


async def test_development_is_refused_off_loopback() -> None:
    status, _, err = await command("serve", "--dev", "--host", "0.0.0.0")
    assert status == 2
    assert "refused on 0.0.0.0" in err


async def test_health_readiness_and_the_demo_answer(node: Node) -> None:
    async with httpx.AsyncClient(base_url=node.url) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        ready = await http.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["parts"] == {"database": "ok", "redis": "ok"}
        page = await http.get("/demo/")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert (await http.get("/client/talkmeter.js")).status_code == 200


async def test_metrics_show_the_audit_and_the_sockets_of_all_processes(shared: dict[str, Any], tmp_path: Path) -> None:
    async with running(tmp_path, "--workers", "2", **shared) as node, httpx.AsyncClient(base_url=node.url) as http:
        await node.token("ravi", coins=5)

        async def clean_audit() -> bool:
            page = (await http.get("/metrics")).text
            faults = [line for line in page.splitlines() if line.startswith("talkmeter_audit_faults{")]
            return len(faults) == 1 and faults[0].endswith(" 0.0") and page.count("talkmeter_cpu_seconds_total{") == 3

        await until(clean_audit, timeout_s=30)


async def test_development_tokens_are_not_minted_for_other_origins(node: Node) -> None:
    async with httpx.AsyncClient(base_url=node.url) as http:
        simple = await http.post("/dev/token", content='{"user": "x"}', headers={"content-type": "text/plain"})
        assert simple.status_code == 422
        wrong = await http.post("/dev/token", json={"user": 7})
        assert wrong.json()["error"]["code"] == "invalid_data"
        large = await http.post("/dev/token", json={"user": "x" * 100_000})
        assert large.status_code >= 400


async def test_a_server_without_dev_has_no_development_routes(shared: dict[str, Any], tmp_path: Path) -> None:
    async with running(tmp_path, dev=False, **shared) as node, httpx.AsyncClient(base_url=node.url) as http:
        assert (await http.post("/dev/token", json={"user": "x"})).status_code == 404
        assert (await http.get("/demo/")).status_code == 404


async def test_a_database_that_is_away_is_told_in_one_line() -> None:
    away = {"database_url": "postgresql://nobody@127.0.0.1:1/none", "redis_url": "redis://127.0.0.1:1"}
    status, _, err = await command("serve", **away)
    assert status == 2
    assert err.startswith("talkmeter: ConnectionRefusedError")
    assert len(err.splitlines()) == 1


async def test_a_wrong_redis_url_is_told_in_one_line(data_dir: str) -> None:
    status, _, err = await command("serve", "--data-dir", data_dir, "--redis-url", "http://127.0.0.1")
    assert status == 2
    assert err.startswith("talkmeter: http:// is no Redis URL")
    assert len(err.splitlines()) == 1


async def test_a_port_in_use_is_told_in_one_line(data_dir: str, tmp_path: Path) -> None:
    async with running(tmp_path, "--data-dir", data_dir) as node:
        port = node.url.rpartition(":")[2]
        urls = json.loads((Path(data_dir) / "engines.json").read_text())
        status, _, err = await command("serve", "--port", port, **urls)
    assert status == 2
    assert err.startswith("talkmeter: OSError")
    assert "Address already in use" in err
    assert len(err.splitlines()) == 1
