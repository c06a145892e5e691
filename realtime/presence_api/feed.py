"""Diffs of watched users to the connections that watch them: coalesced, late news ignored, shared where they are equal.

Owns which connection of this node watches whom, and the topics of the broker that this takes. Never imports a feature.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final

import msgspec

from presence.batch import PresenceUnavailable
from presence.diffs import Coalescer, Diff
from presence.record import UserState
from presence.states import Status
from realtime.broker import Broker, presence_topic
from realtime.encoded import EncodedEvent
from realtime.presence_api.messages import PresenceDiff, PresenceState
from realtime.transport.interface import Socket

NEWS: Final = "_presence"  # a word between hubs
STREAM: Final = "presence"
DIFF: Final = "presence.diff"
FLUSH_S: Final = 0.2  # below this nobody sees a difference, and a flapping link costs five frames a second at most

_encode = msgspec.json.encode
States = Callable[[Collection[int]], Awaitable[dict[int, UserState]]]
UserDiff = Diff[int, PresenceState]


class News(msgspec.Struct, array_like=True):
    """What is published of one user's change."""

    user_id: int
    version: int
    state: PresenceState


class Feed:
    """Watched users. `run` is the owner's task.

    Args:
        broker: carries the topics.
        states: reads presence.
        now_ms: unix milliseconds, for the events' time.
    """

    def __init__(self, broker: Broker, *, states: States, now_ms: Callable[[], int]) -> None:
        self._broker = broker
        self._states = states
        self._now_ms = now_ms
        self._watching: dict[Socket, Coalescer[int, PresenceState]] = {}
        self._watched: dict[Socket, set[int]] = {}
        self._watchers: dict[int, dict[Socket, None]] = {}
        self._dirty: dict[Socket, None] = {}
        self._wake = asyncio.Event()
        self._reload: set[int] = set()

    # Watching.

    def watched_with(self, conn: Socket, user_ids: Iterable[int]) -> int:
        """Return how many users a connection would watch if these were added."""
        return len(self._watched.get(conn, set()).union(user_ids))

    async def watch(self, conn: Socket, user_ids: Collection[int]) -> dict[int, UserState]:
        """Watch users; return their states now. Raises PresenceUnavailable."""
        mine = self._watched.setdefault(conn, set())
        diffs = self._watching.setdefault(conn, Coalescer())
        for user_id in user_ids:
            mine.add(user_id)
            self._watchers.setdefault(user_id, {})[conn] = None
        # First listen, then look: what changes in between comes as news with a higher version.
        await asyncio.gather(*(self._broker.subscribe(presence_topic(user_id)) for user_id in user_ids))
        states = await self._states(user_ids)
        for user_id, state in states.items():
            diffs.seed(user_id, view(state), here=here(state), version=state.version)
        return states

    def unwatch(self, conn: Socket, user_ids: Iterable[int]) -> None:
        mine = self._watched.get(conn, set())
        gone = [user_id for user_id in user_ids if user_id in mine]
        mine.difference_update(gone)
        for user_id in gone:
            self._watching[conn].forget(user_id)
        self._drop(conn, gone)

    def detach(self, conn: Socket) -> None:
        """Forget a connection that is gone."""
        self._watching.pop(conn, None)
        self._dirty.pop(conn, None)
        self._drop(conn, self._watched.pop(conn, ()))

    def _drop(self, conn: Socket, user_ids: Iterable[int]) -> None:
        over = []
        for user_id in user_ids:
            watchers = self._watchers.get(user_id)
            if watchers is not None:
                watchers.pop(conn, None)
                if not watchers:
                    del self._watchers[user_id]
                    over.append(presence_topic(user_id))
        if over:
            self._broker.unsubscribe(over)

    # News.

    def heard(self, stream: str, data: bytes) -> None:
        """A hub's control: a user's presence changed."""
        news = msgspec.json.decode(data, type=News)
        self._note(news.user_id, news.state, news.version)

    def restored(self, streams: Sequence[str]) -> None:
        """Topics were without subscription for a while: look again."""
        wanted = set(streams)
        self._reload |= {user_id for user_id in self._watchers if presence_topic(user_id) in wanted}
        if self._reload:
            self._wake.set()

    async def run(self) -> None:
        """Flush what has changed every FLUSH_S, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(FLUSH_S)
            self._wake.clear()
            if self._reload:
                await self._look_again()
            self._flush()

    async def _look_again(self) -> None:
        users = [user_id for user_id in self._reload if user_id in self._watchers]
        self._reload.clear()
        try:
            states = await self._states(users)
        except PresenceUnavailable:
            self._reload.update(users)
            self._wake.set()
            return
        for state in states.values():
            self._note(state.user_id, view(state), state.version)

    def _note(self, user_id: int, state: PresenceState, version: int) -> None:
        present = state.status != "offline"
        for conn in self._watchers.get(user_id, ()):
            if self._watching[conn].note(user_id, state, here=present, version=version):
                self._dirty[conn] = None
                self._wake.set()

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        # Many watch the same one: equal diffs are one event, encoded and framed once.
        shared: dict[bytes, EncodedEvent] = {}
        for conn in dirty:
            diff: UserDiff = self._watching[conn].take()
            if not diff:
                continue
            data = _encode(PresenceDiff(list(diff.joins.values()), list(diff.leaves.values())))
            event = shared.get(data)
            if event is None:
                event = shared[data] = EncodedEvent(DIFF, data, stream=STREAM, ts_ms=self._now_ms())
            conn.send_event(event)


def view(state: UserState) -> PresenceState:
    """Return what a client sees of a state."""
    return PresenceState(state.external_id, state.status.value, state.bookable, state.last_seen_ms)


def here(state: UserState) -> bool:
    return state.status is not Status.OFFLINE


def news_of(state: UserState) -> bytes:
    return _encode(News(state.user_id, state.version, view(state)))
