"""The table of states.py, and what must hold for every combination of inputs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence.states import Inputs, Mode, Standing, Status, rings, standing

inputs = st.builds(
    Inputs,
    active_sockets=st.integers(0, 3),
    away_sockets=st.integers(0, 3),
    push_reachable=st.booleans(),
    busy=st.booleans(),
    reserved=st.booleans(),
    mode=st.sampled_from(Mode),
)


@pytest.mark.parametrize(
    ("given_inputs", "expected"),
    [
        (Inputs(), Standing(Status.OFFLINE, False)),
        (Inputs(active_sockets=1), Standing(Status.ONLINE, True)),
        (Inputs(away_sockets=1), Standing(Status.AWAY, False)),
        (Inputs(active_sockets=1, away_sockets=1), Standing(Status.ONLINE, True)),
        (Inputs(active_sockets=1, busy=True), Standing(Status.BUSY, False)),
        (Inputs(active_sockets=1, reserved=True), Standing(Status.ONLINE, False)),
        (Inputs(active_sockets=1, mode=Mode.DND), Standing(Status.DND, False)),
        (Inputs(active_sockets=1, mode=Mode.DND, busy=True), Standing(Status.BUSY, False)),
        (Inputs(active_sockets=1, mode=Mode.INVISIBLE), Standing(Status.OFFLINE, False)),
        (Inputs(push_reachable=True), Standing(Status.OFFLINE, True)),
        (Inputs(push_reachable=True, mode=Mode.DND), Standing(Status.OFFLINE, False)),
        (Inputs(push_reachable=True, away_sockets=1), Standing(Status.AWAY, False)),
        (Inputs(push_reachable=True, busy=True), Standing(Status.OFFLINE, False)),
    ],
)
def test_the_table_of_states(given_inputs: Inputs, expected: Standing) -> None:
    assert standing(given_inputs) == expected


@given(inputs)
def test_nobody_is_bookable_who_cannot_be_reached_or_does_not_want_to(one: Inputs) -> None:
    if standing(one).bookable:
        assert one.active_sockets or one.push_reachable
        assert one.mode is Mode.AVAILABLE
        assert not one.busy
        assert not one.reserved


@given(inputs)
def test_an_invisible_user_looks_like_one_who_is_not_here(one: Inputs) -> None:
    if one.mode is Mode.INVISIBLE:
        assert standing(one) == standing(Inputs())


@given(inputs)
def test_ringing_leaves_out_only_what_calls_know_better(one: Inputs) -> None:
    assert rings(one) or not standing(one).bookable
    assert standing(one).bookable == (rings(one) and not one.busy and not one.reserved)
