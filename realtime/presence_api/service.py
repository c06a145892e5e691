"""Presence of this node: what connections tell, what clients ask, and telling other nodes of changes.

Owns joining tracker, feed and board, and the queue of changes to tell. Must never import another feature's store.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any, Final, Literal

import structlog

from presence.batch import PresenceUnavailable
from presence.directory import BadCursor, Directory, Query
from presence.record import UserState
from presence.tracker import Arrival, Person, Tracker, WhoOf
from presence.visibility import Subject, Viewer, may_see
from realtime.broker import Broker, presence_topic
from realtime.hub import Hub
from realtime.presence_api.board import NEWS as HOST_NEWS
from realtime.presence_api.board import Board, Profiles
from realtime.presence_api.feed import NEWS, Feed, news_of, view
from realtime.presence_api.messages import WATCHED_MAX, HostsPage, PresenceState
from realtime.protocol.errors import InvalidData, TooManyPending, Unavailable
from realtime.protocol.principal import Principal
from realtime.transport.interface import Socket

HOST_ROLE: Final = "host"
GATHER_S: Final = 0.02  # changes of this long share one pipeline and one question to the database
RETRY_S: Final = 1.0
TELL_BATCH: Final = 500

log = structlog.get_logger()
Resolve = Callable[[int, Collection[str]], Awaitable[dict[str, int]]]
HiddenOf = Callable[[Principal], Awaitable[frozenset[int]]]


async def nobody_hidden(principal: Principal) -> frozenset[int]:
    """Blocks of a product that has none."""
    return frozenset()


class Presence:
    """Presence of a node: made once; `start` begins, `close` ends.

    Args:
        broker, hub: of this node.
        node: name of this process, unique for every start.
        profiles: of hosts.
        resolve: (tenant id, outside ids) -> internal ids.
        busy_of: which of some users are in a call, from the database; heals the mark.
        woken_of: which of them a push can wake, likewise; None while push is off.
        hidden_of: whom blocks hide from a user.
    """

    def __init__(
        self,
        broker: Broker,
        hub: Hub,
        *,
        node: str,
        profiles: Profiles,
        resolve: Resolve,
        busy_of: WhoOf | None = None,
        woken_of: WhoOf | None = None,
        hidden_of: HiddenOf = nobody_hidden,
        tracker_options: dict[str, Any] | None = None,
    ) -> None:
        prefix, client = broker.keys.prefix, _Lane(broker)
        self.tracker = Tracker(
            client,
            node=node,
            prefix=prefix,
            on_change=self._changed,
            busy_of=busy_of,
            woken_of=woken_of,
            **(tracker_options or {}),
        )
        self._broker = broker
        self._resolve = resolve
        self._hidden_of = hidden_of
        self._feed = Feed(broker, states=self.tracker.states, now_ms=_now_ms)
        directory = Directory(client, prefix=prefix)
        self._board = Board(directory, broker, profiles=profiles, states=self.tracker.states, now_ms=_now_ms)
        self._hub = hub
        self._changes: dict[int, UserState] = {}
        self._touched: set[int] = set()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to be present; works while Redis is down, and heals."""
        self._hub.listen(NEWS, self._feed.heard)
        self._hub.listen(HOST_NEWS, self._board.heard)
        self._hub.on_restored(self._feed.restored)
        self._hub.on_restored(self._board.restored)
        await self.tracker.start()
        loop = asyncio.get_running_loop()
        for work, name in ((self._tell(), "tell"), (self._feed.run(), "feed"), (self._board.run(), "board")):
            self._tasks.append(loop.create_task(work, name=f"presence-{name}"))

    async def close(self) -> None:
        """Leave, and tell the others that this node's users have gone."""
        await self.tracker.close()
        with contextlib.suppress(Exception):
            await self._tell_once()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._board.close()

    # What sessions tell.

    def connected(self, principal: Principal, conn: Socket) -> Arrival:
        """Register a connection; submitted at once, and to be awaited."""
        person = Person(principal.user_id, principal.tenant_id, principal.user, HOST_ROLE in principal.roles)
        return self.tracker.connected(person, conn.id, principal.device_id)

    async def revoked(self, user_id: int, issued_before_ms: int) -> None:
        """Note which tokens of a user are refused from now on, for sign-ins under way; not while Redis is down."""
        with contextlib.suppress(PresenceUnavailable):
            await self.tracker.revoke(user_id, issued_before_ms)

    async def disconnected(self, principal: Principal, conn: Socket) -> None:
        self.forget(conn)
        await self.tracker.disconnected(principal.user_id, conn.id)

    def forget(self, conn: Socket) -> None:
        """Send a connection nothing any more; it is gone."""
        self._feed.detach(conn)
        self._board.unwatch(conn)

    def host_changed(self, user_id: int) -> None:
        """A host's profile changed: the directory and its watchers have to know. Must not block."""
        self._touched.add(user_id)
        self._wake.set()

    # What clients ask.

    async def set_status(
        self, principal: Principal, status: Literal["online", "away", "dnd", "offline"]
    ) -> PresenceState:
        with _answered():
            return view(await self.tracker.set_status(principal.user_id, status, device_id=principal.device_id))

    async def status_of(self, user_id: int) -> tuple[str, bool]:
        """Return (status, bookable) of a user; offline while Redis is down."""
        try:
            state = (await self.tracker.states([user_id]))[user_id]
        except PresenceUnavailable:
            return "offline", False
        return state.status.value, state.bookable

    async def watch(self, conn: Socket, principal: Principal, users: Sequence[str]) -> list[PresenceState]:
        """Watch users of the same tenant; unknown and hidden ones are left out.

        Raises:
            TooManyPending: more than WATCHED_MAX.
            Unavailable: Redis cannot be reached.
        """
        ids = await self._visible(principal, users)
        if self._feed.watched_with(conn, ids.values()) > WATCHED_MAX:
            raise TooManyPending(f"a connection watches at most {WATCHED_MAX} users", limit=WATCHED_MAX)
        with _answered():
            states = await self._feed.watch(conn, ids.values())
        return [
            PresenceState(user, states[user_id].status.value, states[user_id].bookable, states[user_id].last_seen_ms)
            for user, user_id in ids.items()
        ]

    async def unwatch(self, conn: Socket, principal: Principal, users: Sequence[str]) -> None:
        self._feed.unwatch(conn, (await self._resolve(principal.tenant_id, users)).values())

    async def hosts(self, principal: Principal, query: Query, *, limit: int, cursor: str | None) -> HostsPage:
        """Return a page of the tenant's directory.

        Raises:
            InvalidData: the cursor is none of ours.
            Unavailable: Redis cannot be reached.
        """
        try:
            with _answered():
                return await self._board.page(principal.tenant_id, query, limit=limit, cursor=cursor)
        except BadCursor as exc:
            raise InvalidData(str(exc), path="$.cursor") from None

    async def watch_hosts(self, conn: Socket, principal: Principal) -> HostsPage:
        """Send the tenant's directory and then its changes. Raises Unavailable."""
        with _answered():
            return HostsPage(await self._board.watch(conn, principal.tenant_id))

    def unwatch_hosts(self, conn: Socket) -> None:
        self._board.unwatch(conn)

    async def _visible(self, principal: Principal, users: Sequence[str]) -> dict[str, int]:
        found = await self._resolve(principal.tenant_id, users)
        viewer = Viewer(principal.tenant_id, principal.user_id, await self._hidden_of(principal))
        return {
            user: user_id for user, user_id in found.items() if may_see(viewer, Subject(principal.tenant_id, user_id))
        }

    # Telling others.

    def _changed(self, states: Sequence[UserState]) -> None:
        for state in states:
            known = self._changes.get(state.user_id)
            if known is None or known.version <= state.version:
                self._changes[state.user_id] = state
        self._wake.set()

    async def _tell(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            try:
                await self._tell_once()
            except Exception as exc:  # Redis or the database is away; what is not told yet is kept
                if not isinstance(exc, PresenceUnavailable | Unavailable):
                    log.exception("presence_not_told")
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _tell_once(self) -> None:
        touched = list(self._touched)
        if touched:
            await self.tracker.tell_again(touched)  # comes back through _changed
            self._touched.difference_update(touched)
        while self._changes:
            batch = [self._changes.pop(user_id) for user_id in list(self._changes)[:TELL_BATCH]]
            try:
                await self._tell_batch([state for state in batch if state.tenant_id])
            except BaseException:
                self._changed([state for state in batch if state.user_id not in self._changes])
                raise

    async def _tell_batch(self, states: Sequence[UserState]) -> None:
        hosts = [state for state in states if state.host]
        if hosts:
            await self._board.update(hosts)
        for told in [
            self._broker.begin_announce(presence_topic(state.user_id), NEWS, news_of(state)) for state in states
        ]:
            await told


class _Lane:
    """The broker's connection for presence's commands: what both submit in one turn leaves in one write."""

    __slots__ = ("_backend",)

    def __init__(self, broker: Broker) -> None:
        self._backend = broker.backend

    async def execute(self, commands: Sequence[tuple[str | bytes | int, ...]]) -> Sequence[Any]:
        try:
            return await self._backend.execute(commands)
        except Unavailable as exc:  # no sentinel names a master
            raise ConnectionError(str(exc)) from exc


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Say to the client that Redis cannot be reached, in the protocol's words."""
    try:
        yield
    except PresenceUnavailable as exc:
        raise Unavailable(f"presence: {exc}") from exc


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
