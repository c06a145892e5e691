"""The Python client of a talkmeter server: one signed-in, self-healing socket.

    async with Client("ws://127.0.0.1:8080/v1/socket", token=token, device_id="phone-1") as client:
        client.on("call.incoming", ring)
        answer = await client.request("wallet.get")

Imports `realtime.protocol` and nothing else of the project; the TypeScript twin is in realtime/web/client.
"""

from realtime.client.backoff import Backoff
from realtime.client.client import Client, State
from realtime.client.errors import (
    ClientClosed,
    ClientError,
    ConnectTimeout,
    EventsLost,
    RequestRefused,
    RequestTimeout,
    Stopped,
    TooManyRequests,
)
from realtime.client.subscriptions import Subscription
from realtime.client.wire import ACKED_EVENTS, MUTATIONS, Event

__all__ = [
    "ACKED_EVENTS",
    "MUTATIONS",
    "Backoff",
    "Client",
    "ClientClosed",
    "ClientError",
    "ConnectTimeout",
    "Event",
    "EventsLost",
    "RequestRefused",
    "RequestTimeout",
    "State",
    "Stopped",
    "Subscription",
    "TooManyRequests",
]
