"""A real Chromium and a real server for the browser tests; pages keep what their consoles say."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from tests.integration.node import Node, running

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--allow-loopback-in-peer-connection",
    "--autoplay-policy=no-user-gesture-required",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGE_TIMEOUT_MS = 20_000  # for a machine that runs other things too
PICTURES = Path(__file__).with_name("out")


@dataclass(eq=False)
class Window:
    """One user's window of the demo."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def part(self, test_id: str) -> Locator:
        return self.page.get_by_test_id(test_id)

    def in_call(self, test_id: str) -> Locator:
        return self.page.locator("#call").get_by_test_id(test_id)

    async def come_in(self, name: str, role: str, **fields: str) -> None:
        """Fill in the welcome page and enter."""
        await self.part(f"role-{role}").check()
        await self.part("name").fill(name)
        for test_id, value in fields.items():
            if test_id == "pulse":
                await self.part(test_id).select_option(value)
            else:
                await self.part(test_id).fill(value)
        await self.part("enter").click()
        await self.page.locator("#lobby").wait_for()

    async def picture(self, name: str) -> None:
        """Save a screenshot for people to look at."""
        PICTURES.mkdir(exist_ok=True)
        await self.page.screenshot(path=PICTURES / f"{name}.png")

    async def wait_frames(self, count: int) -> None:
        """Wait until this browser has decoded so many frames of the other one's video."""
        await self.page.wait_for_function(
            """async (count) => {
                const stats = [...((await talkmeterDemo.callScreen.stats) ?? []).values()];
                const video = stats.filter((entry) => entry.type === "inbound-rtp" && entry.kind === "video");
                return video.reduce((sum, entry) => sum + (entry.framesDecoded ?? 0), 0) >= count;
            }""",
            arg=count,
        )


Open = Callable[..., Awaitable[Window]]


@pytest.fixture
async def node(pg_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Node]:
    """A server that warns at eight seconds before the end, so that a short call shows the warning."""
    settings: dict[str, Any] = {
        "database_url": pg_url,
        "redis_url": redis_url,
        "redis_prefix": tmp_path.name[:16].replace("_", "-").lower(),
        "data_dir": tmp_path / "data",
        "database_pool_size": 6,
        "drain_ms": 200,
        "low_balance_ms": "8000",
    }
    async with running(tmp_path, **settings) as node:
        yield node


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = next((found for found in map(shutil.which, CHROMIUM_NAMES) if found), None)
    assert path is not None, "no Chromium: run .ci/install-chromium"
    expect.set_options(timeout=PAGE_TIMEOUT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@pytest.fixture
async def open_window(browser: Browser, node: Node) -> AsyncIterator[Open]:
    """Opens windows of users who share nothing, as on two machines."""
    async with AsyncExitStack() as stack:

        async def open_window(*, width: int = 1280, height: int = 800, dark: bool = False) -> Window:
            context = await browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                permissions=["camera", "microphone"],
            )
            stack.push_async_callback(context.close)
            context.set_default_timeout(PAGE_TIMEOUT_MS)
            window = Window(await context.new_page())
            window.page.on("pageerror", lambda error: window.complaints.append(str(error)))
            window.page.on(
                "console",
                lambda line: window.complaints.append(line.text) if line.type in ("error", "warning") else None,
            )
            await window.page.goto(f"{node.url}/demo/")
            return window

        yield open_window
