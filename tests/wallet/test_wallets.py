"""Wallets and gifts on the real books."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from billing import errors as billing
from realtime.protocol import errors as protocol
from realtime.protocol.errors import NotFound, SelfCall
from realtime.wallet.errors import translate
from tests.calls.world import People


async def test_new_user_has_an_empty_wallet(people: People) -> None:
    ann = await people.user("ann")
    wallet = await people.wallets.get(ann.user_id)
    assert (wallet.paid, wallet.promo, wallet.coins, wallet.earned) == (0, 0, 0, 0)


async def test_grant_tells_the_owner_the_new_wallet(people: People) -> None:
    ann = await people.user("ann", coins=50)
    (told,) = await people.told(ann)
    assert told.event == "wallet.changed"
    assert told.data["reason"] == "grant"
    assert told.data["wallet"]["coins"] == 50
    assert told.v == told.data["wallet"]["v"] == (await people.wallets.get(ann.user_id)).v


async def test_gift_moves_coins_splits_commission_and_tells_both(people: People) -> None:
    ann, mia = await people.user("ann", coins=50), await people.host("mia")
    sent = await people.gift(ann, "mia", "star")
    assert sent.gift.price_coins == 20
    assert sent.wallet.coins == 30
    assert (await people.wallets.get(mia.user_id)).earned == 14
    received = next(told for told in await people.told(mia) if told.event == "gift.received")
    assert received.data["from"] == {"id": "ann", "name": "Ann"}
    assert received.data["earned_coins"] == 14
    assert received.data["wallet"]["earned"] == 14
    assert "call_id" not in received.data
    assert received.push, "a gift is told to a phone that is asleep"
    (changed,) = [told for told in await people.told(mia) if told.event == "wallet.changed"]
    assert (changed.data["wallet"]["earned"], changed.data["reason"]) == (14, "gift")
    assert [told.data["wallet"]["coins"] for told in await people.told(ann)] == [50, 30]


async def test_gift_that_cannot_be_paid_moves_and_tells_nothing(people: People) -> None:
    ann, mia = await people.user("ann", coins=4), await people.host("mia")
    with pytest.raises(billing.InsufficientFunds):
        await people.gift(ann, "mia", "rose")
    assert (await people.wallets.get(ann.user_id)).coins == 4
    assert (await people.wallets.get(mia.user_id)).earned == 0
    assert await people.told(mia) == []


async def test_gift_to_oneself_is_refused(people: People) -> None:
    mia = await people.host("mia", coins=100)
    with pytest.raises(SelfCall):
        await people.gift(mia, "mia", "rose")


@pytest.mark.parametrize(("to", "gift_id"), [("nobody", "rose"), ("bob", "rose"), ("mia", "submarine")])
async def test_gift_needs_a_host_and_a_gift_of_the_catalogue(people: People, to: str, gift_id: str) -> None:
    ann = await people.user("ann", coins=100)
    await people.user("bob")
    await people.host("mia")
    with pytest.raises(NotFound):
        await people.gift(ann, to, gift_id)


async def test_gift_in_a_call_needs_a_call_of_these_two(people: People) -> None:
    ann = await people.user("ann", coins=100)
    await people.host("mia")
    with pytest.raises(NotFound):
        await people.gift(ann, "mia", "rose", call_id=uuid4())


async def test_statement_names_the_peer_and_pages_by_cursor(people: People) -> None:
    ann = await people.user("ann", coins=100)
    await people.host("mia")
    for gift_id in ("rose", "coffee"):
        await people.gift(ann, "mia", gift_id)
    newest, cursor = await people.wallets.history(ann.user_id, cursor=None, limit=2)
    assert [(entry.kind, entry.reason, entry.paid) for entry in newest] == [
        ("gift", "coffee", -10),
        ("gift", "rose", -5),
    ]
    assert newest[0].peer is not None
    assert (newest[0].peer.id, newest[0].peer.name) == ("mia", "Mia")
    rest, end = await people.wallets.history(ann.user_id, cursor=cursor, limit=2)
    assert [(entry.kind, entry.paid) for entry in rest] == [("grant", 100)]
    assert end is None


async def test_catalogue_is_offered_cheapest_first(people: People) -> None:
    gifts = await people.wallets.gifts(people.tenant_id)
    assert [gift.gift_id for gift in gifts][:3] == ["rose", "coffee", "star"]
    assert [gift.price_coins for gift in gifts] == sorted(gift.price_coins for gift in gifts)


async def test_tenants_own_gift_takes_the_place_of_the_common_one(people: People, owner: asyncpg.Connection) -> None:
    await owner.execute(
        "insert into realtime.gifts (tenant_id, gift_id, name, emoji, price_coins, active) values"
        " ($1, 'rose', 'Red rose', '🌹', 7, true), ($1, 'crown', 'Crown', '👑', 1, false)",
        people.tenant_id,
    )
    prices = {gift.gift_id: gift.price_coins for gift in await people.wallets.gifts(people.tenant_id)}
    assert prices["rose"] == 7
    assert "crown" not in prices
    ann = await people.user("ann", coins=100)
    await people.host("mia")
    with pytest.raises(NotFound):
        await people.gift(ann, "mia", "crown")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (billing.InsufficientFunds("x"), protocol.InsufficientFunds),
        (billing.Restricted("x"), protocol.Forbidden),
        (billing.UnknownAccount("x"), protocol.NotFound),
        (billing.InvalidAmount("x"), protocol.InvalidData),
        (billing.TransferConflict("x"), protocol.Conflict),
        (billing.Busy("x"), protocol.Unavailable),
    ],
)
def test_billing_refusals_have_their_client_errors(theirs: Exception, ours: type[protocol.TalkmeterError]) -> None:
    assert type(translate(theirs)) is ours


def test_other_exceptions_are_not_translated() -> None:
    assert translate(ValueError("x")) is None


def test_every_billing_error_is_translated() -> None:
    for kind in billing.BillingError.__subclasses__():
        assert translate(kind("x")) is not None
