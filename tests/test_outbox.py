"""Durable events: told when and only when their transaction commits, in its order, by whoever is alive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest
from msgspec import Struct

from realtime.outbox import Outbox, OutboxRow, Tx

WAIT_S = 10.0
NOW_TOO = -60_000  # counts rows of this moment as left over


class Note(Struct):
    """Something to tell."""

    text: str


class Reader:
    """A publisher and push planner that keep what they are given; the publisher fails while it is down."""

    def __init__(self) -> None:
        self.rows: list[OutboxRow] = []
        self.planned: list[OutboxRow] = []
        self.down = False
        self.came = asyncio.Event()

    async def publish_rows(self, rows: Sequence[OutboxRow]) -> None:
        if self.down:
            raise ConnectionError("the broker is away")
        self.rows += rows
        self.came.set()

    async def plan(self, conn: asyncpg.Connection, events: Sequence[OutboxRow]) -> None:
        self.planned += events

    def texts(self) -> list[str]:
        return [row.data.decode() for row in self.rows]


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def outbox(pool: asyncpg.Pool, reader: Reader) -> Outbox:
    return Outbox(pool, reader, reader)


async def left(pool: asyncpg.Pool) -> int:
    count: int = await pool.fetchval("select count(*) from realtime.outbox")
    return count


def tell(tx: Tx, *texts: str, push: bool = True) -> None:
    for text in texts:
        tx.emit("note", to=[1, 2], data=Note(text), push=push)


async def test_rollback_tells_nothing_and_runs_nothing(outbox: Outbox, pool: asyncpg.Pool) -> None:
    ran: list[str] = []
    with pytest.raises(RuntimeError):
        await _fail(outbox, ran)
    assert await left(pool) == 0
    assert ran == []


async def _fail(outbox: Outbox, ran: list[str]) -> None:
    async with outbox.transaction(1) as tx:
        tell(tx, "phantom")
        tx.after_commit(lambda: ran.append("ran"))
        raise RuntimeError


async def test_committed_events_are_published_at_once_in_order_and_leave_the_table(
    outbox: Outbox, pool: asyncpg.Pool, reader: Reader
) -> None:
    task = asyncio.create_task(outbox.run())
    try:
        async with outbox.transaction(1) as tx:
            tell(tx, "a", "b")
            assert reader.rows == [], "not before the commit"
        async with asyncio.timeout(WAIT_S):
            await reader.came.wait()
            while await left(pool):  # noqa: ASYNC110 - the condition is a row in the database
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert reader.texts() == ['{"text":"a"}', '{"text":"b"}']
    assert [row.audience for row in reader.rows] == [(1, 2), (1, 2)]


async def test_events_of_a_dead_node_are_relayed_in_the_order_of_their_transaction(
    outbox: Outbox, pool: asyncpg.Pool, reader: Reader
) -> None:
    texts = [str(n) for n in range(100)]  # many within one millisecond
    async with outbox.transaction(1) as tx:
        tell(tx, *texts)
    assert await outbox.sweep(older_than_ms=NOW_TOO) == 100
    assert reader.texts() == [f'{{"text":"{text}"}}' for text in texts]
    assert await left(pool) == 0


async def test_fresh_events_are_left_to_the_node_that_committed_them(outbox: Outbox, pool: asyncpg.Pool) -> None:
    async with outbox.transaction(1) as tx:
        tell(tx, "fresh")
    assert await outbox.sweep() == 0
    assert await left(pool) == 1


async def test_two_sweepers_relay_each_event_once(outbox: Outbox, reader: Reader) -> None:
    for n in range(20):
        async with outbox.transaction(1) as tx:
            tell(tx, str(n))
    await asyncio.gather(*[outbox.sweep(older_than_ms=NOW_TOO) for _ in range(4)])
    assert len(reader.rows) == len({row.id for row in reader.rows}) == 20


async def test_events_wait_in_the_table_while_the_broker_is_away(
    outbox: Outbox, pool: asyncpg.Pool, reader: Reader
) -> None:
    reader.down = True
    async with outbox.transaction(1) as tx:
        tell(tx, "patience")
    with pytest.raises(ConnectionError):
        await outbox.sweep(older_than_ms=NOW_TOO)
    assert await left(pool) == 1
    assert reader.planned == []
    reader.down = False
    assert await outbox.sweep(older_than_ms=NOW_TOO) == 1
    assert len(reader.planned) == 1


async def test_push_is_planned_only_for_events_that_may_be_pushed(outbox: Outbox, reader: Reader) -> None:
    async with outbox.transaction(1) as tx:
        tell(tx, "loud")
        tell(tx, "quiet", push=False)
    await outbox.sweep(older_than_ms=NOW_TOO)
    assert [row.data for row in reader.planned] == [b'{"text":"loud"}']


async def test_one_that_fails_after_the_commit_does_not_stop_the_others(outbox: Outbox) -> None:
    ran: list[str] = []

    def broken() -> None:
        raise RuntimeError

    async with outbox.transaction(1) as tx:
        tx.after_commit(broken)
        tx.after_commit(lambda: ran.append("ran"))
    assert ran == ["ran"]


async def test_event_keeps_the_id_and_tenant_it_was_given(outbox: Outbox, reader: Reader) -> None:
    async with outbox.transaction(1) as tx:
        first = tx.emit("note", to=[1], data=Note("mine"))
        assert tx.emit("note", to=[1], data=Note("theirs"), tenant_id=7) > first
    await outbox.sweep(older_than_ms=NOW_TOO)
    assert [(row.id == first, row.tenant_id) for row in reader.rows] == [(True, 1), (False, 7)]
