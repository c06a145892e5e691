"""Autobahn's cases, as kosoku runs them, against the real transport: all of its quick set, and those of large messages.

The echo speaks no subprotocol and takes text and binary alike, which is the one difference to the product's server.
Left out are the cases of permessage-deflate (12.*, 13.*), which kosoku 0.1.0 cannot hash; what compression
must do is tested in tests/transport.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from starlette.applications import Starlette

from realtime.transport.connection import Connection
from realtime.transport.frames import frame
from realtime.transport.options import SocketOptions
from realtime.transport.server import Server

CASES_QUICK = 247
KOSOKU_TIMEOUT_S = 120.0
PASSED = {"OK", "INFORMATIONAL", "NON-STRICT"}

QUICK = ["-x", "9.*", "-x", "12.*", "-x", "13.*"]
LARGE = ["-i", "9.1.*", "-i", "9.2.*", "-i", "9.5.*", "-i", "9.6.*"]


class Echo:
    """Sends every message back in the kind of frame that it came in."""

    def connected(self, conn: Connection) -> None:
        pass

    def received(self, conn: Connection, payload: bytes) -> None:
        conn.send_frame(frame(payload, conn.message_opcode))

    def closed(self, conn: Connection, code: int) -> None:
        pass


async def run_cases(server: Server, selection: list[str], folder: Path) -> dict[str, dict[str, str]]:
    """Run kosoku; return its report by case."""
    command = Path(sys.executable).with_name("kosoku")
    arguments = ["-m", "fuzzingclient", *selection, "-p", "4", "-o", str(folder), f"127.0.0.1:{server.port}"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        str(command), *arguments, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(KOSOKU_TIMEOUT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    index = folder / "index.json"
    assert index.exists(), output.decode()
    (report,) = json.loads(index.read_text()).values()
    assert isinstance(report, dict)
    return report


@pytest.mark.parametrize(("selection", "cases"), [(QUICK, CASES_QUICK), (LARGE, 24)], ids=["quick", "large"])
async def test_every_case_passes(tmp_path: Path, selection: list[str], cases: int) -> None:
    options = SocketOptions(
        path="/",
        require_subprotocol=False,
        message_bytes_max=1 << 24,
        outbox_bytes_max=1 << 26,
        frames_per_s=1_000_000,
        frames_burst=1_000_000,
        sign_in_timeout_ms=int(KOSOKU_TIMEOUT_S * 1_000),
    )
    server = Server(Starlette(), Echo(), {}, sockets=options)
    await server.start()
    try:
        report = await run_cases(server, selection, tmp_path)
    finally:
        await server.stop(drain_ms=1)
    failed = {
        case: result
        for case, result in report.items()
        if result["behavior"] not in PASSED or result["behaviorClose"] not in PASSED
    }
    assert failed == {}
    assert len(report) == cases
