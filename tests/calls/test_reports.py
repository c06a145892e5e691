"""What a node reports of its calls' sides: enough that a living side is always proved, and no more."""

from __future__ import annotations

import asyncio
import itertools
from uuid import UUID

import asyncpg
import pytest

from realtime.calls.liveness import GRACE_MS, LOOK_EVERY_MS, SILENT_AGAIN_MS, Liveness, Sign
from realtime.calls.model import Side
from tests.calls.test_liveness import ANN, CALL, MIA, a_view
from tests.calls.world import Clock, Phone, World

MEDIA_EVERY_MS = 5_000  # as clients do
MINUTES_MS = 600_000
WAIT_S = 20.0


class Person:
    """One side of a call, its phone, and the evidence that the database has of it."""

    def __init__(self, *, grace_ms: int = GRACE_MS) -> None:
        self.clock, self.phone = Clock(), Phone()
        self.liveness = Liveness(grace_ms=grace_ms, clock_ms=self.clock)
        self.liveness.media_up(CALL, ANN, Side.CALLER, device_id="phone", conn=self.phone, view=a_view())
        self.evidence_ms = 0
        self.reports = 0

    def forward(self, ms: int) -> None:
        self.clock.forward(ms)
        self.phone.ago_ms += ms

    def media(self) -> None:
        """The client says that media flows; every 30 s the database is asked, which makes it a new note."""
        self.phone.ago_ms = 0
        if self.liveness.media_again(CALL, ANN, device_id="phone", conn=self.phone) is None:
            self.liveness.media_up(CALL, ANN, Side.CALLER, device_id="phone", conn=self.phone, view=a_view())

    def look(self) -> list[int]:
        """Report what is due; return how long ago the side was heard."""
        signs = self.liveness.due()
        for sign in signs:
            self.evidence_ms = self.clock.now_ms - sign.heard_ago_ms
        self.reports += len(signs)
        return [sign.heard_ago_ms for sign in signs]


@pytest.mark.parametrize("missed", [None, 3, 4, 5], ids=["no look missed", "every 3rd", "every 4th", "every 5th"])
@pytest.mark.parametrize("media_every_ms", [100, 1_000, MEDIA_EVERY_MS])
def test_evidence_of_a_living_side_is_younger_than_half_the_grace_though_looks_are_missed(
    media_every_ms: int, missed: int | None
) -> None:
    side = Person()
    for ms in range(0, MINUTES_MS, 100):
        if ms % media_every_ms == 0:
            side.media()
        look, off = divmod(ms, LOOK_EVERY_MS)
        if off == 300 and (missed is None or look % missed):
            side.look()
        if ms > 2 * LOOK_EVERY_MS:
            assert side.clock.now_ms - side.evidence_ms < GRACE_MS / 2
        side.forward(100)


def test_living_side_is_reported_no_more_often_than_clients_report() -> None:
    side = Person()
    for ms in range(0, MINUTES_MS, 100):
        if ms % MEDIA_EVERY_MS == 0:
            side.media()
        if ms % LOOK_EVERY_MS == 300:
            side.look()
        side.forward(100)
    assert side.reports <= MINUTES_MS / MEDIA_EVERY_MS + 1


def test_first_report_is_made_at_once() -> None:
    assert Person().look() == [0]


def test_silence_is_reported_when_half_the_grace_is_over_and_then_again_and_again() -> None:
    side = Person()
    side.look()
    told = []
    for _ in range(30):
        side.forward(LOOK_EVERY_MS)
        told += side.look()
    assert told[0] == GRACE_MS / 2 + LOOK_EVERY_MS / 2, "the first look after half the grace"
    assert {later - sooner for sooner, later in itertools.pairwise(told)} == {SILENT_AGAIN_MS}


def test_media_that_stops_and_comes_back_is_reported_at_the_next_look() -> None:
    side = Person()
    side.media()
    side.look()
    side.forward(1_000)
    side.liveness.media_down(CALL, ANN)
    side.forward(200)
    assert side.look() == [200]
    side.forward(1_000)
    assert side.look() == []
    side.media()
    side.forward(100)
    assert side.look() == [100]


def test_side_that_is_heard_again_after_silence_is_reported_at_the_next_look() -> None:
    side = Person()
    side.look()
    side.forward(11_000)
    assert side.look() == [11_000]
    side.forward(800)
    side.media()
    assert side.look() == [0]


def test_each_side_is_reported_for_itself() -> None:
    side = Person()
    side.look()
    side.liveness.media_up(CALL, MIA, Side.HOST, device_id="desk", conn=Phone(), view=a_view())
    assert side.liveness.due() == [Sign(CALL, Side.HOST, 0)]


def test_everything_is_due_when_the_database_may_know_nothing() -> None:
    side = Person()
    side.look()
    assert side.look() == []
    side.liveness.tell_again()
    assert side.look() == [0]


# With the database.


async def evidence(owner: asyncpg.Connection, call_id: UUID) -> int:
    """Return of how many sides of the call the database has evidence."""
    sides: int | None = await owner.fetchval(
        "select num_nonnulls(payer_heard_ms, payee_heard_ms) from billing.meter_proofs where meter_id = $1", call_id
    )
    return sides or 0


async def test_after_a_crash_of_the_database_everything_is_reported_again(
    world: World, owner: asyncpg.Connection
) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.connect(ann, mia)
    assert await world.proofs.report() == 2
    assert await evidence(owner, call_id) == 2
    assert await world.proofs.report() == 0
    # What a crash does: connections end, unlogged tables are empty.
    await owner.execute("truncate billing.meter_proofs")
    await owner.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await world.proofs.report()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                continue  # it met a connection that was ended
            break
    assert await evidence(owner, call_id) == 2


async def test_report_that_failed_is_made_again_with_all_others(world: World, owner: asyncpg.Connection) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    eve, joy = await world.user("eve", coins=100), await world.host("joy")
    await world.connect(ann, mia)
    await world.proofs.report()
    await world.connect(eve, joy)
    await owner.execute("alter table billing.meter_proofs rename to away")
    with pytest.raises(asyncpg.PostgresError):
        await world.proofs.report()
    await owner.execute("alter table billing.away rename to meter_proofs")
    assert await world.proofs.report() == 4
