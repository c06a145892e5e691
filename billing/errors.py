"""What billing refuses, each with a stable code. Owns the codes and the translation of database errors.

Must never import realtime or presence. Codes are never renamed or reused. `next_action` is what a client can do:
top_up, wait, or nothing.

    BillingError
    +-- InsufficientFunds     the wallet does not reach; nothing moved
    +-- InvalidAmount         zero, negative, no integer, above 2^53 - 1, or it would push a balance above that
    +-- InvalidTariff         terms that cannot be metered
    +-- InvalidTime           a moment before 1970 or after 2^53
    +-- UnknownAccount        no wallet, or not in this tenant
    +-- UnknownMeter          no meter of that id
    +-- TransferConflict      the id was used for something else
    +-- MeterConflict         the meter id was used for something else
    +-- Restricted            the user may not spend until staff lifts it
    +-- WrongState            a hold, payout or meter that is not in the state for this
    +-- RefundExceeds         more than what is left of the charge
    +-- AppendOnly            the journal is never changed
    +-- ArchiveUnavailable    charges have left the database, and their file is missing or damaged
    +-- Busy                  a lock or a twin in flight; try again
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import asyncpg


class BillingError(Exception):
    """A typed refusal. The books are unchanged."""

    code: ClassVar[str] = "billing"
    retryable: ClassVar[bool] = False
    next_action: ClassVar[str | None] = None


class InsufficientFunds(BillingError):
    code = "insufficient_funds"
    next_action = "top_up"


class InvalidAmount(BillingError):
    code = "invalid_amount"


class InvalidTariff(BillingError):
    code = "invalid_tariff"


class InvalidTime(BillingError):
    code = "invalid_time"


class UnknownAccount(BillingError):
    code = "unknown_account"


class UnknownMeter(BillingError):
    code = "unknown_meter"


class TransferConflict(BillingError):
    code = "transfer_conflict"


class MeterConflict(BillingError):
    code = "meter_conflict"


class Restricted(BillingError):
    code = "restricted"


class WrongState(BillingError):
    code = "wrong_state"


class RefundExceeds(BillingError):
    code = "refund_exceeds"


class AppendOnly(BillingError):
    code = "append_only"


class ArchiveUnavailable(BillingError):
    code = "archive_unavailable"


class Busy(BillingError):
    code = "busy"
    retryable = True
    next_action = "wait"


BY_SQLSTATE: dict[str, type[BillingError]] = {
    "TM001": AppendOnly,
    "TM002": UnknownAccount,
    "TM003": InvalidTime,
    "TM004": MeterConflict,
    "TM005": UnknownMeter,
    "TM006": RefundExceeds,
    "TM007": Restricted,
    "TM008": WrongState,
    "23514": InvalidAmount,  # a CHECK or domain: a balance below zero or above 2^53 - 1
    "22003": InvalidAmount,
    "40001": Busy,
    "40P01": Busy,
    "55P03": Busy,
}
BY_CODE: dict[str, type[BillingError]] = {
    "insufficient_funds": InsufficientFunds,
    "unknown_account": UnknownAccount,
    "other_tenant": UnknownAccount,
    "restricted": Restricted,
}


@contextmanager
def refusals() -> Iterator[None]:
    """Turn the database's refusals into typed errors; let others pass. Either aborts the caller's transaction."""
    try:
        yield
    except asyncpg.PostgresError as exc:
        kind = BY_SQLSTATE.get(exc.sqlstate or "")
        if kind is None:
            raise
        raise kind(str(exc)) from exc
