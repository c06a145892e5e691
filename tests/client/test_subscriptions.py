"""Handlers and buffers of the Python client: order, bounds, and one that fails disturbs no other."""

from __future__ import annotations

import pytest

from realtime.client.errors import ClientClosed, EventsLost
from realtime.client.subscriptions import Audience
from realtime.client.wire import Event


def test_handlers_get_the_events_they_named_in_order() -> None:
    audience, seen = Audience(), list[str]()
    audience.on("a", lambda event: seen.append(f"a{event.v}"))
    audience.on("*", lambda event: seen.append(f"*{event.v}"))
    audience.hand(Event("a", v=1))
    audience.hand(Event("b", v=2))
    assert seen == ["a1", "*1", "*2"]


def test_a_handler_that_was_taken_off_is_called_no_more() -> None:
    audience, seen = Audience(), list[Event]()
    off = audience.on("a", seen.append)
    off()
    off()
    audience.hand(Event("a"))
    assert seen == []


def test_a_failing_handler_disturbs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    audience, seen = Audience(), list[Event]()

    def fail(event: Event) -> None:
        raise ValueError(event.name)

    audience.on("a", fail)
    audience.on("a", seen.append)
    audience.hand(Event("a"))
    assert len(seen) == 1
    assert "a handler of a failed" in caplog.text


async def test_a_subscription_gives_what_was_handed_and_ends_with_the_client() -> None:
    audience = Audience()
    subscription = audience.subscribe(["a"])
    audience.hand(Event("a", v=1))
    audience.hand(Event("b", v=2))
    audience.end()
    assert [event.v async for event in subscription] == [1]
    with pytest.raises(ClientClosed):
        await subscription.next()


async def test_a_full_buffer_is_told_and_not_hidden() -> None:
    audience = Audience()
    with audience.subscribe([], size_max=2) as subscription:
        for v in range(3):
            audience.hand(Event("a", v=v))
        assert [(await subscription.next()).v, (await subscription.next()).v] == [0, 1]
        with pytest.raises(EventsLost):
            await subscription.next(timeout_ms=1_000)


async def test_a_wait_for_an_event_is_bounded() -> None:
    with Audience().subscribe(["a"]) as subscription, pytest.raises(TimeoutError):
        await subscription.next(timeout_ms=1)
