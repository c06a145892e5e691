"""Counts events through faults, with real processes: none may be lost, none doubled.

    python -m tests.broker.chaos --events 100000

Two nodes (processes) on one Valkey; one of them reaches it through a link that can be cut. Devices follow their users'
streams over either node and come back with their positions. A publisher commits events to a list (PostgreSQL's part)
and publishes them as the outbox relay does: again, with the same ids, until the broker took them. Meanwhile
Redis is killed and restarted, nodes are killed, the link is cut, and a device stops reading.

What is counted: a gap or a repeat within one epoch is an error at once. After `recovered: false` the device takes a
snapshot (all that is committed); later events of a version that the snapshot covered are ignored, as clients do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from realtime.broker import Broker, Outgoing
from realtime.ids import new_id
from realtime.protocol.errors import Unavailable
from tests.broker.proxy import Proxy
from tests.broker.support import Valkey, free_ports, temporary_folder, until

USERS: Final = 60  # at 1,500 events a second a cut of 30 s is within what a log keeps
DEVICES_PER_USER: Final = 2
BATCH: Final = 50
FINISH_S: Final = 60.0
LINE_MAX: Final = 1024 * 1024


@dataclass
class Figures:
    """What happened, and what went wrong."""

    published: int = 0
    delivered: int = 0
    sign_ins: int = 0
    snapshots: int = 0
    stale: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


class NodeProcess:
    """One `tests.broker.node`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.broker.node", self._url, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())

    async def kill(self) -> None:
        self.port = 0
        if self._process is not None:
            self._process.kill()
            await self._process.wait()


class Device:
    """A client as ours are: it keeps its position, comes back at once, and ignores versions that it knows."""

    def __init__(self, user: int, nodes: Sequence[NodeProcess], committed: list[int], figures: Figures) -> None:
        self.user = user
        self._nodes = nodes
        self._committed = committed
        self._figures = figures
        self._epoch = ""
        self._offset = 0
        self._known = 0  # the highest version that it knows
        self._ids: set[str] = set()
        self.deaf = asyncio.Event()
        self.deaf.set()

    def complete(self) -> bool:
        return self._known == len(self._committed)

    async def run(self) -> None:
        while True:
            port = random.choice(self._nodes).port
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                if port:
                    await self._session(port)
            await asyncio.sleep(random.uniform(0.01, 0.1))

    async def _session(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_MAX)
        try:
            ask = {"user": self.user, "epoch": self._epoch, "offset": self._offset}
            writer.write(json.dumps(ask).encode() + b"\n")
            while line := await reader.readline():
                if not line.endswith(b"\n"):
                    return  # cut off in the middle
                self._take(json.loads(line))
                await self.deaf.wait()
        finally:
            writer.transport.abort()

    def _take(self, message: dict[str, Any]) -> None:
        if "opened" in message:
            self._figures.sign_ins += 1
            opened = message["opened"]
            if not opened["recovered"]:
                self._figures.snapshots += 1
                self._known = len(self._committed)
                self._epoch, self._offset = opened["epoch"], opened["offset"]
        elif "event" in message:
            self._event(message)

    def _event(self, event: dict[str, Any]) -> None:
        errors = self._figures.errors
        if event["epoch"] != self._epoch or event["offset"] != self._offset + 1:
            at = f"{event['epoch']}:{event['offset']}"
            errors.append(f"user {self.user}: {at} follows {self._epoch}:{self._offset}")
        self._epoch, self._offset = event["epoch"], event["offset"]
        version = event["v"]
        if version <= self._known:
            self._figures.stale += 1
            if event["event_id"] in self._ids:
                errors.append(f"user {self.user}: version {version} was delivered twice")
            return
        if version != self._known + 1:
            errors.append(f"user {self.user}: version {version} follows {self._known}")
        self._ids.add(event["event_id"])
        self._known = version
        self._figures.delivered += 1


class World:
    """Everything that runs, and what can be done to it."""

    def __init__(self, folder: Path, events: int, rate_per_s: int) -> None:
        self.figures = Figures()
        self.faulted = False
        self._pause_s = BATCH / rate_per_s
        self._events = events
        self._redis = Valkey(folder, port=free_ports(1)[0])
        self._proxy = Proxy(self._redis.port)
        self.nodes: list[NodeProcess] = []
        self.devices: list[Device] = []
        self._committed: dict[int, list[int]] = {user: [] for user in range(1, USERS + 1)}
        self._tasks: list[asyncio.Task[None]] = []
        self._broker = Broker(self._redis.url)

    async def start(self) -> None:
        self._redis.start()
        await self._proxy.start()
        self.nodes = [NodeProcess(self._redis.url), NodeProcess(f"redis://127.0.0.1:{self._proxy.port}")]
        await asyncio.gather(*(node.start() for node in self.nodes))
        for user, committed in self._committed.items():
            for _ in range(DEVICES_PER_USER):
                self.devices.append(Device(user, self.nodes, committed, self.figures))
        self._tasks = [asyncio.create_task(device.run()) for device in self.devices]
        await until(lambda: self.figures.sign_ins >= len(self.devices), "all devices signed in")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for node in self.nodes:
            await node.kill()
        await self._broker.close()
        await self._proxy.close()
        self._redis.kill()

    async def publish_all(self) -> None:
        """Commit and publish until there are enough and every fault was seen, each batch until it was taken."""
        while self.figures.published < self._events or not self.faulted:
            batch = [self._commit(random.randint(1, USERS)) for _ in range(BATCH)]
            while True:
                try:
                    await self._broker.publish(batch)
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
            self.figures.published += len(batch)
            await asyncio.sleep(self._pause_s)

    def _commit(self, user: int) -> Outgoing:
        committed = self._committed[user]
        committed.append(len(committed) + 1)
        return Outgoing(new_id(), user, "call.charged", len(committed), time.time_ns() // 1_000_000, b'{"n":1}')

    async def finish(self) -> None:
        """Wait until every device knows everything."""
        await until(lambda: all(device.complete() for device in self.devices), "every device has it all", FINISH_S)

    # Faults.

    async def restart_redis(self) -> None:
        self._redis.kill()
        await asyncio.sleep(random.uniform(0.05, 0.5))
        await asyncio.to_thread(self._redis.start)

    async def kill_node(self) -> None:
        node = random.choice(self.nodes)
        await node.kill()
        await asyncio.sleep(random.uniform(0, 0.3))
        await node.start()

    async def cut_link(self, seconds: float) -> None:
        self._proxy.cut()
        await asyncio.sleep(seconds)
        self._proxy.heal()

    async def deafen(self, seconds: float) -> None:
        device = random.choice(self.devices)
        device.deaf.clear()
        await asyncio.sleep(seconds)
        device.deaf.set()


async def run(events: int, *, rate_per_s: int, cut_s: float, deaf_s: float) -> Figures:
    """Publish `events` events through every fault at least once; return what was counted."""
    folder = temporary_folder()
    world = World(folder, events, rate_per_s)
    faults: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("node_kill", world.kill_node),
        ("link_cut", lambda: world.cut_link(cut_s)),
        ("deaf_reader", lambda: world.deafen(deaf_s)),
        ("node_kill", world.kill_node),
        ("redis_restart", world.restart_redis),
    ]
    try:
        await world.start()
        publishing = asyncio.create_task(world.publish_all())
        turn = 0
        while not publishing.done():
            name, fault = faults[turn % len(faults)]
            await asyncio.sleep(random.uniform(0.2, 1.0))
            await fault()
            world.figures.faults[name] += 1
            turn += 1
            world.faulted = turn >= len(faults)
        await publishing
        await world.finish()
    finally:
        await world.close()
    return world.figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rate-per-s", type=int, default=1_500)
    parser.add_argument("--cut-s", type=float, default=30.0)
    parser.add_argument("--deaf-s", type=float, default=3.0)
    options = parser.parse_args()
    began = time.monotonic()
    figures = asyncio.run(
        run(options.events, rate_per_s=options.rate_per_s, cut_s=options.cut_s, deaf_s=options.deaf_s)
    )
    print(f"{figures} in {time.monotonic() - began:.1f} s")
    sys.exit(1 if figures.errors else 0)


if __name__ == "__main__":
    main()
