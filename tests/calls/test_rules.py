"""The state machine of calls: what the table allows, and that nothing else changes anything."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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
    Side,
    StartMeter,
    State,
    StopMeter,
    Suspended,
    Tell,
)
from realtime.calls.rules import TABLE, deadline_of_invite, step
from realtime.protocol.errors import CallOver, Conflict, InvalidTransition, TalkmeterError

LIMITS = Limits()
T0 = 1_700_000_000_000


def a_call(*, pushable: bool = True) -> Call:
    return Call(
        call_id=UUID(int=7),
        tenant_id=1,
        caller_id=10,
        host_id=20,
        media="voice",
        price_coins=10,
        pulse_ms=60_000,
        created_ms=T0,
        ring_by_ms=T0 + LIMITS.ring_cap_ms,
        deadline_ms=deadline_of_invite(T0, pushable=pushable, limits=LIMITS),
        pushable=pushable,
    )


def play(*events: Event, call: Call | None = None, now_ms: int = T0 + 1_000) -> Call:
    call = a_call() if call is None else call
    for event in events:
        call, _ = step(call, event, now_ms, LIMITS)
    return call


RINGING = (Received(),)
ACCEPTED = (*RINGING, Accept("phone"))
CONNECTED = (*ACCEPTED, MediaUp(Side.CALLER), MediaUp(Side.HOST), MeterStarted(T0 + 61_000))


def tells(effects: tuple[Effect, ...]) -> list[tuple[str, Side]]:
    return [(effect.event, effect.side) for effect in effects if isinstance(effect, Tell)]


def test_first_receipt_starts_the_ring_clock_and_tells_the_caller() -> None:
    call, effects = step(a_call(), Received(), T0 + 2_000, LIMITS)
    assert (call.state, call.ringing_ms, call.deadline_ms) == (State.RINGING, T0 + 2_000, T0 + 32_000)
    assert tells(effects) == [("call.ringing", Side.CALLER)]


def test_second_receipt_does_not_restart_the_ring_clock() -> None:
    ringing = play(*RINGING, now_ms=T0 + 2_000)
    assert step(ringing, Received(), T0 + 9_000, LIMITS) == (ringing, ())


def test_ringing_never_outlasts_the_hard_cap() -> None:
    call, _ = step(a_call(), Received(), T0 + 50_000, LIMITS)
    assert call.deadline_ms == T0 + LIMITS.ring_cap_ms


def test_accept_without_a_receipt_counts_as_one() -> None:
    call = play(Accept("phone"))
    assert (call.state, call.ringing_ms, call.accepted_device) == (State.ACCEPTED, T0 + 1_000, "phone")


def test_accept_tells_the_caller_and_the_other_devices() -> None:
    _, effects = step(play(*RINGING), Accept("phone"), T0 + 5_000, LIMITS)
    assert tells(effects) == [("call.accepted", Side.CALLER), ("call.answered_elsewhere", Side.HOST)]


def test_second_device_is_told_that_the_first_has_answered() -> None:
    with pytest.raises(Conflict):
        step(play(*ACCEPTED), Accept("tablet"), T0, LIMITS)


def test_accept_by_the_same_device_again_changes_nothing() -> None:
    call = play(*ACCEPTED)
    assert step(call, Accept("phone"), T0 + 9_000, LIMITS) == (call, ())


@pytest.mark.parametrize("event", [Decline(), Cancel()])
def test_decline_or_cancel_after_accept_is_refused(event: Event) -> None:
    with pytest.raises(InvalidTransition):
        step(play(*ACCEPTED), event, T0, LIMITS)


@pytest.mark.parametrize("event", [Accept("phone"), Decline(), Cancel(), MediaUp(Side.HOST)])
def test_an_ended_call_is_over(event: Event) -> None:
    with pytest.raises(CallOver):
        step(play(Cancel()), event, T0, LIMITS)


@pytest.mark.parametrize(
    ("before", "event", "reason"),
    [
        ((), Decline(), Reason.DECLINED),
        (RINGING, Decline(), Reason.DECLINED),
        ((), Cancel(), Reason.CANCELLED),
        (RINGING, Cancel(), Reason.CANCELLED),
        ((), HangUp(Side.CALLER), Reason.CANCELLED),
        (RINGING, HangUp(Side.HOST), Reason.DECLINED),
        (RINGING, DeadlinePassed(), Reason.MISSED),
        (ACCEPTED, DeadlinePassed(), Reason.FAILED),
        (ACCEPTED, HangUp(Side.CALLER), Reason.HUNG_UP_BY_CALLER),
        (ACCEPTED, MeterRefused(), Reason.INSUFFICIENT_FUNDS),
        (CONNECTED, HangUp(Side.CALLER), Reason.HUNG_UP_BY_CALLER),
        (CONNECTED, HangUp(Side.HOST), Reason.HUNG_UP_BY_HOST),
        (CONNECTED, MeterEnded(Reason.EXHAUSTED, T0 + 61_000), Reason.EXHAUSTED),
        (CONNECTED, MeterEnded(Reason.LOST, T0 + 9_000), Reason.LOST),
    ],
)
def test_each_end_has_its_reason_frees_both_and_tells_both(
    before: tuple[Event, ...], event: Event, reason: Reason
) -> None:
    call, effects = step(play(*before), event, T0 + 9_000, LIMITS)
    assert (call.state, call.reason, call.deadline_ms) == (State.ENDED, reason, None)
    assert Release() in effects
    assert tells(effects) == [("call.ended", Side.CALLER), ("call.ended", Side.HOST)]


@pytest.mark.parametrize(("pushable", "reason"), [(True, Reason.MISSED), (False, Reason.UNREACHABLE)])
def test_unconfirmed_invite_is_missed_only_if_a_push_was_sent(pushable: bool, reason: Reason) -> None:
    call, _ = step(a_call(pushable=pushable), DeadlinePassed(), T0 + 60_000, LIMITS)
    assert call.reason is reason


def test_unconfirmed_invite_without_push_is_given_up_early() -> None:
    assert a_call(pushable=False).deadline_ms == T0 + LIMITS.receipt_timeout_ms
    assert a_call(pushable=True).deadline_ms == T0 + LIMITS.ring_cap_ms


def test_meter_starts_only_when_both_sides_have_media() -> None:
    call, effects = step(play(*ACCEPTED), MediaUp(Side.CALLER), T0, LIMITS)
    assert effects == ()
    assert step(call, MediaUp(Side.CALLER), T0, LIMITS) == (call, ())
    _, effects = step(call, MediaUp(Side.HOST), T0, LIMITS)
    assert effects == (StartMeter(),)


def test_media_that_went_away_before_the_other_side_came_does_not_start_the_meter() -> None:
    call = play(*ACCEPTED, MediaUp(Side.CALLER), MediaDown(Side.CALLER))
    _, effects = step(call, MediaUp(Side.HOST), T0, LIMITS)
    assert effects == ()


def test_hang_up_stops_the_meter_when_it_was_sent_but_not_more_than_5_s_back() -> None:
    call, effects = step(play(*CONNECTED), HangUp(Side.HOST, 3_000), T0 + 20_000, LIMITS)
    assert StopMeter(3_000) in effects
    assert call.ended_ms == T0 + 17_000
    _, effects = step(play(*CONNECTED), HangUp(Side.HOST, 60_000), T0 + 20_000, LIMITS)
    assert StopMeter(5_000) in effects


def test_hang_up_never_ends_a_call_before_it_was_connected() -> None:
    call, _ = step(play(*CONNECTED, now_ms=T0 + 19_000), HangUp(Side.HOST, 5_000), T0 + 20_000, LIMITS)
    assert call.ended_ms == T0 + 19_000


def test_hang_ups_that_cross_end_the_call_once() -> None:
    ended = play(*CONNECTED, HangUp(Side.CALLER))
    assert step(ended, HangUp(Side.HOST), T0 + 30_000, LIMITS) == (ended, ())


def test_pulses_told_in_the_wrong_order_come_out_the_same() -> None:
    second, third = Charged(2, 10, 20, 14, T0 + 121_000), Charged(3, 10, 30, 21, T0 + 181_000)
    assert play(*CONNECTED, second, third) == play(*CONNECTED, third, second)


def test_silent_meter_is_looked_at_and_the_call_goes_on() -> None:
    call, effects = step(play(*CONNECTED), DeadlinePassed(), T0 + 200_000, LIMITS)
    assert effects == (CheckMeter(),)
    assert (call.state, call.deadline_ms) == (State.CONNECTED, T0 + 200_000 + LIMITS.watch_ms)


SIDES = st.sampled_from(list(Side))
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.just(Received()),
    st.builds(Accept, st.sampled_from(["phone", "tablet"])),
    st.just(Decline()),
    st.just(Cancel()),
    st.builds(HangUp, SIDES, st.integers(-10, 10_000)),
    st.builds(MediaUp, SIDES),
    st.builds(MediaDown, SIDES),
    st.builds(Charged, st.integers(1, 9), *[st.integers(0, 99)] * 3, st.integers(T0, T0 + 10**6)),
    st.builds(LowBalance, st.integers(T0, T0 + 10**6), st.sampled_from([0, 60_000, 300_000])),
    st.builds(Extended, st.integers(T0, T0 + 10**6)),
    st.just(Suspended()),
    st.builds(Resumed, st.integers(T0, T0 + 10**6)),
    st.builds(MeterEnded, st.sampled_from([Reason.EXHAUSTED, Reason.LOST]), st.integers(T0, T0 + 10**6)),
    st.just(DeadlinePassed()),
    st.builds(MeterStarted, st.integers(T0, T0 + 10**6)),
    st.just(MeterRefused()),
)
ORDER = list(State)


class CallLife(RuleBasedStateMachine):
    """Any events in any order: legal ones move forward, illegal ones change nothing, and there is one end."""

    def __init__(self) -> None:
        super().__init__()
        self.call = a_call()
        self.now_ms = T0
        self.ends = 0
        self.started = 0
        self.stopped = 0

    @rule(event=EVENTS, later_ms=st.integers(0, 40_000))
    def happens(self, event: Event, later_ms: int) -> None:
        self.now_ms += later_ms
        before = self.call
        unchanged = replace(before)
        legal = (before.state, type(event)) in TABLE
        try:
            after, effects = step(before, event, self.now_ms, LIMITS)
        except TalkmeterError:
            assert before == unchanged
            assert not legal or isinstance(event, Accept)
            return
        assert legal
        assert ORDER.index(after.state) >= ORDER.index(before.state), "a call never goes back"
        assert after.v in (before.v, before.v + 1)
        told = tells(effects)
        if told:
            assert after.v == before.v + 1, "whoever is told sees a higher version"
        if before.state is State.ENDED:
            assert (after, effects) == (before, ())
        if after.state is State.ENDED and before.state is not State.ENDED:
            self.ends += 1
            assert effects.count(Release()) == 1
            assert told.count(("call.ended", Side.CALLER)) == told.count(("call.ended", Side.HOST)) == 1
            meter_runs = before.state is State.CONNECTED and not isinstance(event, MeterEnded)
            assert any(isinstance(effect, StopMeter) for effect in effects) == meter_runs
        self.call = after

    @precondition(lambda self: self.call.state is State.ACCEPTED)
    @rule()
    def both_get_media(self) -> None:
        call, first = step(self.call, MediaUp(Side.CALLER), self.now_ms, LIMITS)
        call, second = step(call, MediaUp(Side.HOST), self.now_ms, LIMITS)
        assert (first + second).count(StartMeter()) <= 1
        self.call, _ = step(call, MeterStarted(self.now_ms + 60_000), self.now_ms, LIMITS)

    @invariant()
    def at_most_one_end(self) -> None:
        assert self.ends == (self.call.state is State.ENDED)

    @invariant()
    def a_live_call_has_a_deadline_and_an_ended_one_a_reason(self) -> None:
        assert self.call.live == (self.call.deadline_ms is not None)
        assert self.call.live == (self.call.reason is None)
        assert self.call.live == (self.call.ended_ms is None)


TestCallLife = CallLife.TestCase
TestCallLife.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@given(events=st.lists(EVENTS, max_size=20))
@settings(max_examples=200, deadline=None)
def test_a_deadline_after_any_history_ends_or_renews(events: list[Event]) -> None:
    """No live call is ever without a next look at it: nobody stays busy for ever."""
    call = a_call()
    for event in events:
        try:
            call, _ = step(call, event, T0, LIMITS)
        except TalkmeterError:
            continue
    if call.deadline_ms is not None:
        later, effects = step(call, DeadlinePassed(), call.deadline_ms, LIMITS)
        assert not later.live or (CheckMeter() in effects and (later.deadline_ms or 0) > call.deadline_ms)
