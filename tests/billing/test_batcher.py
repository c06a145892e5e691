"""Natural batching: who goes together and when, and what becomes of a batch that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from billing.batcher import Batcher, Book, Options, Undecided, Verdict
from billing.errors import Busy

WAIT_S = 20.0


class Clash(Exception):
    """A failure that is nobody's fault."""


class Away(Exception):
    """A failure that lasts."""


def judge(error: Exception, jobs: int) -> Verdict:
    match error:
        case Clash():
            return Verdict.REPEAT
        case Away():
            return Verdict.REFUSE
        case _:
            return Verdict.HALVE


OPTIONS = Options(
    batch_max=500,
    pending_max=1_000,
    lanes=4,
    gather_ms=25,
    asks_max=3,
    tries_max=5,
    repeat_ms=1,
    judge=judge,
    refusal=Busy,
)


def batcher_of(book: Book[int, int], options: Options = OPTIONS) -> Batcher[int, int]:
    """Return a batcher of numbers, each of which may go with any other."""
    return Batcher(book, lambda number: (number,), options)


class Slow:
    """Books by keeping what it was asked, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = asyncio.Event()
        self.let = asyncio.Event()

    async def book(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        self.began.set()
        await self.let.wait()
        return list(jobs)


class Failing:
    """Books as a function of the jobs and of how often it was asked says, which may raise."""

    def __init__(self, outcomes: Callable[[list[int], int], list[int | Exception]]) -> None:
        self.batches: list[list[int]] = []
        self._outcomes = outcomes

    async def book(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        return self._outcomes(list(jobs), len(self.batches))


@asynccontextmanager
async def running(batcher: Batcher[int, int]) -> AsyncIterator[None]:
    task = asyncio.create_task(batcher.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def asks(batcher: Batcher[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.add(number)) for number in numbers]


async def outcomes(batcher: Batcher[int, int], *numbers: int) -> list[int | BaseException]:
    """Have numbers booked that all come at once, and return what each is told."""
    asked = asks(batcher, *numbers)
    await asyncio.sleep(0)
    async with running(batcher), asyncio.timeout(WAIT_S):
        return await asyncio.gather(*asked, return_exceptions=True)


async def test_first_goes_at_once_and_what_comes_meanwhile_goes_together() -> None:
    slow = Slow()
    batcher = batcher_of(slow.book, replace(OPTIONS, lanes=1))
    async with running(batcher), asyncio.timeout(WAIT_S):
        first = asks(batcher, 1)
        await slow.began.wait()
        later = asks(batcher, 2, 3, 4, 5)
        await asyncio.sleep(0)
        assert batcher.waiting == 4
        slow.let.set()
        assert await asyncio.gather(*first, *later) == [1, 2, 3, 4, 5]
    assert slow.batches == [[1], [2, 3, 4, 5]]
    assert (batcher.batches, batcher.booked, batcher.waiting) == (2, 5, 0)


async def test_trickle_is_gathered_while_lanes_are_free() -> None:
    slow = Slow()
    slow.let.set()
    batcher = batcher_of(slow.book)
    async with running(batcher), asyncio.timeout(WAIT_S):
        await asyncio.gather(*asks(batcher, 1))
        await asyncio.gather(*asks(batcher, 2), *asks(batcher, 3))
    assert slow.batches == [[1], [2, 3]]


async def test_full_batch_does_not_wait_for_the_pace() -> None:
    slow = Slow()
    slow.let.set()
    batcher = batcher_of(slow.book, replace(OPTIONS, batch_max=3, gather_ms=60_000))
    async with running(batcher), asyncio.timeout(WAIT_S):
        await asyncio.gather(*asks(batcher, 1))
        await asyncio.gather(*asks(batcher, 2, 3, 4))
    assert slow.batches == [[1], [2, 3, 4]]


async def test_no_batch_is_larger_than_its_limit() -> None:
    slow = Slow()
    slow.let.set()
    batcher = batcher_of(slow.book, replace(OPTIONS, batch_max=3))
    async with running(batcher), asyncio.timeout(WAIT_S):
        await asyncio.gather(*asks(batcher, *range(1, 9)))
    assert [len(batch) for batch in slow.batches] == [3, 3, 2]


async def test_no_more_batches_are_under_way_than_there_are_lanes() -> None:
    under_way: list[int] = []
    lanes = asyncio.Event()

    async def book(jobs: Sequence[int]) -> list[int | Exception]:
        under_way.append(len(jobs))
        assert len(under_way) <= 2
        if len(under_way) == 2:
            lanes.set()
        await lanes.wait()
        await asyncio.sleep(0)
        under_way.pop()
        return list(jobs)

    batcher = batcher_of(book, replace(OPTIONS, batch_max=1, lanes=2, gather_ms=0))
    assert await outcomes(batcher, *range(20)) == list(range(20))


async def test_whoever_gave_up_before_the_start_is_not_booked() -> None:
    slow = Slow()
    slow.let.set()
    batcher = batcher_of(slow.book)
    gone, stays = asks(batcher, 1, 2)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    async with running(batcher), asyncio.timeout(WAIT_S):
        assert await stays == 2
    assert slow.batches == [[2]]


async def test_full_queue_answers_that_it_is_busy() -> None:
    batcher = batcher_of(Slow().book)
    waiting = asks(batcher, *range(1, OPTIONS.pending_max + 1))
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(Busy) as refused:
            await batcher.add(0)
    assert (refused.value.retryable, refused.value.next_action) == (True, "wait")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_stopped_batcher_refuses_those_under_way_and_those_that_wait() -> None:
    slow = Slow()
    batcher = batcher_of(slow.book, replace(OPTIONS, batch_max=2, lanes=1))
    waiting = asks(batcher, 1, 2, 3)
    async with running(batcher), asyncio.timeout(WAIT_S):
        await slow.began.wait()
    async with asyncio.timeout(WAIT_S):
        assert [type(told) for told in await asyncio.gather(*waiting, return_exceptions=True)] == [Busy] * 3


async def test_culprit_is_found_by_halving_and_fails_alone() -> None:
    def book(jobs: list[int], asked: int) -> list[int | Exception]:
        if 5 in jobs:
            raise ValueError("five")
        return list(jobs)

    failing = Failing(book)
    told = await outcomes(batcher_of(failing.book), *range(8))
    assert isinstance(told.pop(5), ValueError)
    assert told == [0, 1, 2, 3, 4, 6, 7]
    assert failing.batches == [[*range(8)], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]


async def test_batch_that_is_not_to_blame_is_tried_again_as_it_is() -> None:
    def book(jobs: list[int], asked: int) -> list[int | Exception]:
        if asked < OPTIONS.tries_max:
            raise Clash
        return list(jobs)

    failing = Failing(book)
    assert await outcomes(batcher_of(failing.book), 1, 2, 3) == [1, 2, 3]
    assert failing.batches == [[1, 2, 3]] * OPTIONS.tries_max


async def test_batch_that_never_goes_well_is_refused_each_with_an_error_of_his_own() -> None:
    def book(jobs: list[int], asked: int) -> list[int | Exception]:
        raise Clash

    failing = Failing(book)
    told = await outcomes(batcher_of(failing.book), 1, 2, 3)
    assert [type(error) for error in told] == [Busy] * 3
    assert len({id(error) for error in told}) == 3
    assert all(isinstance(error, Busy) and isinstance(error.__cause__, Clash) for error in told)
    assert failing.batches == [[1, 2, 3]] * OPTIONS.tries_max


async def test_batch_that_had_better_not_wait_is_refused_at_once() -> None:
    def book(jobs: list[int], asked: int) -> list[int | Exception]:
        raise Away

    failing = Failing(book)
    assert [type(error) for error in await outcomes(batcher_of(failing.book), 1, 2)] == [Busy] * 2
    assert failing.batches == [[1, 2]]


async def test_halves_have_all_their_tries() -> None:
    """A lost connection while a culprit is looked for costs nobody an outcome."""

    def book(jobs: list[int], asked: int) -> list[int | Exception]:
        if len(jobs) == 2:
            raise ValueError
        if asked % 3:
            raise Clash
        return list(jobs)

    failing = Failing(book)
    assert await outcomes(batcher_of(failing.book), 1, 2) == [1, 2]
    assert failing.batches == [[1, 2], [1], [1], [2], [2], [2]]


async def test_each_is_told_its_own_error() -> None:
    def book(jobs: list[int], asked: int) -> list[int | Exception]:
        return [KeyError(job) if job % 2 else job for job in jobs]

    batcher = batcher_of(Failing(book).book)
    told = await outcomes(batcher, 1, 2, 3, 4)
    assert [type(one) for one in told] == [KeyError, int, KeyError, int]
    assert (batcher.batches, batcher.booked) == (1, 2)


async def test_undecided_is_asked_again_and_fails_at_last() -> None:
    def book(jobs: list[int], asked: int) -> list[int | Exception]:
        return [job if job < asked else Undecided(KeyError(job)) for job in jobs]

    failing = Failing(book)
    told = await outcomes(batcher_of(failing.book, replace(OPTIONS, gather_ms=0)), 1, 2, 3)
    assert told[:2] == [1, 2]
    assert isinstance(told[2], KeyError)
    assert failing.batches == [[1, 2, 3], [1, 2, 3], [2, 3]]


async def test_other_batches_go_on_while_one_is_tried_again() -> None:
    began, over = asyncio.Event(), asyncio.Event()

    async def book(jobs: Sequence[int]) -> list[int | Exception]:
        if 1 in jobs and not over.is_set():
            began.set()
            raise Clash
        return list(jobs)

    batcher = batcher_of(book, replace(OPTIONS, tries_max=100_000, gather_ms=0))
    async with running(batcher), asyncio.timeout(WAIT_S):
        first = asks(batcher, 1)
        await began.wait()
        assert await asyncio.gather(*asks(batcher, 2, 3)) == [2, 3]
        assert not first[0].done()
        over.set()
        assert await first[0] == 1


async def test_batcher_that_works_until_idle_ends_when_nothing_is_left_and_may_run_again() -> None:
    slow = Slow()
    batcher = batcher_of(slow.book, replace(OPTIONS, gather_ms=0))
    for number in (1, 2):
        slow.let.clear()
        slow.began.clear()
        asked = asks(batcher, number)
        await asyncio.sleep(0)
        task = asyncio.create_task(batcher.run(until_idle=True))
        async with asyncio.timeout(WAIT_S):
            await slow.began.wait()
            slow.began.clear()
            asked += asks(batcher, number + 10)
            await slow.began.wait()  # in another lane
            assert not task.done()
            slow.let.set()
            await asyncio.gather(*asked)
            await task
    assert slow.batches == [[1], [11], [2], [12]]


@pytest.mark.parametrize("turns", range(8))
async def test_what_comes_while_the_last_lane_ends_is_done_too(turns: int) -> None:
    slow = Slow()
    batcher = batcher_of(slow.book, replace(OPTIONS, gather_ms=0))
    first = asks(batcher, 1)
    await asyncio.sleep(0)
    task = asyncio.create_task(batcher.run(until_idle=True))
    async with asyncio.timeout(WAIT_S):
        await slow.began.wait()
        slow.let.set()
        for _ in range(turns):  # of the loop: which of them is the last one depends on asyncio
            await asyncio.sleep(0)
        if task.done():
            task = asyncio.create_task(batcher.run(until_idle=True))
        assert await batcher.add(2) == 2
        assert await asyncio.gather(*first) == [1]
        await task


ARRIVALS = st.lists(st.lists(st.frozensets(st.integers(0, 4), max_size=3), max_size=8), min_size=1, max_size=6)


@given(arrivals=ARRIVALS, batch_max=st.integers(1, 5), lanes=st.integers(1, 3))
def test_who_shares_a_key_goes_apart_and_in_turn_and_nobody_is_passed_over(
    arrivals: list[list[frozenset[int]]], batch_max: int, lanes: int
) -> None:
    """Some wait at the start; more come with each batch that begins. Jobs are numbered as they come."""
    keys = [taken for group in arrivals for taken in group]
    batches: list[list[int]] = []
    asked: list[asyncio.Task[int]] = []

    async def play() -> None:
        groups = iter(arrivals)

        async def book(jobs: Sequence[int]) -> list[int | Exception]:
            batches.append(list(jobs))
            arrive()
            await asyncio.sleep(0)
            return list(jobs)

        def arrive() -> None:
            for _ in next(groups, ()):
                asked.append(asyncio.create_task(batcher.add(len(asked))))

        options = replace(OPTIONS, batch_max=batch_max, lanes=lanes, gather_ms=0)
        batcher = Batcher(book, lambda job: keys[job], options)
        async with running(batcher), asyncio.timeout(WAIT_S):
            while len(asked) < len(keys):
                arrive()
                await asyncio.gather(*asked)
            assert await asyncio.gather(*asked) == list(range(len(keys)))

    asyncio.run(play())
    waiting = set(range(len(keys)))
    for batch in batches:
        assert len(batch) <= batch_max
        assert min(waiting) in batch
        for job in batch:
            assert not any(keys[job] & keys[other] for other in waiting if other < job)
            assert not any(keys[job] & keys[other] for other in batch if other != job)
        waiting -= set(batch)
    assert not waiting
