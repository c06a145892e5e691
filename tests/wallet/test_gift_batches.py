"""Gifts share transactions, and nobody notices: each is paid, told and answered exactly once, or refused alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from billing.errors import BillingError, InsufficientFunds, InvalidAmount
from billing.gifts import payment
from billing.tariffs import COINS_MAX
from realtime.idempotency import Repeated, RequestKey
from realtime.ids import new_id
from realtime.protocol.principal import Principal
from realtime.wallet.gifts import Order, SendOk
from realtime.wallet.views import GiftView, Person
from tests.calls.world import People
from tests.locks import blocked

WAIT_S = 20.0
ROSE = 5
STAR = 20


async def users(people: People, number: int, *, coins: int) -> list[Principal]:
    return [await people.user(f"user{n}", coins=coins) for n in range(number)]


async def outcomes(asked: Sequence[Awaitable[SendOk]]) -> Counter[str]:
    async with asyncio.timeout(WAIT_S):
        results = await asyncio.gather(*asked, return_exceptions=True)
    return Counter("paid" if isinstance(result, SendOk) else type(result).__name__ for result in results)


@asynccontextmanager
async def held(owner: asyncpg.Connection, who: Principal) -> AsyncIterator[None]:
    """Nobody can pay out of this wallet within the block."""
    async with owner.transaction():
        await owner.execute("select from billing.spending_wallets where user_id = $1 for update", who.user_id)
        yield


async def test_gifts_that_wait_share_a_transaction_and_each_has_its_own_answer(
    people: People, owner: asyncpg.Connection
) -> None:
    senders = await users(people, 30, coins=ROSE)
    poor = await people.user("poor", coins=ROSE - 1)
    mia, eve = await people.host("mia"), await people.host("eve")
    sent = [people.gift(who, "mia" if n % 2 else "eve", "rose") for n, who in enumerate(senders)]
    assert await outcomes([*sent, people.gift(poor, "mia", "rose")]) == {"paid": 30, "InsufficientFunds": 1}
    assert people.wallets.desk.batches < 10
    told = await people.told()
    received = [t for t in told if t.event == "gift.received"]
    assert Counter(t.user_id for t in received) == {mia.user_id: 15, eve.user_id: 15}
    assert Counter(t.data["from"]["id"] for t in received) == Counter(who.user for who in senders)
    for who in senders:
        (changed,) = [t for t in told if t.user_id == who.user_id and t.data.get("reason") == "gift"]
        assert changed.data["wallet"]["coins"] == 0
    for host in (mia, eve):
        latest = max((t for t in told if t.user_id == host.user_id), key=lambda t: t.v)
        assert latest.data["wallet"]["earned"] == (await people.wallets.get(host.user_id)).earned == 15 * 4
    assert not [t for t in told if t.user_id == poor.user_id and t.data.get("reason") == "gift"]


@pytest.mark.parametrize("table", ["outbox", "idempotency"])
async def test_no_coin_moves_unless_its_events_and_its_answer_are_written(
    people: People, owner: asyncpg.Connection, table: str
) -> None:
    senders = await users(people, 5, coins=ROSE)
    await people.host("mia")
    before = await people.told()
    await owner.execute(f"alter table realtime.{table} rename to away")
    failed = await outcomes([people.gift(who, "mia", "rose", key="k") for who in senders])
    await owner.execute(f"alter table realtime.away rename to {table}")
    assert failed == {"UndefinedTableError": 5}
    assert [(await people.wallets.get(who.user_id)).coins for who in senders] == [ROSE] * 5
    assert await people.told() == before
    assert await outcomes([people.gift(who, "mia", "rose", key="k") for who in senders]) == {"paid": 5}


async def test_many_gifts_of_one_user_are_paid_in_turn_until_the_coins_are_gone(people: People) -> None:
    ann = await people.user("ann", coins=3 * STAR + 7)
    await people.host("mia")
    assert await outcomes([people.gift(ann, "mia", "star") for _ in range(6)]) == {"paid": 3, "InsufficientFunds": 3}
    assert (await people.wallets.get(ann.user_id)).coins == 7


async def test_two_who_pay_each_other_in_one_batch_are_told_the_same_wallets(people: People) -> None:
    ann, mia = await people.host("ann", coins=100), await people.host("mia", coins=100)
    to_mia, to_ann = await asyncio.gather(people.gift(ann, "mia", "star"), people.gift(mia, "ann", "star"))
    assert (to_mia.wallet.coins, to_ann.wallet.coins) == (80, 80)
    assert (await people.wallets.get(ann.user_id)).earned == (await people.wallets.get(mia.user_id)).earned == 14


async def test_refusal_stores_nothing_so_that_the_same_key_may_be_tried_after_a_top_up(people: People) -> None:
    ann = await people.user("ann", coins=1)
    await people.host("mia")
    with pytest.raises(InsufficientFunds):
        await people.gift(ann, "mia", "rose", key="k")
    async with people.tx() as tx:
        await people.wallets.grant(tx, ann.user_id, coins=2 * ROSE, bucket="paid", reason="test")
    assert (await people.gift(ann, "mia", "rose", key="k")).wallet.coins == 1 + ROSE
    with pytest.raises(Repeated):
        await people.gift(ann, "mia", "rose", key="k")
    assert (await people.wallets.get(ann.user_id)).coins == 1 + ROSE


async def test_repeats_among_others_are_found_and_the_others_are_paid(people: People) -> None:
    senders = await users(people, 20, coins=100)
    await people.host("mia")
    assert await outcomes([people.gift(who, "mia", "rose", key="first") for who in senders[:8]]) == {"paid": 8}
    again = [people.gift(who, "mia", "rose", key="first") for who in senders]
    assert await outcomes(again) == {"paid": 12, "Repeated": 8}
    assert [(await people.wallets.get(who.user_id)).coins for who in senders] == [95] * 20


async def test_gift_that_cannot_be_booked_fails_alone(people: People, owner: asyncpg.Connection) -> None:
    """Earnings above the limit abort the statement; the others of the batch must not suffer."""
    senders = await users(people, 9, coins=ROSE)
    await people.host("mia")
    rich = await people.host("rich")
    await owner.execute("update billing.earning_wallets set earned = $2 where user_id = $1", rich.user_id, COINS_MAX)
    asked = [people.gift(who, "rich" if n == 4 else "mia", "rose") for n, who in enumerate(senders)]
    assert await outcomes(asked) == {"paid": 8, InvalidAmount.__name__: 1}
    await owner.execute("update billing.earning_wallets set earned = 0 where user_id = $1", rich.user_id)


async def test_unexpected_error_of_one_gift_is_isolated(people: People) -> None:
    """A name that is no text cannot be told, and is nobody's typed refusal."""
    senders = await users(people, 9, coins=ROSE)
    mia = await people.host("mia")

    def order(who: Principal, name: str) -> Order:
        transfer = payment(
            "gift",
            transfer_id=new_id(),
            payer_id=who.user_id,
            payee_id=mia.user_id,
            price_coins=ROSE,
            commission_bp=3000,
            memo="rose",
        )
        key = RequestKey(who.tenant_id, who.user_id, "k", b"hash")
        return Order(transfer, key, Person(who.user, name), GiftView("rose", "Rose", "🌹", ROSE), None)

    orders = [order(who, "\ud800" if n == 3 else who.user) for n, who in enumerate(senders)]
    told = await outcomes([people.wallets.desk.send(each) for each in orders])
    assert told == {"paid": 8, "UnicodeEncodeError": 1}
    assert (await people.wallets.get(senders[3].user_id)).coins == ROSE


async def test_batch_whose_connection_is_killed_is_booked_once(people: People, pg_url: str) -> None:
    senders = await users(people, 12, coins=ROSE)
    await people.host("mia")
    killer = await asyncpg.connect(pg_url)
    try:
        async with held(killer, senders[0]):
            asked = asyncio.gather(*(people.gift(who, "mia", "rose") for who in senders))
            for _ in range(3):
                pid = await blocked(killer)
                assert await killer.fetchval("select pg_terminate_backend($1, 5000)", pid)
        async with asyncio.timeout(WAIT_S):
            assert [answer.wallet.coins for answer in await asked] == [0] * 12
    finally:
        await killer.close()
    received = [t for t in await people.told() if t.event == "gift.received"]
    assert len(received) == 12


async def test_batch_that_was_committed_unheard_is_not_booked_again(people: People) -> None:
    """What the batcher does when the connection is lost after the commit: the same orders once more."""
    ann, mia = await people.user("ann", coins=100), await people.host("mia")
    transfer = payment(
        "gift",
        transfer_id=new_id(),
        payer_id=ann.user_id,
        payee_id=mia.user_id,
        price_coins=ROSE,
        commission_bp=3000,
        memo="rose",
    )
    key = RequestKey(ann.tenant_id, ann.user_id, "k", b"hash")
    order = Order(transfer, key, Person("ann", "Ann"), GiftView("rose", "Rose", "🌹", ROSE), None)
    await people.wallets.desk.send(order)
    told = await people.told()
    with pytest.raises(Repeated):
        await people.wallets.desk.send(order)
    assert await people.told() == told
    assert (await people.wallets.get(ann.user_id)).coins == 95


async def test_two_nodes_asked_the_same_pay_once(people: People, pool: asyncpg.Pool) -> None:
    senders = await users(people, 15, coins=100)
    await people.host("mia")
    other = await People.make(pool)
    async with other.desk():
        asked = [node.gift(who, "mia", "rose", key="k") for who in senders for node in (people, other, people)]
        assert await outcomes(asked) == {"paid": 15, "Repeated": 30}
    assert [(await people.wallets.get(who.user_id)).coins for who in senders] == [95] * 15
    assert len([t for t in await people.told() if t.event == "gift.received"]) == 15


async def test_stopped_desk_lets_nobody_wait(people: People, pool: asyncpg.Pool, pg_url: str) -> None:
    ann = await people.user("ann", coins=100)
    await people.host("mia")
    other = await People.make(pool)
    holder = await asyncpg.connect(pg_url)
    asked: asyncio.Task[Any]
    try:
        async with held(holder, ann):
            async with other.desk():
                asked = asyncio.create_task(other.gift(ann, "mia", "rose", key="k"))
                await blocked(holder)
            async with asyncio.timeout(WAIT_S):
                with pytest.raises(BillingError) as refused:
                    await asked
            assert refused.value.retryable
    finally:
        await holder.close()
    assert (await people.gift(ann, "mia", "rose", key="k")).wallet.coins == 95
