"""Which events become pushes: a pure function of the event, whom it reaches, what they want, and the time.

Imports the kinds only: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from realtime.push.kinds import KINDS

RECEIPT_GRACE_MS: Final = 2_000  # for a device with a live socket to confirm a ring: some round trips of a bad network
PREVIEW_CHARS_MAX: Final = 100  # of a text message; a push holds 4 KB in all
UNANSWERED: Final = frozenset({"missed", "cancelled", "unreachable"})
PURCHASES: Final = frozenset({"purchase", "recharge"})


@dataclass(frozen=True, slots=True)
class Happening:
    """A durable event. `names` gives the names of its audience by outside id."""

    event_id: str
    event: str
    data: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipient:
    """One user of the audience: outside id, whether a socket of theirs is live, the categories they have muted."""

    user: str
    online: bool
    muted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A push to be sent.

    Attributes:
        kind: name of the kind.
        thing: what it tells of; one user gets one alert of a kind for it.
        expires_ms: unix ms after which it is pointless.
        args: texts for the template and for the app.
        delay_ms: to wait, for a receipt that would make it unneeded.
        takes_back: kind of an earlier push of the same thing; this one is only for users to whom that was sent.
        except_device: device that knows already.
    """

    kind: str
    thing: str
    expires_ms: int
    args: Mapping[str, str]
    delay_ms: int = 0
    takes_back: str | None = None
    except_device: str | None = None


def decide(happening: Happening, recipient: Recipient, now_ms: int) -> Alert | None:
    """Return the push that `recipient` should get because of what happened, or None."""
    rule = _RULES.get(happening.event)
    alert = rule(happening, recipient, now_ms) if rule else None
    if alert is None or alert.expires_ms <= now_ms + alert.delay_ms:
        return None
    return alert if _wanted(alert.kind, recipient) else None


def pushable(event: str) -> bool:
    """Return whether an event of this name can become a push at all."""
    return event in _RULES


def _wanted(kind: str, recipient: Recipient) -> bool:
    return KINDS[kind].essential or KINDS[kind].category not in recipient.muted


def _incoming(happening: Happening, recipient: Recipient, now_ms: int) -> Alert | None:
    call = happening.data["call"]
    return Alert(
        kind="incoming_call",
        thing=call["call_id"],
        expires_ms=call["ring_deadline_ms"],
        args=_call_args(call),
        delay_ms=RECEIPT_GRACE_MS if recipient.online else 0,
    )


def _answered(happening: Happening, recipient: Recipient, now_ms: int) -> Alert | None:
    return _take_back(happening.data["call"], now_ms)


def _ended(happening: Happening, recipient: Recipient, now_ms: int) -> Alert | None:
    call = happening.data["call"]
    if call["role"] != "host" or call.get("accepted_ms") is not None:
        return None
    missed = call.get("reason") in UNANSWERED and not recipient.online
    if missed and _wanted("missed_call", recipient):
        # It carries the same tag as the ring, and so takes that off the screen as well.
        return Alert(
            kind="missed_call",
            thing=call["call_id"],
            expires_ms=now_ms + KINDS["missed_call"].ttl_ms,
            args=_call_args(call),
        )
    return _take_back(call, now_ms)


def _take_back(call: Mapping[str, Any], now_ms: int) -> Alert:
    return Alert(
        kind="call_cancelled",
        thing=call["call_id"],
        expires_ms=now_ms + KINDS["call_cancelled"].ttl_ms,
        args=_call_args(call),
        takes_back="incoming_call",
        except_device=call.get("accepted_device"),
    )


def _message(happening: Happening, recipient: Recipient, now_ms: int) -> Alert | None:
    message = happening.data["message"]
    if recipient.online or message["from"] == recipient.user:
        return None
    # Only plain text is for the screen: what the app has sealed stays sealed.
    preview = message["body"][:PREVIEW_CHARS_MAX] if message["kind"] == "text" else "New message"
    args = {
        "message_id": message["message_id"],
        "conversation": message["conversation"],
        "seq": str(message["seq"]),
        "from": message["from"],
        "name": happening.names.get(message["from"]) or "New message",
        "preview": preview,
    }
    return Alert(kind="message", thing=message["message_id"], expires_ms=now_ms + KINDS["message"].ttl_ms, args=args)


def _gift(happening: Happening, recipient: Recipient, now_ms: int) -> Alert | None:
    if recipient.online:
        return None
    gift = happening.data["gift"]
    args = {
        "event_id": happening.event_id,
        "gift_id": gift["gift_id"],
        "gift": gift["name"],
        "emoji": gift["emoji"],
        "from": happening.data["from"]["id"],
        "name": happening.data["from"]["name"] or "Somebody",
    }
    return Alert(kind="gift", thing=happening.event_id, expires_ms=now_ms + KINDS["gift"].ttl_ms, args=args)


def _recharge(happening: Happening, recipient: Recipient, now_ms: int) -> Alert | None:
    if recipient.online or happening.data["reason"] not in PURCHASES:
        return None
    args = {"event_id": happening.event_id, "coins": str(happening.data["wallet"]["coins"])}
    return Alert(kind="recharge", thing=happening.event_id, expires_ms=now_ms + KINDS["recharge"].ttl_ms, args=args)


def _call_args(call: Mapping[str, Any]) -> dict[str, str]:
    return {
        "call_id": call["call_id"],
        "media": call["media"],
        "from": call["peer"]["id"],
        "name": call["peer"]["name"] or "Somebody",
        "avatar_url": call["peer"]["avatar_url"],
        "reason": call.get("reason") or "",
    }


Rule = Callable[[Happening, Recipient, int], Alert | None]
_RULES: Final[Mapping[str, Rule]] = {
    "call.incoming": _incoming,
    "call.answered_elsewhere": _answered,
    "call.ended": _ended,
    "chat.message": _message,
    "gift.received": _gift,
    "wallet.changed": _recharge,
}
