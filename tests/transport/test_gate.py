"""Admission: totals, totals of an address, rate of an address; what is counted is given back."""

from __future__ import annotations

import pytest

from realtime.transport import gate
from realtime.transport.gate import Gate, network
from realtime.transport.options import SocketOptions


def make(**options: int) -> Gate:
    return Gate(SocketOptions(**options))  # type: ignore[arg-type]


def test_a_node_takes_as_many_sockets_as_it_may() -> None:
    door = make(connections_max=2)
    assert door.admit("a", 0) is None
    assert door.admit("b", 0) is None
    assert door.admit("c", 0) is gate.FULL
    door.left("a", signed_in=False)
    assert door.admit("c", 0) is None


def test_sockets_that_have_not_signed_in_are_counted_apart() -> None:
    door = make(unauthenticated_max=3, unauthenticated_per_ip_max=2)
    assert door.admit("a", 0) is None
    assert door.admit("a", 0) is None
    assert door.admit("a", 0) is gate.ADDRESS_UNAUTHENTICATED
    assert door.admit("b", 0) is None
    assert door.admit("c", 0) is gate.UNAUTHENTICATED_FULL
    door.signed_in("a")
    assert door.admit("a", 0) is None
    door.left("a", signed_in=True)
    assert (door.sockets, door.unauthenticated) == (3, 3)


def test_an_address_may_open_so_many_sockets_a_second() -> None:
    door = make(accepts_per_ip_burst=3, accepts_per_ip_per_s=2)
    assert [door.admit("a", 0.0) for _ in range(4)] == [None, None, None, gate.TOO_FAST]
    assert door.admit("b", 0.0) is None
    assert door.admit("a", 0.5) is None
    assert door.admit("a", 0.5) is gate.TOO_FAST
    assert [door.admit("a", 100.0) for _ in range(4)] == [None, None, None, gate.TOO_FAST]


def test_a_refused_socket_is_not_counted() -> None:
    door = make(accepts_per_ip_burst=1, accepts_per_ip_per_s=1)
    door.admit("a", 0)
    door.admit("a", 0)
    door.left("a", signed_in=False)
    assert (door.sockets, door.unauthenticated) == (0, 0)


def test_addresses_without_sockets_are_forgotten() -> None:
    door = make(accepts_per_ip_burst=10, accepts_per_ip_per_s=10)
    for number in range(1_000):
        remote = f"10.0.{number // 250}.{number % 250}"
        door.admit(remote, 0)
        door.left(remote, signed_in=False)
    door.admit("b", gate.SWEEP_S + 1)
    assert len(door._addresses) == 1


@pytest.mark.parametrize(
    ("remote", "counted_as"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"), (":", ":")],
)
def test_one_customer_of_ipv6_counts_as_one_address(remote: str, counted_as: str) -> None:
    assert network(remote) == counted_as


def test_connections_count_before_their_upgrade_and_trusted_proxies_are_never_too_many() -> None:
    door = Gate(SocketOptions(unauthenticated_per_ip_max=2, connections_max=6, trusted_proxies=("proxy",)))
    assert [door.enter("a", 0) for _ in range(3)] == [None, None, gate.ADDRESS_UNAUTHENTICATED]
    assert [door.enter("proxy", 0) for _ in range(4)] == [None] * 4
    assert door.enter("b", 0) is gate.FULL
    door.leave("a")
    assert door.enter("a", 0) is None
    for peer in ("a", "a", "proxy", "proxy", "proxy", "proxy"):
        door.leave(peer)
    assert door.opening == 0
