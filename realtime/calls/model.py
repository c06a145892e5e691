"""The values that calls are made of: a call, what happens to it, what is to be done. Imports nothing else here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from uuid import UUID

Media = Literal["voice", "video"]


class State(StrEnum):
    """Where a call stands."""

    INVITING = "inviting"  # stored and sent; no device of the host has confirmed it
    RINGING = "ringing"  # at least one device rings
    ACCEPTED = "accepted"  # one device has answered; media is being set up
    CONNECTED = "connected"  # both sides proved media; the meter runs
    ENDED = "ended"  # over, for the one reason it has


class Side(StrEnum):
    """The caller pays, the host earns; the sides of a call never change."""

    CALLER = "caller"
    HOST = "host"

    @property
    def other(self) -> Side:
        return Side.HOST if self is Side.CALLER else Side.CALLER


class Reason(StrEnum):
    """Why a call is over. Codes are never renamed or reused; more may come."""

    DECLINED = "declined"
    CANCELLED = "cancelled"
    MISSED = "missed"  # it rang, or a push was sent, and nobody answered in time
    UNREACHABLE = "unreachable"  # no device confirmed the ring, and no push could be sent
    HUNG_UP_BY_CALLER = "hung_up_by_caller"
    HUNG_UP_BY_HOST = "hung_up_by_host"
    INSUFFICIENT_FUNDS = "insufficient_funds"  # the first pulse could not be paid
    EXHAUSTED = "exhausted"  # the coins are used up
    LOST = "lost"  # a side was silent for longer than the grace
    FAILED = "failed"  # accepted, but media never came up


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a call may wait, in milliseconds.

    Attributes:
        ring_timeout_ms: ringing, from the first receipt of a device.
        ring_cap_ms: inviting and ringing together, from the invite.
        receipt_timeout_ms: for a first receipt when no push can wake the host; several round trips of a bad network.
        connect_timeout_ms: from the answer until both sides have media.
        watch_ms: between two looks at a connected call whose meter says nothing.
    """

    ring_timeout_ms: int = 30_000
    ring_cap_ms: int = 60_000
    receipt_timeout_ms: int = 10_000
    connect_timeout_ms: int = 20_000
    watch_ms: int = 120_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call. Its id is its meter's id, and the event id of `call.incoming` too (ADR 0041).

    Attributes:
        v: grows by one with each change; receivers ignore a lower one.
        pushable: a push could be sent to the host at the invite.
        caller_device: the device that invited, None when unknown; the other devices of the caller only watch.
        ring_by_ms: end of ringing whatever happens.
        deadline_ms: when the call has to be looked at; None once it is over.
        caller_media, host_media: the side has reported that media flows.
        paused: the meter is suspended.
        periods: the highest period charged so far.
        spent_coins, earned_coins: by the caller, by the host, so far; settled from the meter's receipt at the end.
    """

    call_id: UUID
    tenant_id: int
    caller_id: int
    host_id: int
    media: Media
    price_coins: int
    pulse_ms: int
    created_ms: int
    ring_by_ms: int
    deadline_ms: int | None
    pushable: bool
    caller_device: str | None = None
    state: State = State.INVITING
    reason: Reason | None = None
    v: int = 1
    ringing_ms: int | None = None
    accepted_ms: int | None = None
    connected_ms: int | None = None
    ended_ms: int | None = None
    accepted_device: str | None = None
    caller_media: bool = False
    host_media: bool = False
    paused: bool = False
    funded_until_ms: int | None = None
    periods: int = 0
    spent_coins: int = 0
    earned_coins: int = 0

    @property
    def live(self) -> bool:
        return self.state is not State.ENDED

    def side_of(self, user_id: int) -> Side | None:
        """Return the user's side, or None for somebody who is not in this call."""
        if user_id == self.caller_id:
            return Side.CALLER
        return Side.HOST if user_id == self.host_id else None

    def user_of(self, side: Side) -> int:
        return self.caller_id if side is Side.CALLER else self.host_id


# What happens to a call.


@dataclass(frozen=True, slots=True)
class Received:
    """A device of the host has confirmed `call.incoming`."""


@dataclass(frozen=True, slots=True)
class Accept:
    """A device of the host answers."""

    device_id: str


@dataclass(frozen=True, slots=True)
class Decline:
    """The host refuses."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The caller gives up before an answer."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """A side ends the call, `ago_ms` before it was heard of."""

    side: Side
    ago_ms: int = 0


@dataclass(frozen=True, slots=True)
class MediaUp:
    """A side reports that media flows."""

    side: Side


@dataclass(frozen=True, slots=True)
class MediaDown:
    """A side reports that media has stopped."""

    side: Side


@dataclass(frozen=True, slots=True)
class MeterStarted:
    """The first pulse is paid; a Charged with its figures follows."""

    funded_until_ms: int


@dataclass(frozen=True, slots=True)
class MeterRefused:
    """The first pulse could not be paid."""


@dataclass(frozen=True, slots=True)
class Charged:
    """A pulse is paid: its price, and the sums of the call by now."""

    period: int
    price_coins: int
    spent_coins: int
    earned_coins: int
    funded_until_ms: int | None


@dataclass(frozen=True, slots=True)
class LowBalance:
    """The coins last until `ends_at_ms` only: they fell to a threshold of the terms, or (0) to what is paid already."""

    ends_at_ms: int
    threshold_ms: int


@dataclass(frozen=True, slots=True)
class Extended:
    """The payer topped up: the coins last until `ends_at_ms` now."""

    ends_at_ms: int


@dataclass(frozen=True, slots=True)
class Suspended:
    """The meter is paused: no proof that both sides are there, or we could not look."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The meter runs again; the funded rest was kept."""

    funded_until_ms: int | None


@dataclass(frozen=True, slots=True)
class MeterEnded:
    """The meter has stopped by itself, at `at_ms`."""

    reason: Reason
    at_ms: int


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """`deadline_ms` is over."""


Event = (
    Received
    | Accept
    | Decline
    | Cancel
    | HangUp
    | MediaUp
    | MediaDown
    | MeterStarted
    | MeterRefused
    | Charged
    | LowBalance
    | Extended
    | Suspended
    | Resumed
    | MeterEnded
    | DeadlinePassed
)

# What has to be done.


@dataclass(frozen=True, slots=True)
class Tell:
    """Send `event` to the user on one side, with that side's view of the call."""

    event: str
    side: Side


@dataclass(frozen=True, slots=True)
class StartMeter:
    """Start charging, and come back with MeterStarted or MeterRefused."""


@dataclass(frozen=True, slots=True)
class StopMeter:
    """Stop charging as of `ago_ms` before now."""

    ago_ms: int


@dataclass(frozen=True, slots=True)
class SettleMeter:
    """Take the final figures of a meter that has ended by itself."""


@dataclass(frozen=True, slots=True)
class CheckMeter:
    """Look whether the meter still runs; if not, come back with MeterEnded."""


@dataclass(frozen=True, slots=True)
class Release:
    """Both users are free again."""


Effect = Tell | StartMeter | StopMeter | SettleMeter | CheckMeter | Release
