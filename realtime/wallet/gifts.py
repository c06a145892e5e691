"""Gifts are booked in batches: one transaction for those that wait, with each one's events and stored answer.

Owns what a gift's transaction holds; queue, pace and halving are the batcher's, limits and retries those of transfers.
Imports no store. Exactly once is a matter of the request's key: the answer is stored by the transaction that moves the
coins, so a gift whose key has an answer, from whichever node and lane, is left out and its sender gets that answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from msgspec import Struct

from billing.batcher import Batcher
from billing.ledger import Posted, Transfer, post_all
from billing.transfers import TRANSFERS, keys, outcome_of
from billing.wallets import Balance, balances
from realtime.idempotency import Repeated, RequestKey, ok_reply, remember_all
from realtime.outbox import Outbox, Tx
from realtime.wallet.events import changed
from realtime.wallet.views import GiftReceived, GiftView, Person, WalletView, wallet_view


class SendOk(Struct):
    wallet: WalletView
    gift: GiftView


@dataclass(frozen=True, slots=True)
class Order:
    """A gift that is to be paid, the key it was asked under, and what its receiver is told."""

    transfer: Transfer
    key: RequestKey
    sender: Person
    gift: GiftView
    call_id: UUID | None


class _Answered(Exception):
    """Some keys have an answer: roll back, and leave those orders out."""

    def __init__(self, keys: set[RequestKey]) -> None:
        self.keys = keys


class GiftDesk:
    """Takes orders and books them in batches, each batch one transaction of the outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._batcher: Batcher[Order, SendOk] = Batcher(self._book, lambda order: keys(order.transfer), TRANSFERS)

    @property
    def booked(self) -> int:
        return self._batcher.booked

    @property
    def batches(self) -> int:
        return self._batcher.batches

    @property
    def waiting(self) -> int:
        return self._batcher.waiting

    async def run(self) -> None:
        """Book until cancelled."""
        await self._batcher.run()

    async def send(self, order: Order) -> SendOk:
        """Return the answer to a gift, once it is paid, told and stored.

        Raises:
            Repeated: the key has an answer already; nothing moved now.
            billing.errors.BillingError: it cannot be paid, or (Busy) not now; nothing is stored under the key.
        """
        return await self._batcher.add(order)

    async def _book(self, orders: Sequence[Order]) -> list[SendOk | Exception]:
        """Book orders of different senders; the batcher's `Book`."""
        outcomes: dict[RequestKey, SendOk | Exception] = {}
        # An answered key makes one more round necessary, and mostly one is enough for all.
        while fresh := [order for order in orders if order.key not in outcomes]:
            try:
                outcomes |= await self._transact(fresh)
            except _Answered as exc:
                outcomes |= {key: Repeated() for key in exc.keys}
        return [outcomes[order.key] for order in orders]

    async def _transact(self, orders: Sequence[Order]) -> dict[RequestKey, SendOk | Exception]:
        """Move the coins, emit the events and store the answers in one transaction.

        Raises:
            _Answered: there are answers under some of the keys; nothing was done.
        """
        async with self._outbox.transaction() as tx:
            posted = await post_all(tx.conn, [order.transfer for order in orders])
            outcomes: dict[RequestKey, SendOk | Exception] = {}
            paid: list[tuple[Order, Posted]] = []
            for order, each in zip(orders, posted, strict=True):
                outcome = outcome_of(each)
                if isinstance(outcome, Posted):
                    paid.append((order, outcome))
                else:
                    outcomes[order.key] = outcome
            if paid:
                users = {
                    user for order, _ in paid for user in (order.transfer.debit_owner, order.transfer.credit_owner)
                }
                after = await balances(tx.conn, users)
                _tell(tx, paid, after)
                replies = {
                    order.key: SendOk(wallet_view(after[order.transfer.debit_owner]), order.gift) for order, _ in paid
                }
                answered = await remember_all(
                    tx.conn, {key: ok_reply(reply) for key, reply in replies.items()}, tx.take_unwritten()
                )
                if answered:
                    raise _Answered(answered)
                outcomes |= replies
        return outcomes


def _tell(tx: Tx, paid: Sequence[tuple[Order, Posted]], after: dict[int, Balance]) -> None:
    """Tell each receiver of each gift, and everybody whose wallet has changed what it holds after the batch."""
    tenants: dict[int, int] = {}
    for order, posted in paid:
        transfer, tenant_id = order.transfer, order.key.tenant_id
        payee = after[transfer.credit_owner]
        received = GiftReceived(
            sender=order.sender,
            gift=order.gift,
            earned_coins=transfer.coins - posted.fee,
            wallet=wallet_view(payee),
            call_id=str(order.call_id) if order.call_id else None,
        )
        tx.emit("gift.received", to=[payee.user_id], data=received, v=payee.v, tenant_id=tenant_id)
        tenants[transfer.debit_owner] = tenants[transfer.credit_owner] = tenant_id
    for user_id, tenant_id in tenants.items():
        changed(tx, after[user_id], reason="gift", tenant_id=tenant_id)
