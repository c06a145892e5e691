"""The push worker of a node: the queue joined with the delivery. Composition of this folder; app.py owns the task."""

from __future__ import annotations

import asyncpg

from realtime.push.delivery import PushDelivery
from realtime.push.planner import ENTRYPOINT
from realtime.push.queue import QueueWorker


class PushWorker:
    """Sends queued pushes until cancelled; any number of nodes may run one."""

    def __init__(self, pool: asyncpg.Pool, delivery: PushDelivery) -> None:
        self._queue = QueueWorker(pool, {ENTRYPOINT: delivery.handle})

    async def run(self) -> None:
        """Run until cancelled; ends what is under way before it returns."""
        await self._queue.run()
