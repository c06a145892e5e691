"""Coalescing of joins and leaves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from presence.diffs import Coalescer


def test_only_the_newest_state_is_told() -> None:
    diffs: Coalescer[str, str] = Coalescer()
    diffs.note("a", "online", here=True, version=1)
    diffs.note("a", "busy", here=True, version=2)
    diffs.note("b", "offline", here=False, version=1)
    diff = diffs.take()
    assert diff.joins == {"a": "busy"}
    assert diff.leaves == {"b": "offline"}
    assert not diffs.take()


def test_a_late_message_is_ignored() -> None:
    diffs: Coalescer[str, str] = Coalescer()
    diffs.note("a", "offline", here=False, version=5)
    assert not diffs.note("a", "online", here=True, version=4)
    assert diffs.take().leaves == {"a": "offline"}


def test_what_came_back_to_where_it_was_is_not_told() -> None:
    diffs: Coalescer[str, str] = Coalescer()
    diffs.seed("a", "online", here=True, version=1)
    diffs.note("a", "offline", here=False, version=2)
    diffs.note("a", "online", here=True, version=3)
    assert not diffs.take()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.booleans(), st.booleans())))
def test_the_audience_ends_up_with_the_newest_version_whatever_the_order(
    messages: list[tuple[str, int, bool, bool]],
) -> None:
    diffs: Coalescer[str, int] = Coalescer()
    told: dict[str, tuple[bool, int]] = {}
    newest: dict[str, tuple[int, bool]] = {}
    for subject, version, here, flush in messages:
        if version > newest.get(subject, (-1, False))[0]:
            newest[subject] = (version, here)
        diffs.note(subject, version, here=here, version=version)
        if flush:
            diff = diffs.take()
            told |= {name: (True, state) for name, state in diff.joins.items()}
            told |= {name: (False, state) for name, state in diff.leaves.items()}
    diff = diffs.take()
    told |= {name: (True, state) for name, state in diff.joins.items()}
    told |= {name: (False, state) for name, state in diff.leaves.items()}
    assert told == {subject: (here, version) for subject, (version, here) in newest.items()}
