"""The evidence by which time is charged or not."""

from __future__ import annotations

from uuid import UUID

from realtime.calls.liveness import FORGET_AFTER_MS, MEDIA_FRESH_MS, VIEW_FRESH_MS, Liveness, Sign
from realtime.calls.model import Side
from realtime.calls.views import CallView, Peer
from tests.calls.world import Clock, Phone

CALL = UUID(int=7)
ANN, MIA = 10, 20


def a_view(state: str = "connected") -> CallView:
    return CallView(
        call_id=str(CALL),
        v=4,
        state=state,
        media="voice",
        role="caller",
        peer=Peer("mia", "Mia", ""),
        price_coins=10,
        pulse_ms=60_000,
        created_ms=0,
        ring_deadline_ms=0,
        spent_coins=10,
    )


def a_liveness(state: str = "connected") -> tuple[Liveness, Clock, Phone]:
    clock, phone = Clock(), Phone()
    liveness = Liveness(clock_ms=clock)
    liveness.media_up(CALL, ANN, Side.CALLER, device_id="phone", conn=phone, view=a_view(state))
    return liveness, clock, phone


def test_socket_speaks_for_a_side_while_its_media_report_is_fresh() -> None:
    liveness, clock, phone = a_liveness()
    clock.forward(MEDIA_FRESH_MS)
    phone.ago_ms = 300
    assert liveness.due() == [Sign(CALL, Side.CALLER, 300)]


def test_living_socket_does_not_speak_for_media_that_is_not_reported_any_more() -> None:
    liveness, clock, phone = a_liveness()
    clock.forward(MEDIA_FRESH_MS + 1)
    phone.ago_ms = 0
    assert liveness.due() == [Sign(CALL, Side.CALLER, MEDIA_FRESH_MS + 1)]


def test_silence_of_a_lost_socket_grows() -> None:
    liveness, clock, phone = a_liveness()
    for _ in range(4):
        clock.forward(1_000)
        phone.ago_ms += 1_000
    assert liveness.due() == [Sign(CALL, Side.CALLER, 4_000)]


def test_side_that_reports_lost_media_is_silent_from_then_on() -> None:
    liveness, clock, _ = a_liveness()
    clock.forward(3_000)
    liveness.media_down(CALL, ANN)
    clock.forward(2_000)
    assert liveness.due() == [Sign(CALL, Side.CALLER, 2_000)]
    assert liveness.media_again(CALL, ANN, device_id="phone", conn=Phone()) is None, (
        "the database has to know that media is back"
    )


def test_repeated_report_is_answered_from_memory_for_a_while() -> None:
    liveness, clock, _ = a_liveness()
    clock.forward(5_000)
    assert liveness.media_again(CALL, ANN, device_id="phone", conn=Phone()) == a_view()
    clock.forward(VIEW_FRESH_MS)
    assert liveness.media_again(CALL, ANN, device_id="phone", conn=Phone()) is None


def test_report_before_the_call_is_connected_always_asks_the_database() -> None:
    liveness, _, _ = a_liveness("accepted")
    assert liveness.media_again(CALL, ANN, device_id="phone", conn=Phone()) is None


def test_report_of_another_user_is_not_answered_from_memory() -> None:
    liveness, _, _ = a_liveness()
    assert liveness.media_again(CALL, MIA, device_id="phone", conn=Phone()) is None


def test_another_device_of_the_same_user_proves_nothing() -> None:
    liveness, clock, phone = a_liveness()
    clock.forward(9_000)
    phone.ago_ms = 9_000
    assert liveness.media_again(CALL, ANN, device_id="tablet", conn=Phone()) is None
    assert liveness.due() == [Sign(CALL, Side.CALLER, 9_000)]


def test_repeated_report_moves_to_the_socket_it_came_through() -> None:
    liveness, clock, phone = a_liveness()
    phone.ago_ms = 9_000
    clock.forward(9_000)
    liveness.media_again(CALL, ANN, device_id="phone", conn=Phone())
    assert liveness.due() == [Sign(CALL, Side.CALLER, 0)]


def test_calls_that_are_over_or_long_silent_are_forgotten() -> None:
    liveness, clock, _ = a_liveness()
    liveness.media_up(CALL, MIA, Side.HOST, device_id="desk", conn=Phone(), view=a_view())
    liveness.forget(CALL, (ANN, MIA))
    assert liveness.due() == []
    liveness.media_up(CALL, ANN, Side.CALLER, device_id="phone", conn=Phone(), view=a_view())
    clock.forward(FORGET_AFTER_MS + 1)
    assert liveness.due() == []
    assert len(liveness) == 0
