"""Applies what happens to calls: rules, then their effects, then one write, then the events, in one transaction.

Owns the order of these. Used by the service (one call), the deadline worker and the meter's consumer (many calls).
Never opens a transaction or decides anything: rules.py decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import structlog
from msgspec import Struct

from billing.receipts import Receipt
from billing.wallets import Balance
from realtime.accounts.models import UserCard
from realtime.calls.meters import Meters, Totals
from realtime.calls.model import (
    Call,
    Charged,
    CheckMeter,
    Event,
    Extended,
    Limits,
    LowBalance,
    MeterEnded,
    MeterRefused,
    MeterStarted,
    Reason,
    Release,
    SettleMeter,
    Side,
    StartMeter,
    State,
    StopMeter,
    Tell,
)
from realtime.calls.ports import People, Presence
from realtime.calls.receipts import receipt_view
from realtime.calls.rules import invited, step
from realtime.calls.store import CallStore
from realtime.calls.views import (
    CallChanged,
    CallCharged,
    CallEnded,
    CallExtended,
    CallLowBalance,
    call_view,
    incoming_event_id,
)
from realtime.outbox import Tx
from realtime.protocol.errors import Forbidden, NotFound
from realtime.wallet.events import changed
from realtime.wallet.views import wallet_view

log = structlog.get_logger()

# To the host: wake her; take the alert back where another device answered, or the caller gave up.
PUSHED: Final = frozenset({"call.incoming", "call.answered_elsewhere", "call.ended"})


@dataclass(frozen=True, slots=True)
class Change:
    """One event of one call, and the wallets after it when the event is a charge."""

    call_id: UUID
    event: Event
    payer: Balance | None = None
    payee: Balance | None = None

    def balance_of(self, side: Side) -> Balance | None:
        return self.payer if side is Side.CALLER else self.payee


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell, with the call as it was at that moment."""

    tell: Tell
    call: Call
    change: Change | None = None
    totals: Totals | None = None
    receipt: Receipt | None = None


class Conductor:
    """Runs changes of locked calls inside the caller's transaction."""

    def __init__(
        self,
        *,
        store: CallStore,
        meters: Meters,
        people: People,
        presence: Presence,
        limits: Limits,
        on_over: Callable[[Call], None] = lambda call: None,
    ) -> None:
        """Args: on_over: called after the commit that ended a call; must not block."""
        self._store = store
        self._meters = meters
        self._people = people
        self._presence = presence
        self._limits = limits
        self._on_over = on_over

    async def ring(self, tx: Tx, call: Call) -> None:
        """Tell of a call that was stored in this transaction."""
        _, effects = invited(call)
        await self._tell(tx, [Note(effect, call) for effect in effects if isinstance(effect, Tell)])
        users = (call.caller_id, call.host_id)
        tx.after_commit(lambda: self._presence.busy(users, True))

    async def act(self, tx: Tx, user_id: int, call_id: UUID, event: Event, *, only: Side | None = None) -> Call:
        """Lock a call, and apply what one of its users did.

        Args:
            only: the side that may do it; None for both.

        Raises:
            NotFound: no such call, or this user is not in it.
            Forbidden: the other side may do that, not this one.
            TalkmeterError: the rules refuse it.
        """
        call = await self._store.lock(tx.conn, call_id)
        side = call.side_of(user_id) if call is not None else None
        if call is None or side is None:
            raise NotFound("there is no such call")
        if only is not None and side is not only:
            raise Forbidden(f"only the {only.value} may do that")
        now_ms = await self._store.now_ms(tx.conn)
        after = await self.apply(tx, {call_id: call}, [Change(call_id, event)], now_ms)
        return after[call_id]

    async def apply(
        self, tx: Tx, calls: Mapping[UUID, Call], changes: Sequence[Change], now_ms: int
    ) -> dict[UUID, Call]:
        """Apply the changes in order to calls that this transaction has locked.

        Returns:
            the calls afterwards, also those that did not change.

        Raises:
            TalkmeterError: a change is refused; no call has been written and nothing told.
        """
        after = dict(calls)
        notes: list[Note] = []
        for change in changes:
            await self._one(tx, after, change, notes, now_ms)
        changed = [call for call_id, call in after.items() if call is not calls[call_id]]
        if changed:
            await self._store.save(tx.conn, changed)
        await self._tell(tx, notes)
        for call in changed:
            if not call.live:
                self._released(tx, call)
        return after

    async def apply_each(
        self, tx: Tx, calls: Mapping[UUID, Call], changes: Sequence[Change], now_ms: int
    ) -> list[UUID]:
        """Apply a batch; if it fails, apply it call by call, so that one bad call does not hold up the others.

        Returns:
            the calls that failed by themselves; nothing of theirs was written or told.
        """
        failed: list[UUID] = []
        try:
            async with tx.conn.transaction():
                await self.apply(tx, calls, changes, now_ms)
                return failed
        except Exception as exc:
            if tx.conn.is_closed():
                raise  # nothing of this transaction stays, and the whole batch will be taken again
            log.warning("call_batch_split", calls=len(calls), error=repr(exc))
        for call_id, call in calls.items():
            mine = [change for change in changes if change.call_id == call_id]
            try:
                async with tx.conn.transaction():
                    await self.apply(tx, {call_id: call}, mine, now_ms)
            except Exception:
                if tx.conn.is_closed():
                    raise
                log.exception("call_change_failed", call_id=str(call_id), events=[type(c.event).__name__ for c in mine])
                failed.append(call_id)
        return failed

    async def _one(self, tx: Tx, after: dict[UUID, Call], change: Change, notes: list[Note], now_ms: int) -> None:
        before = after[change.call_id]
        call, effects = step(before, change.event, now_ms, self._limits)
        totals: Totals | None = None
        follow: list[Change] = []
        for effect in effects:
            match effect:
                case StartMeter():
                    follow += await self._start(tx, call, now_ms)
                case StopMeter(ago_ms):
                    totals = await self._meters.stop(tx.conn, call, ago_ms=ago_ms, now_ms=now_ms)
                case SettleMeter():
                    totals = await self._meters.totals(tx.conn, call.call_id)
                case CheckMeter():
                    follow += await self._check(tx, call)
                case Tell() | Release():
                    pass  # told and released below, once the call is written
        receipt: Receipt | None = None
        if totals is not None:
            call = settle(call, totals)
            receipt = await self._meters.receipt(tx.conn, call.call_id)
        after[change.call_id] = call
        notes += [Note(effect, call, change, totals, receipt) for effect in effects if isinstance(effect, Tell)]
        for next_change in follow:
            await self._one(tx, after, next_change, notes, now_ms)

    async def _start(self, tx: Tx, call: Call, now_ms: int) -> list[Change]:
        started = await self._meters.start(tx.conn, call, now_ms=now_ms)
        if started is None:
            return [Change(call.call_id, MeterRefused())]
        charged = Charged(
            period=1,
            price_coins=started.charged_coins,
            spent_coins=started.charged_coins,
            earned_coins=started.earned_coins,
            funded_until_ms=started.funded_until_ms,
        )
        return [
            Change(call.call_id, MeterStarted(started.funded_until_ms)),
            Change(call.call_id, charged, started.payer, started.payee),
        ]

    async def _check(self, tx: Tx, call: Call) -> list[Change]:
        totals = await self._meters.totals(tx.conn, call.call_id)
        if totals is None or not totals.over:
            return []
        return [Change(call.call_id, MeterEnded(totals.reason or Reason.FAILED, totals.ended_ms))]

    def _released(self, tx: Tx, call: Call) -> None:
        users = (call.caller_id, call.host_id)
        tx.after_commit(lambda: self._presence.busy(users, False))
        tx.after_commit(lambda: self._on_over(call))

    async def _tell(self, tx: Tx, notes: Sequence[Note]) -> None:
        """Emit the events, each with the view of who gets it."""
        if not notes:
            return
        peers = {note.call.user_of(note.tell.side.other) for note in notes}
        cards = await self._people.user_cards(peers, conn=tx.conn)
        for note in notes:
            _emit(tx, note, cards)


def settle(call: Call, totals: Totals) -> Call:
    """The meter's figures are the true ones; so are its reason and time when it had ended before a hang-up."""
    settled = replace(call, spent_coins=totals.spent_coins, earned_coins=totals.earned_coins)
    if totals.reason is not None:
        settled = replace(settled, reason=totals.reason)
    if totals.over:
        settled = replace(settled, ended_ms=max(totals.ended_ms, call.connected_ms or call.created_ms))
    return settled


def _emit(tx: Tx, note: Note, cards: Mapping[int, UserCard]) -> None:
    call, side = note.call, note.tell.side
    view = call_view(call, side, cards)
    event = note.change.event if note.change else None
    balance = note.change.balance_of(side) if note.change else None
    data: Struct = CallChanged(view)
    if isinstance(event, Charged) and balance is not None:
        data = CallCharged(view, wallet_view(balance), event.period, event.price_coins)
    elif isinstance(event, LowBalance):
        data = CallLowBalance(view, event.ends_at_ms, event.threshold_ms)
    elif isinstance(event, Extended):
        data = CallExtended(view, event.ends_at_ms)
    elif call.state is State.ENDED:
        data = CallEnded(view, receipt_view(call, side, note.receipt) if note.receipt else None)
    tx.emit(
        note.tell.event,
        to=[call.user_of(side)],
        data=data,
        v=call.v,
        event_id=incoming_event_id(call) if note.tell.event == "call.incoming" else None,
        push=side is Side.HOST and note.tell.event in PUSHED,
        tenant_id=call.tenant_id,
    )
    if note.totals is not None:
        after = note.totals.payer if side is Side.CALLER else note.totals.payee
        changed(tx, after, reason="call", tenant_id=call.tenant_id)
