"""Who may see whom."""

from __future__ import annotations

from presence.visibility import Subject, Viewer, hidden_from, may_see, visible


def test_tenants_never_see_each_other() -> None:
    assert may_see(Viewer(1, 10), Subject(1, 11))
    assert not may_see(Viewer(1, 10), Subject(2, 11))


def test_a_block_hides_both_from_each_other() -> None:
    blocks = [(10, 11), (12, 13)]
    assert hidden_from(blocks, 10) == {11}
    assert hidden_from(blocks, 11) == {10}
    assert hidden_from(blocks, 14) == frozenset()
    assert not may_see(Viewer(1, 10, hidden_from(blocks, 10)), Subject(1, 11))
    assert not may_see(Viewer(1, 11, hidden_from(blocks, 11)), Subject(1, 10))


def test_visible_keeps_the_order() -> None:
    subjects = [Subject(1, 3), Subject(2, 1), Subject(1, 2)]
    assert visible(Viewer(1, 9, frozenset({2})), subjects) == [Subject(1, 3)]
