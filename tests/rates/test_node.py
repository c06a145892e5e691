"""A node's own buckets: connections, users over their connections, actions, sign-ins, addresses whose sign-ins fail."""

from __future__ import annotations

import dataclasses

import pytest

from realtime.catalog import route_table
from realtime.config import Settings, SettingsError, load
from realtime.protocol.principal import Principal
from realtime.rates import ACTIONS, Limits, Rate, Rates, read_limits
from realtime.rates import node as node_module
from realtime.rates.node import Allowance
from realtime.rates.table import read_rate

WIDE = Rate(1_000, 1_000)


@dataclasses.dataclass
class Connection:
    """A connection, as far as rates go; `user_id` 0 has not signed in."""

    user_id: int = 0
    full_at: float = 0.0
    allowance: Allowance | None = None

    @property
    def principal(self) -> Principal | None:
        if not self.user_id:
            return None
        return Principal(1, "t", self.user_id, str(self.user_id), frozenset(), "d", 0)


def test_a_connection_may_ask_a_burst_and_then_so_much_a_second() -> None:
    rates = Rates(Limits(connection=Rate(10, 2)))
    connection = Connection()
    assert [rates.take(connection, "x", 1, 100.0) for _ in range(10)] == [0] * 10
    wait_ms = rates.take(connection, "x", 1, 100.0)
    assert 500 <= wait_ms <= 501
    assert rates.take(connection, "x", 1, 100.0 + wait_ms / 1_000) == 0
    assert rates.take(connection, "x", 1, 100.0 + wait_ms / 1_000) > 0
    assert rates.refused == {"connection": 2}


def test_a_dear_operation_takes_its_cost_and_a_refusal_takes_nothing() -> None:
    rates = Rates(Limits(connection=Rate(10, 1)))
    connection = Connection()
    assert rates.take(connection, "x", 8, 0.0) == 0
    assert rates.take(connection, "x", 5, 0.0) > 0
    assert rates.take(connection, "x", 2, 0.0) == 0


def test_an_idle_connection_saves_no_more_than_its_burst() -> None:
    rates = Rates(Limits(connection=Rate(3, 1)))
    connection = Connection()
    assert [bool(rates.take(connection, "x", 1, 1e6)) for _ in range(4)] == [False, False, False, True]


def test_all_connections_of_a_user_share_one_bucket_and_others_have_their_own() -> None:
    rates = Rates(Limits(connection=WIDE, user=Rate(4, 1)))
    phone, tablet, stranger = Connection(1), Connection(1), Connection(2)
    assert [rates.take(each, "x", 1, 0.0) for each in (phone, tablet, phone, tablet)] == [0] * 4
    assert rates.take(phone, "x", 1, 0.0) > 0
    assert rates.take(tablet, "x", 1, 0.0) > 0
    assert rates.take(stranger, "x", 1, 0.0) == 0
    assert rates.refused == {"user": 2}


def test_a_reconnect_does_not_fill_a_users_bucket() -> None:
    rates = Rates(Limits(connection=WIDE, user=Rate(2, 1)))
    assert [rates.take(Connection(1), "x", 1, 0.0) for _ in range(2)] == [0, 0]
    assert rates.take(Connection(1), "x", 1, 0.0) > 0


def test_an_action_has_a_bucket_of_its_own_and_leaves_the_rest_alone() -> None:
    rates = Rates(Limits(connection=WIDE, user=WIDE, actions={"chat.send": Rate(2, 0.5)}))
    connection = Connection(1)
    assert [rates.take(connection, "chat.send", 1, 0.0) for _ in range(2)] == [0, 0]
    assert 2_000 <= rates.take(connection, "chat.send", 1, 0.0) <= 2_001
    assert rates.take(connection, "chat.typing", 1, 0.0) == 0
    assert rates.refused == {"chat.send": 1}


def test_an_address_whose_sign_ins_fail_has_to_wait_and_others_do_not() -> None:
    rates = Rates(Limits(connection=WIDE, failed_sign_ins=Rate(2, 1)))
    for _ in range(2):
        assert rates.sign_in_wait_ms("10.0.0.1", 0.0) == 0
        rates.sign_in_failed("10.0.0.1", 0.0)
    assert rates.sign_in_wait_ms("10.0.0.1", 0.0) > 0
    assert rates.sign_in_wait_ms("10.0.0.2", 0.0) == 0
    assert rates.sign_in_wait_ms("10.0.0.1", 1.1) == 0
    rates.sign_in_failed("2001:db8::1", 0.0)
    rates.sign_in_failed("2001:db8::2", 0.0)
    assert rates.sign_in_wait_ms("2001:db8::3", 0.0) > 0, "one customer's network is one address"


def test_a_user_may_sign_in_so_often_and_others_are_not_counted_with_them() -> None:
    rates = Rates(Limits(connection=WIDE, sign_ins=Rate(3, 0.5)))
    assert [rates.take_sign_in("main", "ravi", 0.0) for _ in range(3)] == [0, 0, 0]
    assert 2_000 <= rates.take_sign_in("main", "ravi", 0.0) <= 2_001
    assert rates.take_sign_in("main", "asha", 0.0) == 0
    assert rates.take_sign_in("other", "ravi", 0.0) == 0, "another tenant's user of the same name"
    assert rates.take_sign_in("main", "ravi", 2.1) == 0, "a refused one costs nothing"
    assert rates.take_sign_in("main", "ravi", 2.1) > 0
    assert rates.refused == {"sign_ins": 2}


def test_others_who_sign_in_do_not_make_a_busy_user_forgotten() -> None:
    rates = Rates(Limits(connection=WIDE, sign_ins=Rate(3, 0.5)))
    assert [rates.take_sign_in("main", "ravi", 0.0) for _ in range(3)] == [0, 0, 0]
    assert not any(rates.take_sign_in("main", f"u{n}", n / 1_000) for n in range(1_000))
    assert rates.take_sign_in("main", "ravi", 1.0) > 0


def test_no_more_users_and_addresses_are_remembered_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "REMEMBERED_MAX", 3)
    rates = Rates(Limits(connection=WIDE, user=Rate(1, 0.001), sign_ins=Rate(1, 0.001), failed_sign_ins=Rate(1, 0.001)))
    connections = [Connection(user_id) for user_id in range(1, 5)]
    assert [rates.take(each, "x", 1, 0.0) for each in connections] == [0] * 4
    assert rates.take(Connection(1), "x", 1, 0.0) == 0, "the first was forgotten"
    assert rates.take(Connection(4), "x", 1, 0.0) > 0
    assert rates.take(connections[0], "x", 1, 0.0) > 0, "who is connected keeps what they have"
    for number in range(4):
        rates.sign_in_failed(f"10.0.0.{number}", 0.0)
    assert rates.sign_in_wait_ms("10.0.0.0", 0.0) == 0
    assert rates.sign_in_wait_ms("10.0.0.3", 0.0) > 0
    assert [rates.take_sign_in("main", user, 0.0) for user in "abcd"] == [0] * 4
    assert rates.take_sign_in("main", "a", 0.0) == 0
    assert rates.take_sign_in("main", "d", 0.0) > 0


def test_every_action_of_the_table_is_an_operation_and_a_setting() -> None:
    routes = {route.op: route for route in route_table()}
    defaults = read_limits(load({}))
    for action in ACTIONS:
        assert action.op in routes
        assert action.op in defaults.actions
        assert (action.op in defaults.everywhere) == action.everywhere
    named = {name for name in Settings.__struct_fields__ if name.startswith("rate_")}
    assert named == {action.setting for action in ACTIONS} | {"rate_sign_ins", "rate_failed_sign_ins"}


def test_no_operation_costs_more_than_the_smallest_burst_that_may_be_set() -> None:
    assert max(route.cost for route in route_table()) <= 10
    with pytest.raises(SettingsError, match="TALKMETER_REQUESTS_BURST"):
        load({"TALKMETER_REQUESTS_BURST": "9"})


def test_a_rate_is_read_as_written() -> None:
    assert read_rate("30/60s") == Rate(30, 0.5)
    assert read_rate("off") is None
    assert read_limits(load({"TALKMETER_RATE_CHAT_SEND": "off"})).actions.keys().isdisjoint({"chat.send"})


@pytest.mark.parametrize("text", ["", "0/60s", "30", "30/0s", "30/60", "-1/60s", "30/60s ", "OFF"])
def test_a_rate_of_another_form_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(SettingsError, match="TALKMETER_RATE_GIFT_SEND"):
        load({"TALKMETER_RATE_GIFT_SEND": text})
