"""Telling users of their coins. Emits into the caller's transaction; imports the wallet's views only."""

from __future__ import annotations

from billing.wallets import Balance
from realtime.outbox import Tx
from realtime.wallet.views import WalletChanged, wallet_view


def changed(tx: Tx, after: Balance, *, reason: str, tenant_id: int | None = None) -> None:
    """Tell the owner's devices what the wallet holds now; `tenant_id` when it is not the transaction's."""
    data = WalletChanged(wallet_view(after), reason)
    tx.emit("wallet.changed", to=[after.user_id], data=data, v=after.v, push=False, tenant_id=tenant_id)
