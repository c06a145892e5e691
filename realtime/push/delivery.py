"""One attempt at sending a job's pushes, and what the ledger says of it. Imports accounts through its service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import msgspec

from realtime.accounts.models import PushTarget
from realtime.accounts.service import Accounts
from realtime.push.notice import Outcome, Sender, compose
from realtime.push.retry import next_attempt_ms
from realtime.push.store import Claimed, PushRow, PushStore


@dataclass(frozen=True, slots=True)
class Attempt:
    """A notice for one device, and its outcome."""

    push: PushRow
    target: PushTarget
    outcome: Outcome


class PushDelivery:
    """Sends queued pushes. A push that the service takes just before this process dies may go out twice; its tag makes
    the second replace the first, so that there is one alert all the same.
    """

    def __init__(self, pool: asyncpg.Pool, accounts: Accounts, sender: Sender, *, clock: Callable[[], int]) -> None:
        self._pool = pool
        self._accounts = accounts
        self._sender = sender
        self._clock = clock
        self._store = PushStore()

    async def handle(self, payload: bytes, tried: int) -> int | None:
        """Send a job's pushes to all devices that have not got them; see queue.Handler."""
        push_ids = msgspec.json.decode(payload, type=list[UUID])
        now_ms = self._clock()
        async with self._pool.acquire() as conn:
            claimed = await self._store.claim(conn, push_ids)
            due, needless = _sorted_out(claimed, now_ms)
            if needless:
                await self._store.settle(conn, needless)
            if not due:
                return None
            targets = await self._accounts.push_targets({push.user_id for push in due}, conn=conn)
            delivered = await self._store.delivered(conn, [push.id for push in due])
        pairs = [
            (push, target)
            for push in due
            for target in targets
            if target.user_id == push.user_id
            and target.device_id != push.except_device
            and (push.id, target.device_id) not in delivered
        ]
        attempts = await self._send(pairs, now_ms)
        return await self._record(due, attempts, delivered, tried)

    async def _send(self, pairs: Sequence[tuple[PushRow, PushTarget]], now_ms: int) -> list[Attempt]:
        notices = [
            compose(
                push_id=str(push.id),
                kind=push.kind,
                args=push.args,
                address_kind=target.kind,
                address=target.address,
                expires_ms=push.expires_ms,
                now_ms=now_ms,
            )
            for push, target in pairs
        ]
        outcomes = await self._sender.send(notices) if notices else []
        return [Attempt(push, target, outcome) for (push, target), outcome in zip(pairs, outcomes, strict=True)]

    async def _record(
        self,
        due: Sequence[PushRow],
        attempts: Sequence[Attempt],
        delivered: dict[tuple[UUID, str], str],
        tried: int,
    ) -> int | None:
        """Write down what became of the attempts; return when to try the rest again, or None."""
        now_ms = self._clock()
        over = [attempt for attempt in attempts if attempt.outcome.state != "retry"]
        again = [attempt for attempt in attempts if attempt.outcome.state == "retry"]
        waits = {
            attempt.push.id: next_attempt_ms(
                attempts=tried + 1,
                retry_after_ms=max(a.outcome.retry_after_ms for a in again if a.push.id == attempt.push.id),
                expires_ms=attempt.push.expires_ms,
                now_ms=now_ms,
            )
            for attempt in again
        }
        later = {push_id: wait for push_id, wait in waits.items() if wait is not None}
        reached = {push_id for (push_id, _), state in delivered.items() if state not in ("dead", "refused")}
        reached |= {attempt.push.id for attempt in over if attempt.outcome.state == "sent"}
        tried_ids = {attempt.push.id for attempt in attempts} | {push_id for push_id, _ in delivered}
        states = [
            (push.id, "sent" if push.id in reached else "failed" if push.id in tried_ids else "unreachable")
            for push in due
            if push.id not in later
        ]
        dead = [(a.target.kind, a.target.address) for a in over if a.outcome.state == "dead"]
        async with self._pool.acquire() as conn, conn.transaction():
            if over:
                deliveries = [(a.push.id, a.target.device_id, a.outcome) for a in over]
                await self._store.record(conn, deliveries, now_ms)
            if states:
                await self._store.settle(conn, states)
        if dead:
            await self._accounts.forget_push_addresses(dead)
        return max(later.values(), default=None)


def _sorted_out(claimed: Sequence[Claimed], now_ms: int) -> tuple[list[PushRow], list[tuple[UUID, str]]]:
    """Return what is to be sent now, and the rest with the state in which it ends."""
    due: list[PushRow] = []
    needless: list[tuple[UUID, str]] = []
    for one in claimed:
        if one.confirmed:
            needless.append((one.row.id, "unneeded"))
        elif one.row.expires_ms <= now_ms:
            needless.append((one.row.id, "expired"))
        else:
            due.append(one.row)
    return due, needless
