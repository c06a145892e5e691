"""Deadlines: asked when due, not before, never after being discarded, and again when they ask for it."""

from __future__ import annotations

import asyncio
import time

import pytest

from realtime.transport.wheel import SLOTS, Wheel


class Item:
    def __init__(self, *waits: float) -> None:
        self.wheel_slot = -1
        self.asked: list[float] = []
        self._waits = list(waits)

    def due(self, now: float) -> float:
        self.asked.append(now)
        return self._waits.pop(0) if self._waits else 0


@pytest.fixture
async def wheel() -> Wheel:
    return Wheel(asyncio.get_running_loop(), tick_ms=1_000)


def turn(wheel: Wheel, times: int) -> None:
    for number in range(times):
        wheel.turn(float(number))


async def test_an_item_is_asked_after_its_time_and_not_before(wheel: Wheel) -> None:
    item = Item()
    wheel.add(item, 3)
    turn(wheel, 3)
    assert not item.asked
    turn(wheel, 1)
    assert len(item.asked) == 1
    turn(wheel, SLOTS * 2)
    assert len(item.asked) == 1
    assert len(wheel) == 0


async def test_an_item_is_asked_again_when_it_says_so(wheel: Wheel) -> None:
    item = Item(2, 2, 0)
    wheel.add(item, 1)
    turn(wheel, 30)
    assert len(item.asked) == 3


async def test_a_discarded_item_is_not_asked(wheel: Wheel) -> None:
    item = Item()
    wheel.add(item, 1)
    wheel.discard(item)
    wheel.discard(item)
    turn(wheel, 5)
    assert not item.asked


async def test_a_later_wish_replaces_an_earlier_one(wheel: Wheel) -> None:
    item = Item()
    wheel.add(item, 1)
    wheel.add(item, 10)
    turn(wheel, 5)
    assert not item.asked
    turn(wheel, 6)
    assert len(item.asked) == 1


async def test_a_wait_beyond_the_wheel_is_asked_at_its_end(wheel: Wheel) -> None:
    item = Item()
    wheel.add(item, SLOTS * 10)
    turn(wheel, SLOTS - 1)
    assert len(item.asked) == 1


async def test_an_item_discarded_by_another_in_the_same_turn_is_not_asked(wheel: Wheel) -> None:
    class Killer(Item):
        def due(self, now: float) -> float:
            for victim in victims:
                wheel.discard(victim)
            return super().due(now)

    victims: list[Item] = [Killer() for _ in range(10)]
    for victim in victims:
        wheel.add(victim, 1)
    turn(wheel, 3)
    assert sum(len(victim.asked) for victim in victims) == 1


async def test_the_running_wheel_turns_by_itself() -> None:
    wheel = Wheel(asyncio.get_running_loop(), tick_ms=5)
    done = asyncio.Event()

    class Setter(Item):
        def due(self, now: float) -> float:
            done.set()
            return 0

    wheel.start()
    wheel.add(Setter(), 0.01)
    async with asyncio.timeout(10):
        await done.wait()
    wheel.stop()


async def test_deadlines_that_passed_while_the_loop_was_held_up_are_not_skipped() -> None:
    wheel = Wheel(asyncio.get_running_loop(), tick_ms=5)
    done = asyncio.Event()

    class Last(Item):
        def due(self, now: float) -> float:
            done.set()
            return super().due(now)

    items = [*(Item() for _ in range(9)), Last()]
    wheel.start()
    for index, item in enumerate(items):
        wheel.add(item, index * 0.006)
    time.sleep(0.15)  # noqa: ASYNC251  # holding the loop up is what this is about
    async with asyncio.timeout(10):
        await done.wait()
    wheel.stop()
    assert [len(item.asked) for item in items] == [1] * 10
