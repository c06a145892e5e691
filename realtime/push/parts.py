"""Everything that pushes are made of, joined: what app.py builds when a service account is set."""

from __future__ import annotations

import time

import asyncpg

from realtime.accounts.service import Accounts
from realtime.config import SettingsError
from realtime.push.delivery import PushDelivery
from realtime.push.fcm import FcmSender
from realtime.push.planner import Online, PushPlanner
from realtime.push.worker import PushWorker


class PushParts:
    """The planner for the outbox, and the worker that a node with jobs runs. Make it in the event loop that uses it."""

    def __init__(
        self, pool: asyncpg.Pool, accounts: Accounts, *, online: Online, certificate: str, url: str = ""
    ) -> None:
        """Join the parts; nothing is fetched or started yet.

        Args:
            online: which of some users (internal ids) have a live socket on any node.
            certificate: path of the service account's file.
            url: origin of the messaging endpoint when it is not Google's.

        Raises:
            SettingsError: the service account cannot be read.
        """
        try:
            self.sender = FcmSender(certificate, url=url)
        except (OSError, ValueError) as exc:
            raise SettingsError(f"TALKMETER_FIREBASE_CREDENTIALS should be a service account's file: {exc}") from None
        self.planner = PushPlanner(accounts, online=online, clock=_now_ms)
        self.worker = PushWorker(pool, PushDelivery(pool, accounts, self.sender, clock=_now_ms))

    async def close(self) -> None:
        """Close the connections to the push service, after the worker has ended."""
        await self.sender.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
