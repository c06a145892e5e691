"""Positions in event streams: whatever is lost, repeated or resumed, each event is handed on once and in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.client.streams import SEEN_MAX, Streams, Verdict
from realtime.client.wire import Event


def event(offset: int, *, epoch: str = "e1", stream: str = "user") -> Event:
    return Event("chat.message", stream=stream, epoch=epoch, offset=offset, event_id=f"{stream}-{epoch}-{offset}")


@given(sent=st.lists(st.integers(1, 12), max_size=60))
def test_any_order_of_arrival_hands_on_each_event_once_and_in_order(sent: list[int]) -> None:
    """A gap makes the client resume, which is played here as a replay from its position."""
    streams = Streams()
    streams.signed_in("user", {"epoch": "e1", "offset": 0}, recovered=False)
    handed: list[int] = []

    def receive(offset: int) -> Verdict:
        verdict = streams.judge(event(offset))
        if verdict is Verdict.NEW:
            handed.append(offset)
        return verdict

    for offset in sent:
        if receive(offset) is Verdict.GAP:
            position = streams.positions()[0]["offset"]
            for replayed in range(int(position) + 1, offset + 1):
                receive(replayed)
    assert handed == list(range(1, len(handed) + 1))


def test_streams_do_not_disturb_each_other() -> None:
    streams = Streams()
    assert streams.judge(event(5, stream="user")) is Verdict.NEW
    assert streams.judge(event(5, stream="channel:room")) is Verdict.NEW
    assert streams.judge(event(5, stream="user")) is Verdict.REPEAT
    assert streams.positions() == [
        {"stream": "user", "epoch": "e1", "offset": 5},
        {"stream": "channel:room", "epoch": "e1", "offset": 5},
    ]


def test_a_new_epoch_starts_a_new_count() -> None:
    streams = Streams()
    streams.judge(event(9))
    assert streams.judge(event(1, epoch="e2")) is Verdict.NEW
    assert streams.positions() == [{"stream": "user", "epoch": "e2", "offset": 1}]


def test_a_recovered_sign_in_keeps_our_position_and_another_takes_the_server_s() -> None:
    streams = Streams()
    streams.judge(event(3))
    streams.signed_in("user", {"epoch": "e1", "offset": 9}, recovered=True)
    assert streams.positions()[0]["offset"] == 3
    streams.signed_in("user", {"epoch": "e7", "offset": 9}, recovered=False)
    assert streams.positions() == [{"stream": "user", "epoch": "e7", "offset": 9}]


def test_remembered_ids_are_bounded() -> None:
    streams = Streams()
    for offset in range(1, SEEN_MAX + 10):
        streams.judge(Event("x", event_id=f"id-{offset}"))
    assert streams.judge(Event("x", event_id="id-1")) is Verdict.NEW
    assert streams.judge(Event("x", event_id=f"id-{SEEN_MAX}")) is Verdict.REPEAT


def test_a_left_channel_is_forgotten() -> None:
    streams = Streams()
    streams.judge(event(5, stream="channel:room"))
    streams.leave("channel:room")
    assert streams.positions() == []
