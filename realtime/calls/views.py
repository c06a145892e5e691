"""Calls on the wire: the views and the data of events. Schemas and their making only; imports no store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID

from msgspec import Struct

from realtime.accounts.models import UserCard
from realtime.calls.model import Call, Media, Side, State
from realtime.calls.receipts import ReceiptView
from realtime.protocol.registry import EventType
from realtime.wallet.views import WalletView


class Peer(Struct):
    """The other one in a call: name and picture, nothing more."""

    id: str
    name: str
    avatar_url: str


class CallView(Struct, omit_defaults=True, kw_only=True):
    """A call as one side sees it. `v` grows with every change: ignore a view with a lower one than the last.

    Attributes:
        state: inviting, ringing, accepted, connected, ended. More may come.
        reason: why it ended; only then.
        role: of the user who gets this view; the caller pays.
        price_coins: for each begun pulse of `pulse_ms`.
        ring_deadline_ms: when ringing ends at the latest.
        funded_until_ms: until when the talk is paid so far.
        paused: charging is paused, because one side cannot be heard.
        spent_coins: paid by the caller so far; settled when the call has ended.
        earned_coins: by the host so far; only in the host's view.
        accepted_device: the host's device that answered.
    """

    call_id: str
    v: int
    state: str
    media: Media
    role: Literal["caller", "host"]
    peer: Peer
    price_coins: int
    pulse_ms: int
    created_ms: int
    ring_deadline_ms: int
    spent_coins: int
    reason: str | None = None
    ringing_ms: int | None = None
    accepted_ms: int | None = None
    connected_ms: int | None = None
    ended_ms: int | None = None
    funded_until_ms: int | None = None
    paused: bool = False
    earned_coins: int | None = None
    accepted_device: str | None = None


class CallChanged(Struct):
    """The call after what happened."""

    call: CallView


class CallCharged(Struct):
    """A pulse was charged: the call and the receiver's wallet after it."""

    call: CallView
    wallet: WalletView
    period: int
    price_coins: int


class CallLowBalance(Struct):
    """The caller's coins last until `ends_at_ms`. It comes again as they fall further, and when a gift moves the end.

    Attributes:
        threshold_ms: the lowest threshold of the terms that the time fell to; 0: the next pulse cannot be paid, so the
            call ends then unless the caller tops up.
    """

    call: CallView
    ends_at_ms: int
    threshold_ms: int


class CallExtended(Struct):
    """The caller topped up: the coins last until `ends_at_ms` now, whatever was told before."""

    call: CallView
    ends_at_ms: int


class CallEnded(Struct, omit_defaults=True):
    """The call is over; the receipt is there when it was connected."""

    call: CallView
    receipt: ReceiptView | None = None


class CallSignal(Struct):
    """A WebRTC message of the other side, passed on unread: session description or ICE candidate.

    Attributes:
        from_device, to_device: the two devices that talk; the receiver's other devices ignore it.
    """

    call_id: str
    kind: str
    payload: Any
    from_device: str
    to_device: str


EVENTS = (
    EventType(
        name="call.incoming",
        data=CallChanged,
        durable=True,
        ack=True,
        summary="Somebody calls: ring, and acknowledge, which starts the ring clock. Its event id is the call id.",
    ),
    EventType(name="call.ringing", data=CallChanged, durable=True, summary="A device of the host rings."),
    EventType(
        name="call.accepted",
        data=CallChanged,
        durable=True,
        summary="The host has answered; fetch media credentials and connect.",
    ),
    EventType(
        name="call.answered_elsewhere",
        data=CallChanged,
        durable=True,
        summary="One of your devices has answered; the others stop ringing.",
    ),
    EventType(
        name="call.connected", data=CallChanged, durable=True, summary="Both sides have media, and the meter runs."
    ),
    EventType(name="call.charged", data=CallCharged, durable=True, summary="A pulse was charged."),
    EventType(
        name="call.low_balance",
        data=CallLowBalance,
        durable=True,
        summary="The coins will not last long; the exact end is told.",
    ),
    EventType(
        name="call.extended",
        data=CallExtended,
        durable=True,
        summary="A top-up moved the end of the money; the exact end is told.",
    ),
    EventType(
        name="call.suspended", data=CallChanged, durable=True, summary="Charging is paused: a side cannot be heard."
    ),
    EventType(name="call.resumed", data=CallChanged, durable=True, summary="Charging goes on; paid time was kept."),
    EventType(name="call.ended", data=CallEnded, durable=True, summary="The call is over, for the one reason it has."),
    EventType(
        name="call.signal",
        data=CallSignal,
        durable=False,
        logged=True,
        summary="WebRTC offer, answer or candidate of the other side; kept in the stream for a reconnect.",
    ),
)


def call_view(call: Call, side: Side, cards: Mapping[int, UserCard]) -> CallView:
    """Return the call as `side` sees it; `cards` holds the other one's card, unless that account is gone."""
    card = cards.get(call.user_of(side.other))
    return CallView(
        call_id=str(call.call_id),
        v=call.v,
        state=call.state.value,
        reason=call.reason.value if call.reason else None,
        media=call.media,
        role=side.value,
        peer=Peer(card.user, card.name, card.avatar_url) if card else Peer("", "", ""),
        price_coins=call.price_coins,
        pulse_ms=call.pulse_ms,
        created_ms=call.created_ms,
        ring_deadline_ms=(call.deadline_ms if call.state is State.RINGING else None) or call.ring_by_ms,
        ringing_ms=call.ringing_ms,
        accepted_ms=call.accepted_ms,
        connected_ms=call.connected_ms,
        ended_ms=call.ended_ms,
        funded_until_ms=call.funded_until_ms,
        paused=call.paused,
        spent_coins=call.spent_coins,
        earned_coins=call.earned_coins if side is Side.HOST else None,
        accepted_device=call.accepted_device,
    )


def incoming_event_id(call: Call) -> UUID:
    """The event id of a call's `call.incoming`, whoever sends it and how often: the call's own id."""
    return call.call_id
