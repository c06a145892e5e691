"""docs/calls.md says what the rules do."""

from __future__ import annotations

from pathlib import Path

from realtime.calls.document import EXAMPLES, document, rows
from realtime.calls.model import Reason, State
from realtime.calls.rules import TABLE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "calls.md"


def test_page_is_what_the_rules_do() -> None:
    assert PAGE.read_text() == document(), "run `talkmeter docs`"


def test_page_has_an_example_of_every_event_in_the_table() -> None:
    examples = {type(event) for events in EXAMPLES.values() for event in events}
    assert examples == {event for _, event in TABLE}


def test_every_reason_and_every_state_can_be_reached() -> None:
    found = rows()
    assert {row.reason for row in found if row.reason} == set(Reason)
    assert {row.after for row in found} | {State.INVITING} == set(State)
