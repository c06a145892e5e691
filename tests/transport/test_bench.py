"""The measuring instruments: the C generator counts what the C server sends; the peers' page is made of its facts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from bench import crossnode
from bench._native import Answer, Bench, BenchFailed, bench
from bench.fanout import publish
from bench.peers.report import plot, table


@pytest.fixture
def native() -> Iterator[Bench | None]:
    """The compiled programs; None where there is no compiler, which must be said and not crash."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        with pytest.raises(BenchFailed, match="C compiler"), bench():
            pass
        yield None
        return
    with bench() as programs:
        yield programs


def test_every_request_of_an_echo_is_answered_and_counted(native: Bench | None) -> None:
    if native is not None:
        with native.limit() as (port, _):
            load = native.load(port, connections=7, message='{"id":2,"op":"echo"}')
            answer = load.echo(0.2)
            paced = load.echo(0.2, rate=500)
            native.close_loads()
        assert answer.replies > 7
        assert answer.bytes == answer.replies * 20
        assert 0 < paced.replies <= 100
        assert answer.errors == answer.closed == 0


@pytest.mark.parametrize("joined", [False, True])
def test_every_publish_is_delivered_to_every_member(native: Bench | None, joined: bool) -> None:
    if native is not None:
        with native.limit(*(["join"] if joined else []), "321") as (port, _):
            load = native.load(port, connections=9, second='{"id":1,"op":"join"}', message=publish(200))
            answer = load.fan_out(0.2, publishers=3, in_flight=2)
            native.close_loads()
        assert answer.published > 6
        assert 0 <= answer.published * 9 - answer.events <= 6 * 9  # what was still in flight at the end


def test_a_visit_counts_when_its_greeting_has_been_answered(native: Bench | None) -> None:
    if native is not None:
        with native.limit() as (port, _):
            answer = native.load(port, connections=0, opening=4, greeting='{"id":1}').handshakes(0.2)
            deaf = native.load(port, connections=0, opening=4, greeting="nobody answers").handshakes(0.2)
            native.close_loads()
        assert answer.handshakes > 4
        assert answer.errors == answer.closed == deaf.handshakes == 0


@pytest.mark.parametrize(("in_flight", "rate"), [(3, 0), (0, 400)], ids=["in flight", "paced"])
def test_every_message_of_a_pair_is_heard_through_valkey(
    native: Bench | None, redis_url: str, in_flight: int, rate: int
) -> None:
    if native is not None:
        answer = _pairs(native, redis_url, crossnode.CHANNEL, in_flight=in_flight, rate=rate)
        assert answer.published > 5 * in_flight
        assert (answer.lost, answer.doubled, answer.errors) == (0, 0, 0)
        assert answer.bytes == answer.events * 500
        assert not rate or answer.published <= rate * answer.seconds + 1


def test_a_message_that_another_pair_hears_is_counted_as_doubled(native: Bench | None, redis_url: str) -> None:
    if native is not None:
        answer = _pairs(native, redis_url, "one-for-all", rate=200)
        assert answer.lost == 0
        assert answer.doubled >= answer.published > 0


def test_a_message_that_is_not_heard_is_counted_as_lost(native: Bench | None) -> None:
    if native is not None:
        with native.limit() as (port, _):
            load = native.load(port, connections=4, message=crossnode.publish(150), drain=0.1)
            answer = load.pairs(0.1, in_flight=3)
            native.close_loads()
        assert (answer.published, answer.events, answer.lost) == (6, 0, 6)


def _pairs(native: Bench, redis_url: str, channel: str, *, in_flight: int = 0, rate: float = 0) -> Answer:
    """Load two nodes in C, joined by Valkey, with five pairs in this channel."""
    path = redis_url.removeprefix("unix://")
    words = {
        "second": crossnode.JOIN.replace(crossnode.CHANNEL, channel),
        "message": crossnode.publish(150).replace(crossnode.CHANNEL, channel),
        "reply": '{"re',
    }
    with native.relay(path, 500) as (port, _), native.relay(path, 500) as (port2, _):
        load = native.load(port, port2=port2, connections=10, **words)
        answer = load.pairs(0.3, in_flight=in_flight, rate=rate)
        native.close_loads()
    return answer


def test_an_error_reply_ends_the_measurement(native: Bench | None) -> None:
    if native is not None:
        with native.limit() as (port, _):
            load = native.load(port, connections=1, message='{"id":2,"error":{"code":"busy"}}')
            with pytest.raises(BenchFailed, match="busy"):
                load.echo(0.1)
            native.close_loads()


def test_the_page_of_the_peers_shows_what_was_measured() -> None:
    facts: dict[str, Any] = {
        "machine": {"cores": 2},
        "members": 10,
        "rows": [
            {
                "name": "ours <1>",
                "note": "full path",
                "echo_per_cpu_s": 81_234.5,
                "fanout_per_cpu_s": 99.4,
                "queued_per_cpu_s": 1_230_000.0,
                "kb_per_socket": None,
            }
        ],
    }
    assert "| ours <1> | 81,234 | 99.4 | 1.23 | - | full path |" in table(facts)
    assert "ours &lt;1&gt;" in plot(facts)
    assert plot(facts).count("<rect") == 4  # the ground, and one bar for each figure
