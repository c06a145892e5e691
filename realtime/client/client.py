"""The client itself: connects, signs in, heals, and carries requests and events.

Owns one task while it is open, and the socket and tasks below that. Imports realtime.protocol and its own modules.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from realtime.client.backoff import Backoff, next_attempt
from realtime.client.channels import REJOIN, Channels, with_message_id
from realtime.client.endings import Lost, ending, refused_upgrade
from realtime.client.errors import ClientClosed, ClientError, ConnectTimeout, RequestRefused, RequestTimeout, Stopped
from realtime.client.opening import HANDSHAKE_TIMEOUT_MS, open_socket
from realtime.client.requests import Pending, Requests
from realtime.client.streams import Streams, Verdict
from realtime.client.subscriptions import EVENTS_MAX, Audience, EventHandler, Subscription
from realtime.client.tokens import Tokens, TokenSource
from realtime.client.wire import ACKED_EVENTS, CODECS, MUTATIONS, CodecName, Event

REQUEST_TIMEOUT_MS = 20_000  # long enough for one reconnect in between
CONNECT_TIMEOUT_MS = 30_000
HEARTBEAT_MS = 25_000  # until the server says its own
ACKS_REPEATED_MAX = 20  # after a reconnect; an acknowledgement has no reply, so the last ones may have been lost
RETRIES_MAX = 4  # of one request that was answered with a passing error
RETRIED_CODES = frozenset({"internal", "unavailable", "draining", "rate_limited", "too_many_pending"})

_log = logging.getLogger(__name__)


class State(Enum):
    """What the client is doing."""

    IDLE = "idle"
    CONNECTING = "connecting"
    ONLINE = "online"
    WAITING = "waiting"  # between attempts
    CLOSED = "closed"


class Client:
    """One user on one device.

    It connects again by itself with backoff and full jitter, resumes its event streams, joins its channels again, and
    repeats unanswered requests with their keys. What else belongs to a connection, as presence.watch and hosts.watch,
    is the app's to ask for again on `client.signed_in`. Besides the server's events there are some of its own:
    `client.state` {state, reason}, `client.signed_in` (the sign-in's answer), `client.snapshot` (its snapshot, when
    events could not be recovered), `client.channel` (the answer to a repeated join) and `client.channel_lost`
    {channel, error}.

    Args:
        url: `ws://` or `wss://` address of `/v1/socket`.
        token: the user's token, or an async function that fetches one: it is called before each sign-in and again
            shortly before the token ends.
        device_id: stable for the installation.
        codec: `json` or `msgpack`.
        app_version, platform: told at sign-in.
        backoff: delays between attempts.
        ack: events acknowledged as soon as their handlers have run.
        headers: added to the upgrade request.
    """

    def __init__(
        self,
        url: str,
        *,
        token: TokenSource,
        device_id: str,
        codec: CodecName = "json",
        app_version: str = "",
        platform: str = "python",
        backoff: Backoff | None = None,
        ack: frozenset[str] = ACKED_EVENTS,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.state = State.IDLE
        self.welcome: dict[str, Any] = {}
        self.connections = 0
        self._url = url
        self._tokens = Tokens(token)
        self._about = {"device_id": device_id, "app_version": app_version, "platform": platform}
        self._codec = CODECS[codec]
        self._backoff = backoff or Backoff()
        self._ack = ack
        self._headers = dict(headers or {})
        self._streams = Streams()
        self._channels = Channels(self._streams)
        self._requests = Requests()
        self._audience = Audience()
        self._acked: deque[str] = deque(maxlen=ACKS_REPEATED_MAX)
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._online = asyncio.Event()
        self._ended: Exception | None = None
        self._heard_s = 0.0

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self, timeout_ms: int = CONNECT_TIMEOUT_MS) -> dict[str, Any]:
        """Open the client and wait until it has signed in; returns the sign-in's answer.

        Raises:
            Stopped: the server refused us for good.
            ConnectTimeout: it could not be reached in time; the client is closed.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="talkmeter-client")
        waiter = asyncio.ensure_future(self._online.wait())
        try:
            await asyncio.wait({waiter, self._task}, timeout=timeout_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._ended is not None:
            raise self._ended
        if not self._online.is_set():
            await self.close()
            raise ConnectTimeout(f"no signed-in connection to {self._url} within {timeout_ms} ms")
        return self.welcome

    async def close(self) -> None:
        """Leave cleanly; requests that wait fail with ClientClosed. May be called twice."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._end(ClientClosed("the client was closed"))

    async def wait_stopped(self) -> Exception:
        """Wait until the client has ended for good; returns why (Stopped or ClientClosed)."""
        if self._task is not None:
            await asyncio.wait({self._task})
        return self._ended or ClientClosed("the client was never opened")

    async def wait_online(self, timeout_ms: int = CONNECT_TIMEOUT_MS) -> None:
        """Wait until there is a signed-in connection.

        Raises:
            TimeoutError: there was none in time.
        """
        async with asyncio.timeout(timeout_ms / 1000):
            await self._online.wait()

    def on(self, name: str, handler: EventHandler) -> Callable[[], None]:
        """Call `handler(event)` for every event of that name (`*`: all), in order; returns a function that ends it."""
        return self._audience.on(name, handler)

    def events(self, *names: str, size_max: int = EVENTS_MAX) -> Subscription:
        """Return an iterator over events of these names (none: all) from now on."""
        return self._audience.subscribe(names, size_max)

    async def request(
        self,
        op: str,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout_ms: int = REQUEST_TIMEOUT_MS,
    ) -> dict[str, Any]:
        """Send a request and return what its `ok` holds.

        It waits through reconnects, and is repeated with the same key after a loss or a passing error.

        Args:
            op: operation, as `call.invite`.
            data: its data, as docs/protocol.md says.
            key: idempotency key; made for a mutation when not given. Give the key of a RequestTimeout to try again.
            timeout_ms: for all of it.

        Raises:
            RequestRefused: the server's answer is an error.
            RequestTimeout: no answer in time.
            TooManyRequests: too many wait already.
            Stopped, ClientClosed: the client has ended.
        """
        if self._ended is not None or self._task is None:
            raise self._ended or ClientClosed("the client is not open")
        if key is None and op in MUTATIONS:
            key = str(uuid4())
        sent = with_message_id(data or {}) if op == "channel.publish" else dict(data or {})
        pending = self._requests.open(op, sent, key)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                answer: dict[str, Any] = await self._ask(pending)
        except TimeoutError:
            raise RequestTimeout(op, key) from None
        finally:
            self._requests.close(pending)
        return answer

    async def refresh(self, token: str) -> None:
        """Replace the token of the running connection and of later ones.

        Raises:
            RequestRefused: it is not a valid token of the same user.
        """
        answer = await self.request("session.refresh", {"token": token})
        self._tokens.replace(token)
        self._tokens.lives_until(int(answer.get("token_expires_ms") or 0))

    async def sign_out(self, *, everywhere: bool = False) -> None:
        """End this session, or all of the user's, and close."""
        await self.request("session.sign_out", {"everywhere": everywhere})
        await self.close()

    def drop(self) -> None:
        """Cut the connection without a goodbye, as a lost network does; the client heals."""
        if self._socket is not None:
            self._socket.transport.abort()

    # -- one request ---------------------------------------------------------------------------------------------

    async def _ask(self, pending: Pending) -> Any:
        for attempt in range(RETRIES_MAX + 1):
            await self._send_now(pending.frame())
            try:
                return await pending.answer
            except RequestRefused as refused:
                if refused.code not in RETRIED_CODES or attempt == RETRIES_MAX:
                    raise
                wait_ms = refused.details.get("retry_after_ms") or self._backoff.delay_ms(attempt)
            await asyncio.sleep(float(wait_ms) / 1000)
            self._requests.renew(pending)
        raise AssertionError("unreachable")

    async def _send_now(self, frame: Mapping[str, Any]) -> None:
        """Send if there is a connection; without one, the next sign-in repeats what is unanswered."""
        if self._socket is not None and self._online.is_set():
            with suppress(ConnectionClosed):
                await self._socket.send(self._codec.encode(frame))

    # -- the connection ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        attempt = -1
        try:
            while True:
                lived_ms, lost = await self._live_once()
                attempt = next_attempt(attempt, lived_ms=lived_ms, patient=lost.patient)
                self._set_state(State.WAITING, str(lost))
                await asyncio.sleep(self._backoff.delay_ms(attempt) / 1000)
        except Stopped as stopped:
            self._end(stopped)
        except Exception as exc:  # ours to mend; whoever waits must not wait for ever
            self._end(exc)
            raise

    async def _live_once(self) -> tuple[float, Lost]:
        """Open one connection and live on it; returns how long it was signed in, in ms, and how it was lost."""
        self._set_state(State.CONNECTING)
        signed_in_s = 0.0
        try:
            token = await self._tokens.fetch()
            async with open_socket(self._url, self._codec.subprotocol, self._headers) as socket:
                try:
                    await self._sign_in(socket, token)
                    signed_in_s = time.monotonic()
                    await self._serve(socket)
                finally:
                    await socket.close()  # by itself it would tell the server of an error of ours
            lost = Lost("the connection ended")
        except Lost as exc:
            lost = exc
        except InvalidStatus as exc:
            lost = refused_upgrade(exc)
        except (OSError, TimeoutError, WebSocketException, msgspec.DecodeError) as exc:
            lost = Lost(f"{type(exc).__name__}: {exc}")
        finally:
            self._online.clear()
            self._socket = None
        return (time.monotonic() - signed_in_s) * 1000 if signed_in_s else 0.0, lost

    async def _sign_in(self, socket: ClientConnection, token: str) -> None:
        data = {**self._about, "token": token, "streams": self._streams.positions()}
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_MS / 1000):
                await socket.send(self._codec.encode({"id": 0, "op": "session.sign_in", "data": data}))
                reply = self._codec.decode(await socket.recv())
                while reply.get("re", "") != 0:  # presence may overtake the answer
                    reply = self._codec.decode(await socket.recv())
        except ConnectionClosed as closed:
            raise ending(closed) from None
        if "error" in reply:
            refused = RequestRefused("session.sign_in", reply["error"])
            if refused.retryable:
                raise Lost(str(refused), patient=refused.next_action == "wait")
            raise Stopped(str(refused), code=refused.code, next_action=refused.next_action)
        self._welcomed(reply["ok"])

    def _welcomed(self, welcome: dict[str, Any]) -> None:
        self.welcome = welcome
        self.connections += 1
        self._tokens.lives_until(
            int(welcome.get("token_expires_ms") or 0), server_time_ms=welcome.get("server_time_ms")
        )
        recovered = bool(welcome.get("recovered"))
        self._streams.signed_in("user", welcome.get("stream"), recovered=recovered)
        self._audience.hand(Event("client.signed_in", data=welcome))
        if not recovered and welcome.get("snapshot"):
            self._audience.hand(Event("client.snapshot", data=welcome["snapshot"]))

    async def _serve(self, socket: ClientConnection) -> None:
        """Carry requests and events until the connection is lost."""
        self._socket = socket
        self._heard_s = time.monotonic()
        self._online.set()
        self._set_state(State.ONLINE)
        helpers = [asyncio.create_task(self._watch(socket)), asyncio.create_task(self._keep_token())]
        try:
            if self._acked:
                await socket.send(self._codec.encode({"ack": list(self._acked)}))
            for rejoin in self._channels.rejoins():
                await socket.send(self._codec.encode(rejoin))
            for pending in self._requests.unanswered():
                await socket.send(self._codec.encode(pending.frame()))
            while True:
                await self._received(socket, await socket.recv())
        except ConnectionClosed as closed:
            raise ending(closed) from None
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _received(self, socket: ClientConnection, payload: str | bytes) -> None:
        self._heard_s = time.monotonic()
        frame = self._codec.decode(payload)
        if "re" in frame:
            self._answered(frame)
        elif "event" in frame:
            event = Event.from_frame(frame)
            verdict = self._streams.judge(event)
            if verdict is Verdict.GAP:
                raise Lost(f"events are missing in {event.stream} before {event.offset}")
            if verdict is Verdict.NEW:
                self._audience.hand(event)
            if event.name in self._ack and event.event_id:
                self._acked.append(event.event_id)
                await socket.send(self._codec.encode({"ack": [event.event_id]}))

    def _answered(self, reply: Mapping[str, Any]) -> None:
        """Take a reply; what it says of channels counts before the events that come after it."""
        if str(reply["re"]).startswith(REJOIN):
            self._audience.hand(self._channels.rejoined(reply))
            return
        pending = self._requests.answer(reply)
        if pending is not None and "ok" in reply:
            self._channels.answered(pending.op, pending.data, reply["ok"])

    async def _watch(self, socket: ClientConnection) -> None:
        """Ask for a sign of life when nothing was heard for a heartbeat; give up after a second one."""
        interval_s = (self.welcome.get("heartbeat_ms") or HEARTBEAT_MS) / 1000
        while True:
            await asyncio.sleep(interval_s)
            silent_s = time.monotonic() - self._heard_s
            if silent_s >= 2 * interval_s:
                socket.transport.abort()
                return
            if silent_s >= interval_s * 0.9:
                await socket.send(self._codec.encode({"id": "ping", "op": "session.ping", "data": {}}))

    async def _keep_token(self) -> None:
        """Fetch a new token before the old one ends, if there is a way to fetch."""
        while (delay_s := self._tokens.renewal_delay_s()) is not None:
            await asyncio.sleep(delay_s)
            try:
                await self.refresh(await self._tokens.fetch())
            except (ClientError, Lost) as exc:  # the old token still holds for a while; then the server says what to do
                _log.warning("the token was not refreshed: %s", exc)

    # -- state ---------------------------------------------------------------------------------------------------

    def _set_state(self, state: State, reason: str = "") -> None:
        self.state = state
        self._audience.hand(Event("client.state", data={"state": state.value, "reason": reason}))

    def _end(self, why: Exception) -> None:
        if self._ended is None:
            self._ended = why
            self._requests.fail(why)
            self._set_state(State.CLOSED, str(why))
            self._audience.end()
