"""What may happen to a call, and what follows: pure functions of (call, event, now). No I/O, no clock, no timers.

Imports the model and the error classes only. `TABLE` is the documentation of the protocol: a pair of state and event
that is not in it is refused, and changes nothing.

    inviting --Received--> ringing --Accept--> accepted --MediaUp from both, first pulse paid--> connected
        \\_________________ any of these --(one reason)--> ended ________________________________/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from realtime.calls.model import (
    Accept,
    Call,
    Cancel,
    Charged,
    CheckMeter,
    DeadlinePassed,
    Decline,
    Effect,
    Event,
    Extended,
    HangUp,
    Limits,
    LowBalance,
    MediaDown,
    MediaUp,
    MeterEnded,
    MeterRefused,
    MeterStarted,
    Reason,
    Received,
    Release,
    Resumed,
    SettleMeter,
    Side,
    StartMeter,
    State,
    StopMeter,
    Suspended,
    Tell,
)
from realtime.protocol.errors import CallOver, Conflict, InvalidTransition, TalkmeterError

HANG_UP_AGO_MS_MAX: Final = 5_000  # how far back a hang-up may take effect; a longer claim is cut to this

Outcome = tuple[Call, tuple[Effect, ...]]
Rule = Callable[[Call, Any, int, Limits], Outcome]

BOTH: Final = (Side.CALLER, Side.HOST)


def step(call: Call, event: Event, now_ms: int, limits: Limits) -> Outcome:
    """Return the next call and the effects to run; run none.

    Args:
        call: as it is stored.
        event: what happened.
        now_ms: unix milliseconds of the database's clock.
        limits: how long things may take; only new deadlines use them.

    Raises:
        CallOver: the call has ended, and this event needs a live one; `call` is unchanged.
        Conflict: another device has answered already; `call` is unchanged.
        InvalidTransition: `event` is not allowed in this state; `call` is unchanged.
    """
    rule = TABLE.get((call.state, type(event)))
    if rule is None:
        raise _refusal(call, event)
    return rule(call, event, now_ms, limits)


def invited(call: Call) -> Outcome:
    """Return the effects of a new call's invite."""
    return call, (Tell("call.incoming", Side.HOST),)


def deadline_of_invite(created_ms: int, *, pushable: bool, limits: Limits) -> int:
    """Return when an invite that no device confirms is given up, in unix milliseconds."""
    if pushable:
        return created_ms + limits.ring_cap_ms
    return created_ms + min(limits.receipt_timeout_ms, limits.ring_cap_ms)


def _refusal(call: Call, event: Event) -> TalkmeterError:
    if call.state is State.ENDED:
        return CallOver(call_id=str(call.call_id), reason=call.reason)
    return InvalidTransition(f"{type(event).__name__} is not allowed while {call.state}", state=call.state)


def _same(call: Call, event: Event, now_ms: int, limits: Limits) -> Outcome:
    return call, ()


def _tell_both(name: str) -> tuple[Tell, ...]:
    return tuple(Tell(name, side) for side in BOTH)


def _end(call: Call, reason: Reason, at_ms: int, *before: Effect) -> Outcome:
    ended = replace(
        call,
        state=State.ENDED,
        reason=reason,
        ended_ms=max(at_ms, call.connected_ms or call.created_ms),
        deadline_ms=None,
        paused=False,
        v=call.v + 1,
    )
    return ended, (*before, Release(), *_tell_both("call.ended"))


def _received(call: Call, event: Received, now_ms: int, limits: Limits) -> Outcome:
    ringing = replace(
        call,
        state=State.RINGING,
        ringing_ms=now_ms,
        deadline_ms=min(now_ms + limits.ring_timeout_ms, call.ring_by_ms),
        v=call.v + 1,
    )
    return ringing, (Tell("call.ringing", Side.CALLER),)


def _accept(call: Call, event: Accept, now_ms: int, limits: Limits) -> Outcome:
    accepted = replace(
        call,
        state=State.ACCEPTED,
        # The answer proves that a device rang, also when its receipt is still on the way.
        ringing_ms=now_ms if call.ringing_ms is None else call.ringing_ms,
        accepted_ms=now_ms,
        accepted_device=event.device_id,
        deadline_ms=now_ms + limits.connect_timeout_ms,
        v=call.v + 1,
    )
    return accepted, (Tell("call.accepted", Side.CALLER), Tell("call.answered_elsewhere", Side.HOST))


def _accept_again(call: Call, event: Accept, now_ms: int, limits: Limits) -> Outcome:
    if event.device_id != call.accepted_device:
        raise Conflict("another device has answered", reason="answered_elsewhere", device=call.accepted_device)
    return call, ()


def _decline(call: Call, event: Decline, now_ms: int, limits: Limits) -> Outcome:
    return _end(call, Reason.DECLINED, now_ms)


def _cancel(call: Call, event: Cancel, now_ms: int, limits: Limits) -> Outcome:
    return _end(call, Reason.CANCELLED, now_ms)


def _hang_up_unanswered(call: Call, event: HangUp, now_ms: int, limits: Limits) -> Outcome:
    """One button ends a call in every state: before the answer it means cancel or decline."""
    return _end(call, Reason.CANCELLED if event.side is Side.CALLER else Reason.DECLINED, now_ms)


def _hang_up(call: Call, event: HangUp, now_ms: int, limits: Limits) -> Outcome:
    reason = Reason.HUNG_UP_BY_CALLER if event.side is Side.CALLER else Reason.HUNG_UP_BY_HOST
    ago_ms = min(max(event.ago_ms, 0), HANG_UP_AGO_MS_MAX)
    stop = (StopMeter(ago_ms),) if call.state is State.CONNECTED else ()
    return _end(call, reason, now_ms - ago_ms, *stop)


def _media_up(call: Call, event: MediaUp, now_ms: int, limits: Limits) -> Outcome:
    proved = _with_media(call, event.side, True)
    if proved is call:
        return call, ()
    both = proved.caller_media and proved.host_media
    return proved, (StartMeter(),) if both else ()


def _media_down(call: Call, event: MediaDown, now_ms: int, limits: Limits) -> Outcome:
    """Media that goes away is no end: liveness tells the meter, and the meter pauses or ends."""
    return _with_media(call, event.side, False), ()


def _media_back(call: Call, event: MediaUp, now_ms: int, limits: Limits) -> Outcome:
    return _with_media(call, event.side, True), ()


def _with_media(call: Call, side: Side, up: bool) -> Call:
    if (call.caller_media if side is Side.CALLER else call.host_media) == up:
        return call
    return replace(call, caller_media=up) if side is Side.CALLER else replace(call, host_media=up)


def _meter_started(call: Call, event: MeterStarted, now_ms: int, limits: Limits) -> Outcome:
    connected = replace(
        call,
        state=State.CONNECTED,
        connected_ms=now_ms,
        deadline_ms=now_ms + limits.watch_ms,
        funded_until_ms=event.funded_until_ms,
        v=call.v + 1,
    )
    return connected, _tell_both("call.connected")


def _meter_refused(call: Call, event: MeterRefused, now_ms: int, limits: Limits) -> Outcome:
    return _end(call, Reason.INSUFFICIENT_FUNDS, now_ms)


def _charged(call: Call, event: Charged, now_ms: int, limits: Limits) -> Outcome:
    """Maxima only, so that pulses that are told in the wrong order, or twice, come out the same."""
    charged = replace(
        call,
        periods=max(call.periods, event.period),
        spent_coins=max(call.spent_coins, event.spent_coins),
        earned_coins=max(call.earned_coins, event.earned_coins),
        funded_until_ms=max(call.funded_until_ms or 0, event.funded_until_ms or 0) or None,
        deadline_ms=now_ms + limits.watch_ms,
        v=call.v + 1,
    )
    return charged, _tell_both("call.charged")


def _low_balance(call: Call, event: LowBalance, now_ms: int, limits: Limits) -> Outcome:
    return replace(call, v=call.v + 1), _tell_both("call.low_balance")


def _extended(call: Call, event: Extended, now_ms: int, limits: Limits) -> Outcome:
    return replace(call, v=call.v + 1), _tell_both("call.extended")


def _suspended(call: Call, event: Suspended, now_ms: int, limits: Limits) -> Outcome:
    return replace(call, paused=True, v=call.v + 1), _tell_both("call.suspended")


def _resumed(call: Call, event: Resumed, now_ms: int, limits: Limits) -> Outcome:
    funded_until_ms = event.funded_until_ms or call.funded_until_ms
    return replace(call, paused=False, funded_until_ms=funded_until_ms, v=call.v + 1), _tell_both("call.resumed")


def _meter_ended(call: Call, event: MeterEnded, now_ms: int, limits: Limits) -> Outcome:
    return _end(call, event.reason, event.at_ms, SettleMeter())


def _nobody_confirmed(call: Call, event: DeadlinePassed, now_ms: int, limits: Limits) -> Outcome:
    return _end(call, Reason.MISSED if call.pushable else Reason.UNREACHABLE, now_ms)


def _nobody_answered(call: Call, event: DeadlinePassed, now_ms: int, limits: Limits) -> Outcome:
    return _end(call, Reason.MISSED, now_ms)


def _no_media(call: Call, event: DeadlinePassed, now_ms: int, limits: Limits) -> Outcome:
    return _end(call, Reason.FAILED, now_ms)


def _watch(call: Call, event: DeadlinePassed, now_ms: int, limits: Limits) -> Outcome:
    """A connected call ends by its meter; this heals one whose meter's last word was lost."""
    return replace(call, deadline_ms=now_ms + limits.watch_ms), (CheckMeter(),)


TABLE: Final[Mapping[tuple[State, type], Rule]] = MappingProxyType(
    {
        (State.INVITING, Received): _received,
        (State.INVITING, Accept): _accept,
        (State.INVITING, Decline): _decline,
        (State.INVITING, Cancel): _cancel,
        (State.INVITING, HangUp): _hang_up_unanswered,
        (State.INVITING, DeadlinePassed): _nobody_confirmed,
        (State.RINGING, Received): _same,  # the second device rings too
        (State.RINGING, Accept): _accept,
        (State.RINGING, Decline): _decline,
        (State.RINGING, Cancel): _cancel,
        (State.RINGING, HangUp): _hang_up_unanswered,
        (State.RINGING, DeadlinePassed): _nobody_answered,
        (State.ACCEPTED, Received): _same,
        (State.ACCEPTED, Accept): _accept_again,
        (State.ACCEPTED, HangUp): _hang_up,
        (State.ACCEPTED, MediaUp): _media_up,
        (State.ACCEPTED, MediaDown): _media_down,
        (State.ACCEPTED, MeterStarted): _meter_started,
        (State.ACCEPTED, MeterRefused): _meter_refused,
        (State.ACCEPTED, DeadlinePassed): _no_media,
        (State.CONNECTED, Received): _same,
        (State.CONNECTED, Accept): _accept_again,
        (State.CONNECTED, HangUp): _hang_up,
        (State.CONNECTED, MediaUp): _media_back,
        (State.CONNECTED, MediaDown): _media_down,
        (State.CONNECTED, Charged): _charged,
        (State.CONNECTED, LowBalance): _low_balance,
        (State.CONNECTED, Extended): _extended,
        (State.CONNECTED, Suspended): _suspended,
        (State.CONNECTED, Resumed): _resumed,
        (State.CONNECTED, MeterEnded): _meter_ended,
        (State.CONNECTED, DeadlinePassed): _watch,
        # Two hang-ups cross on the way, and the meter's last words may come after the end: no news.
        (State.ENDED, Received): _same,
        (State.ENDED, HangUp): _same,
        (State.ENDED, MediaDown): _same,
        (State.ENDED, Charged): _same,
        (State.ENDED, LowBalance): _same,
        (State.ENDED, Extended): _same,
        (State.ENDED, Suspended): _same,
        (State.ENDED, Resumed): _same,
        (State.ENDED, MeterEnded): _same,
        (State.ENDED, DeadlinePassed): _same,
    }
)
