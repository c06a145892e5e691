"""All operations and events there are: the features' tables, put together for the documents and the clients.

Imports every feature's handlers. app.py gives the same handlers their parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from realtime.accounts.handlers import EVENTS as ACCOUNT_EVENTS
from realtime.accounts.handlers import AccountHandlers
from realtime.calls.handlers import EVENTS as CALL_EVENTS
from realtime.calls.handlers import CallHandlers
from realtime.channels.handlers import EVENTS as CHANNEL_EVENTS
from realtime.channels.handlers import ChannelHandlers
from realtime.chat.handlers import EVENTS as CHAT_EVENTS
from realtime.chat.handlers import ChatHandlers
from realtime.presence_api.handlers import EVENTS as PRESENCE_EVENTS
from realtime.presence_api.handlers import PresenceHandlers
from realtime.protocol.registry import EventType, Route
from realtime.push.handlers import EVENTS as PUSH_EVENTS
from realtime.push.handlers import PushHandlers
from realtime.session import EVENTS as SESSION_EVENTS
from realtime.session import Sessions
from realtime.wallet.handlers import EVENTS as WALLET_EVENTS
from realtime.wallet.handlers import WalletHandlers


class Handlers(Protocol):
    """What a feature gives to dispatch."""

    def routes(self) -> list[Route]: ...


def route_table() -> list[Route]:
    """Return the rows of every operation, for the documents; their handlers have no parts behind them."""
    nothing = cast(Any, None)
    handlers: list[Handlers] = [
        Sessions.__new__(Sessions),
        AccountHandlers(nothing),
        PresenceHandlers(nothing),
        CallHandlers(nothing),
        WalletHandlers(nothing),
        ChatHandlers(nothing),
        PushHandlers(nothing),
        ChannelHandlers(nothing, nothing),
    ]
    return [route for handler in handlers for route in handler.routes()]


def event_table() -> list[EventType]:
    """Return the rows of every event."""
    tables: tuple[Sequence[EventType], ...] = (
        SESSION_EVENTS,
        ACCOUNT_EVENTS,
        PRESENCE_EVENTS,
        CALL_EVENTS,
        WALLET_EVENTS,
        CHAT_EVENTS,
        PUSH_EVENTS,
        CHANNEL_EVENTS,
    )
    return [event for table in tables for event in table]
