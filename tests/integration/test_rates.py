"""Rates on whole servers: what one user may ask over two nodes, what is answered, and what /metrics tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from realtime.protocol.close_codes import CloseCode
from tests.integration.node import Node, running, until
from tests.integration.test_bad_input import ask, close_code, raw, sign_in


async def counted(node: Node, limit: str) -> float:
    async with httpx.AsyncClient(base_url=node.url) as http:
        page = (await http.get("/metrics")).text
    lines = [line for line in page.splitlines() if "talkmeter_rate_limited_total{" in line and f'"{limit}"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def profile(number: int) -> dict[str, Any]:
    return {"id": number, "op": "profile.update", "key": f"k{number}", "data": {"name": f"Ravi {number}"}}


async def test_an_action_is_bounded_for_a_user_over_all_nodes(shared: dict[str, Any], tmp_path: Path) -> None:
    settings = {**shared, "rate_profile_update": "6/9999s"}
    async with running(tmp_path, **settings) as one, running(tmp_path, **settings) as two:
        token = await one.token("ravi")
        async with raw(one) as here, raw(two) as there:
            await sign_in(here, token)
            assert "ok" in await sign_in(there, token, "tablet")
            replies = [await ask((here, there)[n % 2], profile(n)) for n in range(2, 12)]
            refused = [reply["error"] for reply in replies if "error" in reply]
            assert len(refused) == 4, "six over both nodes"
            assert {error["code"] for error in refused} == {"rate_limited"}
            assert all(error["retryable"] and error["details"]["retry_after_ms"] > 0 for error in refused)
            assert "ok" in await ask(here, {"id": 20, "op": "wallet.get", "data": {}}), "other work is not bounded"

        async def told() -> bool:
            return await counted(one, "profile.update") == 4

        await until(told)  # any node shows what all have counted


async def test_two_devices_of_a_user_share_what_the_user_may_ask(shared: dict[str, Any], tmp_path: Path) -> None:
    settings = {**shared, "user_requests_burst": 10, "user_requests_per_s": 1, "requests_burst": 100}
    async with running(tmp_path, **settings) as node:
        token, other = await node.token("ravi"), await node.token("asha")
        async with raw(node) as phone, raw(node) as tablet, raw(node) as stranger:
            await sign_in(phone, token)
            await sign_in(tablet, token, "tablet")
            await sign_in(stranger, other)
            replies = [await ask(device, {"id": 2, "op": "session.ping"}) for device in [phone, tablet] * 10]
            codes = [reply["error"]["code"] for reply in replies if "error" in reply]
            assert codes
            assert set(codes) == {"rate_limited"}
            assert "ok" in await ask(stranger, {"id": 2, "op": "session.ping"})
        assert await counted(node, "user") == len(codes)


async def test_failed_sign_ins_of_an_address_are_bounded_and_no_other_answer_is_given(
    shared: dict[str, Any], tmp_path: Path
) -> None:
    async with running(tmp_path, **shared, rate_failed_sign_ins="3/9999s") as node:
        token = await node.token("ravi")
        async with raw(node) as signed_in:
            await sign_in(signed_in, token)
            codes = []
            for _ in range(2):
                async with raw(node) as guesser:
                    for _ in range(3):
                        codes.append((await sign_in(guesser, "not-a-token"))["error"]["code"])
            assert codes == ["token_invalid"] * 3 + ["rate_limited"] * 3
            assert "ok" in await ask(signed_in, {"id": 2, "op": "session.ping"})
        assert await counted(node, "failed_sign_ins") == 3


async def test_a_user_who_signs_in_without_end_is_told_to_wait_and_others_are_not(
    shared: dict[str, Any], tmp_path: Path
) -> None:
    async with running(tmp_path, **shared, rate_sign_ins="3/9999s") as node:
        token, other = await node.token("ravi"), await node.token("asha")
        for device in ("phone", "tablet", "phone"):
            async with raw(node) as conn:
                assert "ok" in await sign_in(conn, token, device)
        async with raw(node) as conn:
            refused = (await sign_in(conn, token, "phone"))["error"]
            assert refused["code"] == "rate_limited"
            assert refused["details"]["retry_after_ms"] > 0
            assert await close_code(conn) == CloseCode.RATE_LIMITED
        async with raw(node) as conn:
            assert "ok" in await sign_in(conn, other)
        assert await counted(node, "sign_ins") == 1
