"""Transfers in natural batches: those that come in while others are being committed go in the next transaction.

Owns the limits of such batches, which transfers may go together, and what a failure of PostgreSQL means for them.
Must never import realtime or presence. A lost connection leaves open whether a batch was committed: it is booked again,
and the ids decide.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import replace
from typing import Final

import asyncpg

from billing.batcher import Batcher, Options, Undecided, Verdict
from billing.errors import Busy, UnknownAccount
from billing.ledger import Posted, Transfer, post_all

# Errors by which the connection is to blame, and not what was asked.
UNREACHABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that ends while a statement is being prepared
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    OSError,
)


def judge(error: Exception, transfers: int) -> Verdict:
    """Return what is to be done about so many transfers that failed together."""
    if isinstance(error, UNREACHABLE):
        return Verdict.REPEAT
    # In company the others need not wait for the lock or the twin that one of them has met.
    return Verdict.REPEAT if isinstance(error, Busy) and transfers == 1 else Verdict.HALVE


TRANSFERS: Final = Options(
    batch_max=500,  # about 15 ms of PostgreSQL's time
    pending_max=20_000,  # a second's worth
    lanes=4,  # some are prepared and computed while others wait for the disk; a connection each
    # A transaction costs ten times what one more transfer in it does, so a steady trickle is worth gathering.
    gather_ms=25,
    asks_max=3,  # for twins in flight; an account that is unknown then does not exist
    tries_max=50,  # with the pause five seconds: a restart of PostgreSQL
    repeat_ms=100,
    judge=judge,
    refusal=Busy,
)


def keys(transfer: Transfer) -> Collection[Hashable]:
    """Return what a transfer takes: its id, and the user's account that pays, so that a user's payments keep order."""
    if transfer.debit in ("wallet", "earnings"):
        return transfer.transfer_id, (transfer.debit, transfer.debit_owner)
    return (transfer.transfer_id,)


def outcome_of(posted: Posted) -> Posted | Exception:
    """Return what a batcher is to be told of a transfer: booked, refused, or not decided."""
    if posted.outcome == "undecided":
        return Undecided(UnknownAccount(f"transfer {posted.transfer_id}: no such account"))
    return posted.error() or posted


class TransferBatcher(Batcher[Transfer, Posted]):
    """Posts transfers in batches, each batch one statement on a connection of a pool.

    Args:
        pool: asyncpg pool with a connection for each lane; handing one back should cost no round trip.
        batch_max: transfers in a transaction.
        lanes: transactions in flight.
    """

    def __init__(
        self, pool: asyncpg.Pool, *, batch_max: int = TRANSFERS.batch_max, lanes: int = TRANSFERS.lanes
    ) -> None:
        super().__init__(self._post, keys, replace(TRANSFERS, batch_max=batch_max, lanes=lanes))
        self._pool = pool

    async def post(self, transfer: Transfer) -> Posted:
        """Book a transfer and return its outcome, once it is committed. As `ledger.post`, which see for the errors.

        Raises:
            Busy: too many are waiting, or the database cannot be reached. Ask again with the same id.
        """
        return await self.add(transfer)

    async def _post(self, transfers: Sequence[Transfer]) -> list[Posted | Exception]:
        async with self._pool.acquire() as conn:
            return [outcome_of(posted) for posted in await post_all(conn, transfers)]
