"""From durable events to queued pushes, in the transaction in which the relay deletes the events.

Owns nothing but the order of looking things up: what costs nothing first. Imports accounts through its service.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
import structlog

from realtime.accounts.service import Accounts
from realtime.ids import new_id
from realtime.outbox import OutboxRow
from realtime.push.decide import Alert, Happening, Recipient, decide, pushable
from realtime.push.kinds import KINDS
from realtime.push.queue import Job, enqueue
from realtime.push.store import PushRow, PushStore

log = structlog.get_logger()

ENTRYPOINT: Final = "push"
PUSHES_PER_JOB_MAX: Final = 20  # about 100 notices for users with all their devices: one round of the sender
URGENT_PRIORITY: Final = 10
ARGS_BYTES_MAX: Final = 2_500  # FCM takes 4,096 bytes with all keys and headers around them
TAKES_BACK_TOO: Final = {"missed_call": "incoming_call"}  # an alert in its own right, which ends the ring all the same

Online = Callable[[Collection[int]], Awaitable[set[int]]]
"""Returns which of these users (internal ids) have a live socket somewhere."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An alert for one user, and the event behind it, unless something else causes it."""

    tenant_id: int
    user_id: int
    event_id: UUID | None
    alert: Alert


class PushPlanner:
    """Implements the outbox's Planner."""

    def __init__(self, accounts: Accounts, *, online: Online, clock: Callable[[], int]) -> None:
        """Make a planner.

        Args:
            clock: unix milliseconds.
        """
        self._accounts = accounts
        self._online = online
        self._clock = clock
        self._store = PushStore()

    async def plan(self, conn: asyncpg.Connection, events: Sequence[OutboxRow]) -> None:
        """Enqueue what these events tell users by push, on `conn`, in the caller's transaction."""
        candidates = [(row, user_id) for row in events if pushable(row.event) for user_id in row.audience]
        if not candidates:
            return
        # In one order over all nodes, so that two relays wait for one another and never in a circle.
        users = sorted({user_id for _, user_id in candidates})
        reachable = {target.user_id for target in await self._accounts.push_targets(users, conn=conn)}
        candidates = [(row, user_id) for row, user_id in candidates if user_id in reachable]
        if candidates:
            await self.queue(conn, await self._wanted(conn, candidates))

    async def queue(self, conn: asyncpg.Connection, wanted: Sequence[Wanted]) -> None:
        """Enqueue alerts, each at most once for its user, kind and thing; for what no event causes (reminders) too."""
        if not wanted:
            return
        now_ms = self._clock()
        wanted = await self._without_needless(conn, wanted)
        rows = [_row(one) for one in wanted]
        fresh = await self._store.insert(conn, rows, now_ms) if rows else set()
        jobs = list(_jobs([(row, one.alert) for row, one in zip(rows, wanted, strict=True) if row.id in fresh]))
        if jobs:
            await enqueue(conn, jobs)

    async def _wanted(self, conn: asyncpg.Connection, candidates: Sequence[tuple[OutboxRow, int]]) -> list[Wanted]:
        users = {user_id for _, user_id in candidates}
        online = await self._online(users)
        muted = await self._store.mutes(conn, users)
        # A message's sender is in its audience, and is who its alert names.
        cards = await self._accounts.user_cards({user for row, _ in candidates for user in row.audience}, conn=conn)
        names = {card.user: card.name for card in cards.values()}
        now_ms = self._clock()
        wanted = []
        for row, user_id in candidates:
            happening = Happening(str(row.id), row.event, msgspec.json.decode(row.data), names)
            recipient = Recipient(
                cards[user_id].user if user_id in cards else "",
                user_id in online,
                frozenset(muted.get(user_id, ())),
            )
            try:
                alert = decide(happening, recipient, now_ms)
            except Exception:
                # An event that this code does not understand must not stand in the way of all others for ever.
                log.exception("push_undecided", event_name=row.event, event_id=str(row.id))
                continue
            if alert is not None:
                wanted.append(Wanted(row.tenant_id, user_id, row.id, alert))
        return wanted

    async def _without_needless(self, conn: asyncpg.Connection, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Take back earlier pushes, and drop the tombstones of those that never went out."""
        over = {
            (one.user_id, kind, one.alert.thing)
            for one in wanted
            if (kind := one.alert.takes_back or TAKES_BACK_TOO.get(one.alert.kind)) is not None
        }
        gone_out = await self._store.cancel(conn, over) if over else set()
        return [one for one in wanted if one.alert.takes_back is None or (one.user_id, one.alert.thing) in gone_out]


def _row(one: Wanted) -> PushRow:
    args = dict(one.alert.args)
    while len(msgspec.json.encode(args)) > ARGS_BYTES_MAX:
        longest = max(args, key=lambda name: len(args[name]))
        args[longest] = args[longest][: len(args[longest]) // 2]
    return PushRow(
        new_id(),
        one.tenant_id,
        one.user_id,
        one.alert.kind,
        one.alert.thing,
        one.event_id,
        args,
        one.alert.except_device,
        one.alert.expires_ms,
    )


def _jobs(pushes: Sequence[tuple[PushRow, Alert]]) -> Iterator[Job]:
    """Return jobs of pushes of one kind that are due together. A job is tried again as a whole, and no ring may have to
    wait for what a message waits for.
    """

    def group(push: tuple[PushRow, Alert]) -> tuple[int, str]:
        row, alert = push
        return alert.delay_ms, row.kind

    for (delay_ms, kind), members in itertools.groupby(sorted(pushes, key=group), key=group):
        ids = [str(row.id) for row, _ in members]
        priority = URGENT_PRIORITY if KINDS[kind].urgent else 0
        for start in range(0, len(ids), PUSHES_PER_JOB_MAX):
            payload = msgspec.json.encode(ids[start : start + PUSHES_PER_JOB_MAX])
            yield Job(ENTRYPOINT, payload, priority, delay_ms)
