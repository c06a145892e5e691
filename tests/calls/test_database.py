"""What the database refuses, whatever the code does."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from tests.calls.world import World


async def test_database_refuses_a_second_end(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.ring(ann, mia)
    await world.cancel(ann, call_id)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await world.pool.execute("update realtime.calls set reason = 'missed', v = v + 1 where id = $1", call_id)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await world.pool.execute("update realtime.calls set state = 'ringing' where id = $1", call_id)


@pytest.mark.parametrize(
    "change",
    [
        "caller_id = host_id, host_id = caller_id",
        "price_coins = price_coins + 1",
        "v = v - 1",
        "state = 'ended'",
        "state = 'ended', reason = 'cancelled'",
        "state = 'ended', reason = 'bored', ended_ms = 1, deadline_ms = null",
        "deadline_ms = null",
        "reason = 'missed'",
        "state = 'connected'",
        "spent_coins = 5",
    ],
)
async def test_database_refuses_a_call_that_cannot_be(world: World, change: str) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = await world.ring(ann, mia)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await world.pool.execute(f"update realtime.calls set {change} where id = $1", call_id)  # noqa: S608


async def test_database_refuses_a_user_in_two_calls_on_either_side(world: World) -> None:
    ann, mia, lea = await world.host("ann", coins=100), await world.host("mia"), await world.user("lea", coins=100)
    await world.ring(ann, mia)
    other = await world.ring(lea, await world.host("zoe"))
    for user in (ann, mia):
        with pytest.raises(asyncpg.UniqueViolationError):
            await world.pool.execute(
                "insert into realtime.busy (tenant_id, user_id, call_id) values ($1, $2, $3)",
                world.tenant_id,
                user.user_id,
                other,
            )


async def test_nobody_is_busy_in_a_call_that_does_not_exist(world: World) -> None:
    ann = await world.user("ann")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await world.pool.execute(
            "insert into realtime.busy (tenant_id, user_id, call_id) values ($1, $2, $3)",
            world.tenant_id,
            ann.user_id,
            uuid4(),
        )
