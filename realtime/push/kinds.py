"""The kinds of pushes, one record each. Pure data; imports nothing of the project.

To add one: a record here, and, when an event causes it, a rule in decide.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

MINUTE_MS: Final = 60_000
DAY_MS: Final = 24 * 60 * MINUTE_MS

# A category is what a user can switch off, and the collapse key on Android, of which FCM keeps four for each app.
CALLS: Final = "calls"
MESSAGES: Final = "messages"
MONEY: Final = "money"
REMINDERS: Final = "reminders"
CATEGORIES: Final = (CALLS, MESSAGES, MONEY, REMINDERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of push.

    Attributes:
        name: as it is called in the data that the app gets.
        audience: who is told, for the documentation.
        category: what it belongs to in the user's preferences.
        essential: sent although its category is muted.
        urgent: wakes a sleeping phone at once (FCM priority high).
        ttl_ms: how long the push service may keep it; 0 when each push brings its own end.
        title, body: what is shown, with the args' names in braces; empty for data that the app handles itself.
        tag: what replaces what on the screen, with the args' names in braces.
        silent: shows nothing anywhere: takes something back.
        app_rings: on Android the app shows it itself (a ringing screen); iOS gets the alert.
    """

    name: str
    audience: str
    category: str
    ttl_ms: int
    tag: str
    title: str = ""
    body: str = ""
    essential: bool = False
    urgent: bool = False
    silent: bool = False
    app_rings: bool = False


_KINDS: Final = (
    Kind(
        name="incoming_call",
        audience="the host, on every device that has not confirmed the ring over its socket",
        category=CALLS,
        essential=True,
        urgent=True,
        ttl_ms=0,
        tag="call:{call_id}",
        title="{name} is calling",
        body="Incoming {media} call",
        app_rings=True,
    ),
    Kind(
        name="call_cancelled",
        audience="devices that were told of a call which needs no answer any more",
        category=CALLS,
        essential=True,
        urgent=True,
        ttl_ms=MINUTE_MS,
        tag="call:{call_id}",
        silent=True,
    ),
    Kind(
        name="missed_call",
        audience="the host who was called and is not connected",
        category=CALLS,
        ttl_ms=DAY_MS,
        tag="call:{call_id}",
        title="Missed call",
        body="{name} called you",
    ),
    Kind(
        name="message",
        audience="the recipient of a message who is not connected",
        category=MESSAGES,
        urgent=True,
        ttl_ms=7 * DAY_MS,
        tag="chat:{conversation}",
        title="{name}",
        body="{preview}",
    ),
    Kind(
        name="gift",
        audience="the host who got a gift and is not connected",
        category=MONEY,
        ttl_ms=7 * DAY_MS,
        tag="gift:{event_id}",
        title="{name} sent you a gift",
        body="{emoji} {gift}",
    ),
    Kind(
        name="recharge",
        audience="the buyer of coins who is not connected",
        category=MONEY,
        ttl_ms=DAY_MS,
        tag="recharge:{event_id}",
        title="Coins added",
        body="You have {coins} coins now",
    ),
    Kind(
        name="withdrawal",
        audience="a host whose withdrawal was paid or refused",
        category=MONEY,
        essential=True,
        ttl_ms=7 * DAY_MS,
        tag="withdrawal:{withdrawal_id}",
        title="Your withdrawal",
        body="{outcome}",
    ),
    Kind(
        name="reminder",
        audience="both sides of a booked session",
        category=REMINDERS,
        urgent=True,
        ttl_ms=10 * MINUTE_MS,
        tag="booking:{booking_id}",
        title="Your session with {name}",
        body="{when}",
    ),
)

KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in _KINDS})
