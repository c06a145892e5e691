"""Frames as bytes: what we send is what the websockets library reads; what must not come is refused with its code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from realtime.transport import frames
from realtime.transport.fragments import Fragments
from realtime.transport.frames import FrameError


def read(data: bytes) -> list[Frame]:
    """What the websockets library's client makes of bytes from a server."""
    client = ClientProtocol(parse_uri("ws://x"), state=State.OPEN)
    client.receive_data(data)
    return [event for event in client.events_received() if isinstance(event, Frame)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_a_frame_of_any_length_is_read_back(size: int) -> None:
    payload = bytes(size)
    assert read(frames.frame(payload, frames.BINARY)) == [Frame(Opcode.BINARY, payload)]
    assert frames.payload_of(frames.frame(payload)) == payload


def test_a_close_reason_is_cut_between_characters() -> None:
    (frame,) = read(frames.close_frame(4001, "ä" * 100))
    assert frame.data[:2] == (4001).to_bytes(2)
    assert bytes(frame.data[2:]).decode() == "ä" * 61


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
def test_close_codes_of_the_registry_are_taken(code: int) -> None:
    assert frames.parse_close(code.to_bytes(2) + b"why") == code


def test_an_empty_close_frame_has_no_status() -> None:
    assert frames.parse_close(b"") == frames.NO_STATUS
    assert frames.close_frame(frames.NO_STATUS) == b"\x88\x00"


@pytest.mark.parametrize(
    "payload", [b"\x03", *(code.to_bytes(2) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000))]
)
def test_close_codes_that_must_not_be_sent_are_protocol_errors(payload: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        frames.parse_close(payload)
    assert caught.value.code == frames.PROTOCOL_ERROR


def test_a_close_reason_that_is_not_text_is_invalid() -> None:
    with pytest.raises(FrameError) as caught:
        frames.parse_close(b"\x03\xe8\xff")
    assert caught.value.code == frames.INVALID_TEXT


@pytest.mark.parametrize(
    ("head", "length"),
    [(0xC1, 0), (0xA1, 0), (0x91, 0), (0x83, 0), (0x8B, 0), (0x8F, 0), (0x89, 126), (0x09, 0), (0xC9, 0)],
)
def test_reserved_bits_and_opcodes_and_bad_control_frames_are_refused(head: int, length: int) -> None:
    with pytest.raises(FrameError):
        frames.check_head(head, length, compressed=False)


def test_the_compression_bit_is_allowed_where_it_was_agreed() -> None:
    frames.check_head(0xC1, 0, compressed=True)
    for head in (0xC0, 0xC9, 0xE1):
        with pytest.raises(FrameError):
            frames.check_head(head, 0, compressed=True)


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 160), max_size=6))
def test_text_in_parts_is_joined_wherever_it_is_cut(text: str, cuts: list[int]) -> None:
    data = text.encode()
    places = sorted(min(cut, len(data)) for cut in cuts)
    fragments = Fragments(frames.TEXT)
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        fragments.add(data[start:end], 1_000)
    assert fragments.message() == data


@given(before=st.text(max_size=20), bad=st.sampled_from([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5", b"\x80"]))
def test_text_in_parts_fails_at_the_part_that_cannot_become_text(before: str, bad: bytes) -> None:
    fragments = Fragments(frames.TEXT)
    fragments.add(before.encode(), 1_000)
    with pytest.raises(FrameError) as caught:
        fragments.add(bad, 1_000)
    assert caught.value.code == frames.INVALID_TEXT


def test_a_message_in_parts_may_not_exceed_the_limit() -> None:
    fragments = Fragments(frames.BINARY)
    fragments.add(bytes(10), 15)
    with pytest.raises(FrameError) as caught:
        fragments.add(bytes(6), 15)
    assert caught.value.code == frames.TOO_LARGE
