"""One attempt at sending a job's pushes, and what the ledger says of it. Imports accounts through its service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        delivered: Mapping[tuple[UUID, str], str],
        tried: int,
    ) -> int | None:
        """Write down what became of the attempts; return when to try the rest again, or None."""
        now_ms = self._clock()
        later = _waits(attempts, tried + 1, now_ms)
        states = [(push.id, _end_state(push.id, attempts, delivered)) for push in due if push.id not in later]
        over = [
            (attempt.push.id, attempt.target.device_id, attempt.outcome)
            for attempt in attempts
            if attempt.outcome.state != "retry"
        ]
        async with self._pool.acquire() as conn, conn.transaction():
            if over:
                await self._store.record(conn, over, now_ms)
            if states:
                await self._store.settle(conn, states)
        dead = [(one.target.kind, one.target.address) for one in attempts if one.outcome.state == "dead"]
        if dead:
            await self._accounts.forget_push_addresses(dead)
        return max(later.values(), default=None)


def _waits(attempts: Sequence[Attempt], tried: int, now_ms: int) -> dict[UUID, int]:
    """Return after how many milliseconds each push is to be tried again, for those that are."""
    wishes: dict[UUID, int] = {}
    ends: dict[UUID, int] = {}
    for attempt in attempts:
        if attempt.outcome.state == "retry":
            push = attempt.push
            wishes[push.id] = max(wishes.get(push.id, 0), attempt.outcome.retry_after_ms)
            ends[push.id] = push.expires_ms
    waits = {
        push_id: next_attempt_ms(attempts=tried, retry_after_ms=wish, expires_ms=ends[push_id], now_ms=now_ms)
        for push_id, wish in wishes.items()
    }
    return {push_id: wait for push_id, wait in waits.items() if wait is not None}


def _end_state(push_id: UUID, attempts: Sequence[Attempt], delivered: Mapping[tuple[UUID, str], str]) -> str:
    """Return how a push ends that is not tried again: one device that has it is enough."""
    states = {state for (id_, _), state in delivered.items() if id_ == push_id}
    states |= {attempt.outcome.state for attempt in attempts if attempt.push.id == push_id}
    if not states:
        return "unreachable"
    return "failed" if states <= {"dead", "refused", "retry"} else "sent"


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
