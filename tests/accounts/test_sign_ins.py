"""Sign-ins in batches, on real PostgreSQL: shared statements, and to each what is theirs."""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg
import pytest

from billing.batcher import Verdict
from realtime.accounts.models import Device, HostDefaults
from realtime.accounts.service import Accounts
from realtime.accounts.sign_ins import SIGN_INS, SignIns, judge
from realtime.accounts.store import AccountStore, SignIn
from realtime.protocol.errors import Unavailable
from tests.accounts.test_service import NOW_MS, devices, identity
from tests.broker.support import until
from tests.locks import blocked

USERS = 300
WAIT_S = 20.0


@pytest.fixture
async def tenant_id(pool: asyncpg.Pool) -> int:
    """A tenant with USERS users, u0, u1, ..., each on a device that is known."""
    accounts = Accounts(pool)
    tenant_id = await accounts.ensure_tenant("main")
    await asyncio.gather(
        *(accounts.sign_in(identity(f"u{number}", name=f"U{number}"), Device(device_id="d")) for number in range(USERS))
    )
    return tenant_id


@pytest.fixture
def sign_ins(pool: asyncpg.Pool) -> SignIns:
    return SignIns(pool, AccountStore(), HostDefaults())


def asked(tenant_id: int, user: str, device_id: str = "d", **changed: object) -> SignIn:
    return SignIn(tenant_id, user, Device(device_id=device_id), NOW_MS, "", hosting=False)._replace(**changed)  # type: ignore[arg-type]


async def test_those_who_come_at_once_share_statements_and_get_each_their_own_answer(
    sign_ins: SignIns, tenant_id: int
) -> None:
    rows = await asyncio.gather(*(sign_ins.sign_in(asked(tenant_id, f"u{number}")) for number in range(USERS)))
    assert [row.card.name for row in rows if row] == [f"U{number}" for number in range(USERS)]
    assert all(row is not None and row.fresh is False for row in rows)
    assert sign_ins.batches <= SIGN_INS.lanes


async def test_strangers_new_devices_and_refused_tokens_of_a_batch_are_told_apart(
    sign_ins: SignIns, pool: asyncpg.Pool, tenant_id: int
) -> None:
    await pool.execute("update realtime.users set tokens_valid_from_ms = $1 where external_id = 'u1'", NOW_MS + 1)
    known, refused, fresh, stranger = await asyncio.gather(
        sign_ins.sign_in(asked(tenant_id, "u0")),
        sign_ins.sign_in(asked(tenant_id, "u1", "new")),
        sign_ins.sign_in(asked(tenant_id, "u2", "new")),
        sign_ins.sign_in(asked(tenant_id, "nobody")),
    )
    assert known is not None
    assert known.fresh is False
    assert refused is not None
    assert refused.fresh is None
    assert fresh is not None
    assert fresh.fresh is True
    assert stranger is None
    assert await devices(pool, refused.card.user_id) == ["d"]
    assert await devices(pool, fresh.card.user_id) == ["d", "new"]


async def test_devices_of_one_user_that_come_at_once_all_get_in(
    sign_ins: SignIns, pool: asyncpg.Pool, tenant_id: int
) -> None:
    rows = await asyncio.gather(*(sign_ins.sign_in(asked(tenant_id, "u0", f"d{number % 3}")) for number in range(12)))
    assert [row is not None for row in rows] == [True] * 12
    assert sum(bool(row and row.fresh) for row in rows) == 3
    assert rows[0] is not None
    assert await devices(pool, rows[0].card.user_id) == ["d", "d0", "d1", "d2"]


async def test_one_that_the_database_refuses_fails_alone(sign_ins: SignIns, tenant_id: int) -> None:
    good = [sign_ins.sign_in(asked(tenant_id, f"u{number}")) for number in range(20)]
    bad = sign_ins.sign_in(asked(tenant_id, "u20", device=Device(device_id="d", app_version="v" * 129)))
    *rows, refused = await asyncio.gather(*good, bad, return_exceptions=True)
    assert isinstance(refused, asyncpg.CheckViolationError)
    assert not [row for row in rows if not isinstance(row, tuple)]


async def test_new_hosts_of_a_batch_get_their_page_and_others_none(
    sign_ins: SignIns, pool: asyncpg.Pool, tenant_id: int
) -> None:
    await asyncio.gather(
        *(sign_ins.sign_in(asked(tenant_id, f"u{number}", hosting=number % 2 == 0)) for number in range(10))
    )
    assert await pool.fetchval("select count(*) from realtime.hosts") == 5


async def test_batches_of_two_nodes_over_the_same_users_do_not_block_each_other(
    pool: asyncpg.Pool, tenant_id: int
) -> None:
    nodes = [SignIns(pool, AccountStore(), HostDefaults()) for _ in range(2)]
    users = [f"u{number}" for number in range(USERS)]
    for _ in range(5):
        rows = await asyncio.gather(
            *(nodes[0].sign_in(asked(tenant_id, user)) for user in users),
            *(nodes[1].sign_in(asked(tenant_id, user)) for user in reversed(users)),
        )
        assert all(row is not None and row.fresh is False for row in rows)


async def test_whoever_waits_when_the_database_goes_is_told_to_try_again(
    sign_ins: SignIns, pool: asyncpg.Pool, owner: asyncpg.Connection, tenant_id: int
) -> None:
    lock = owner.transaction()
    await lock.start()
    await owner.execute("lock table realtime.devices in access exclusive mode")
    waiting = [asyncio.create_task(sign_ins.sign_in(asked(tenant_id, f"u{number}"))) for number in range(20)]
    await blocked(owner)
    await owner.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> $1",
        owner.get_server_pid(),
    )
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    await lock.rollback()
    told = [outcome for outcome in outcomes if isinstance(outcome, Unavailable)]
    assert told
    assert all(one.retryable and one.details["retry_after_ms"] for one in told)

    async def back() -> bool:
        with contextlib.suppress(Unavailable):  # the pool may still hold connections that have ended
            return await sign_ins.sign_in(asked(tenant_id, "u0")) is not None
        return False

    await until(back, "those who try again get in")


async def test_a_closed_node_takes_no_sign_ins(sign_ins: SignIns, tenant_id: int) -> None:
    await sign_ins.close()
    with pytest.raises(Unavailable):
        await sign_ins.sign_in(asked(tenant_id, "u0"))


async def test_whoever_is_at_the_database_when_the_node_stops_is_told_to_try_again(
    sign_ins: SignIns, owner: asyncpg.Connection, tenant_id: int
) -> None:
    async with owner.transaction():
        await owner.execute("lock table realtime.devices in access exclusive mode")
        waiting = asyncio.create_task(sign_ins.sign_in(asked(tenant_id, "u0")))
        await blocked(owner)
        async with asyncio.timeout(WAIT_S):
            await sign_ins.close()
            with pytest.raises(Unavailable) as refused:
                await waiting
    assert refused.value.details["retry_after_ms"]


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_node_that_stops_lets_no_sign_in_wait(sign_ins: SignIns, tenant_id: int, turns: int) -> None:
    waiting = asyncio.create_task(sign_ins.sign_in(asked(tenant_id, "u0")))
    for _ in range(turns):  # of the loop: queued, under way, at the pool
        await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_S):
        await sign_ins.close()
        with pytest.raises(Unavailable):
            await waiting


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (asyncpg.ConnectionDoesNotExistError(), Verdict.REFUSE),
        (asyncpg.TooManyConnectionsError(), Verdict.REFUSE),
        (TimeoutError(), Verdict.REFUSE),
        (asyncpg.DeadlockDetectedError(), Verdict.REPEAT),
        (asyncpg.InternalClientError(), Verdict.REPEAT),
        (asyncpg.CheckViolationError(), Verdict.HALVE),
    ],
)
def test_nobody_waits_for_a_database_that_is_away(error: Exception, verdict: Verdict) -> None:
    assert judge(error, 1) is judge(error, 500) is verdict
