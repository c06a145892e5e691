"""Hosts as others see them, over two nodes: the directory, watching, busy, and what a choice changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.calling import Player
from tests.integration.node import Node, running, until


@pytest.fixture
async def pair(shared: dict[str, Any], tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    async with running(tmp_path, **shared) as one, running(tmp_path, **shared) as two:
        yield one, two


async def test_the_directory_lists_online_hosts_by_language_tag_and_price(pair: tuple[Node, Node]) -> None:
    one, two = pair
    asha = await one.token("asha", host=True, languages=["hi"], tags=["music"], price_coins=5, pulse_ms=60_000)
    bela = await one.token("bela", host=True, languages=["en", "hi"], tags=["law"], price_coins=50, pulse_ms=60_000)
    ravi = await one.token("ravi")
    async with one.client(asha, "a"), two.client(bela, "b"), two.client(ravi, "r") as client:

        async def hosts(**query: Any) -> list[str]:
            return sorted(card["user"] for card in (await client.request("hosts.list", query))["hosts"])

        async def both() -> bool:
            return await hosts() == ["asha", "bela"]

        await until(both)
        assert await hosts(languages=["hi"]) == ["asha", "bela"]
        assert await hosts(languages=["en"]) == ["bela"]
        assert await hosts(tags=["music"]) == ["asha"]
        assert await hosts(max_price_coins=10) == ["asha"]
        assert await hosts(languages=["fr"]) == []


async def test_watchers_learn_of_coming_going_and_calls(pair: tuple[Node, Node]) -> None:
    one, two = pair
    asha = await one.token("asha", host=True, price_coins=1, pulse_ms=60_000)
    ravi = await one.token("ravi", coins=10)
    watcher_token = await one.token("watcher")
    async with two.client(watcher_token, "w") as wc, one.client(ravi, "r") as rc:
        watcher, caller = Player(wc), Player(rc)
        answer = await watcher.ask("presence.watch", users=["asha"])
        assert answer["states"][0]["status"] == "offline"

        async def told(status: str) -> bool:
            diffs = [event.data for event in watcher.seen if event.name == "presence.diff"]
            states = [state for diff in diffs for state in (*diff["joins"], *diff["leaves"])]
            return bool(states) and states[-1]["status"] == status

        async with one.client(asha, "a") as hc:
            host = Player(hc)
            await until(lambda: told("online"))
            call_id = (await caller.ask("call.invite", host="asha", media="voice"))["call"]["call_id"]
            await until(lambda: told("busy"))
            await host.ask("call.decline", call_id=call_id)
            await until(lambda: told("online"))
            await host.ask("presence.set", status="dnd")
            await until(lambda: told("dnd"))
            with pytest.raises(Exception, match="host_unavailable"):
                await caller.ask("call.invite", host="asha", media="voice")
        await until(lambda: told("offline"))


async def test_a_host_who_changes_her_page_is_shown_as_she_is_now(node: Node) -> None:
    asha = await node.token("asha", host=True, price_coins=5)
    ravi = await node.token("ravi")
    async with node.client(ravi, "r") as rc, node.client(asha, "a") as hc:
        watcher, host = Player(rc), Player(hc)
        await watcher.ask("hosts.watch")
        await host.ask("hosts.update", headline="Evening songs", price_coins=9)

        async def told() -> bool:
            diffs = [event.data for event in watcher.seen if event.name == "hosts.diff"]
            cards = [card for diff in diffs for card in diff["joins"]]
            return any(card["headline"] == "Evening songs" and card["price_coins"] == 9 for card in cards)

        await until(told)
