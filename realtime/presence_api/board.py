"""The directory of hosts as clients have it: pages, and diffs to those who watch a tenant's directory.

Owns which connection of this node watches which directory. The index itself is `presence.directory`; profiles come
through `Profiles`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, Protocol

import msgspec

from presence.batch import PresenceUnavailable
from presence.diffs import Coalescer
from presence.directory import Directory, Host, Query
from presence.record import UserState
from realtime.accounts.messages import HostCard, host_card
from realtime.accounts.models import HostProfile
from realtime.broker import Broker, directory_topic
from realtime.encoded import EncodedEvent
from realtime.presence_api.messages import PAGE_DEFAULT, PAGE_MAX, HostsDiff, HostsPage
from realtime.transport.interface import Socket

NEWS: Final = "_hosts"  # a word between hubs
STREAM: Final = "hosts"
DIFF: Final = "hosts.diff"
FLUSH_S: Final = 0.2
RELOAD_MAX: Final = 1_000  # hosts that a look again reads; watchers of a larger directory see the rest as it changes

States = Callable[[Collection[int]], Awaitable[dict[int, UserState]]]
_encode = msgspec.json.encode


class Profiles(Protocol):
    """What the accounts service knows of hosts."""

    async def host_cards(self, user_ids: Collection[int]) -> dict[int, HostProfile]:
        """Return the profiles of those who are hosts."""
        ...


class HostNews(msgspec.Struct, array_like=True):
    """What is published of one host: her card, or None when she cannot be reached any more."""

    user_id: int
    version: int
    user: str
    card: HostCard | None


class Board:
    """Directories of all tenants. `run` is the owner's task.

    Args:
        directory: the index.
        broker: carries the topics.
        profiles: of hosts.
        states: reads presence.
        now_ms: unix milliseconds, for the events' time.
    """

    def __init__(
        self,
        directory: Directory,
        broker: Broker,
        *,
        profiles: Profiles,
        states: States,
        now_ms: Callable[[], int],
    ) -> None:
        self._directory = directory
        self._broker = broker
        self._profiles = profiles
        self._states = states
        self._now_ms = now_ms
        self._watchers: dict[int, dict[Socket, None]] = {}
        self._tenant_of: dict[Socket, int] = {}
        self._diffs: dict[int, Coalescer[int, HostNews]] = {}
        self._shown: dict[int, dict[int, str]] = {}  # hosts that watchers think are there
        self._dirty: set[int] = set()
        self._reload: set[int] = set()
        self._wake = asyncio.Event()

    async def close(self) -> None:
        await self._directory.close()

    # Reading.

    async def page(self, tenant_id: int, query: Query, *, limit: int, cursor: str | None = None) -> HostsPage:
        """Return a page of hosts who can be reached, with their states of this moment.

        Raises:
            PresenceUnavailable: Redis cannot be reached.
            BadCursor: the cursor is none of ours.
        """
        found, following = await self._read(tenant_id, query, limit=limit, cursor=cursor)
        return HostsPage(list(found.values()), following)

    async def watch(self, conn: Socket, tenant_id: int) -> list[HostCard]:
        """Send the directory's diffs to a connection; return its first page. Raises PresenceUnavailable."""
        self._watchers.setdefault(tenant_id, {})[conn] = None
        self._tenant_of[conn] = tenant_id
        await self._broker.subscribe(directory_topic(tenant_id))
        found, _ = await self._read(tenant_id, Query(), limit=PAGE_DEFAULT)
        if tenant_id in self._watchers:
            shown = self._shown.setdefault(tenant_id, {})
            shown.update((user_id, card.user) for user_id, card in found.items())
        return list(found.values())

    def unwatch(self, conn: Socket) -> None:
        """Send no more; also for a connection that is gone."""
        tenant_id = self._tenant_of.pop(conn, None)
        watchers = self._watchers.get(tenant_id) if tenant_id is not None else None
        if tenant_id is None or watchers is None:
            return
        watchers.pop(conn, None)
        if not watchers:
            del self._watchers[tenant_id]
            self._diffs.pop(tenant_id, None)
            self._shown.pop(tenant_id, None)
            self._broker.unsubscribe([directory_topic(tenant_id)])

    async def _read(
        self, tenant_id: int, query: Query, *, limit: int, cursor: str | None = None
    ) -> tuple[dict[int, HostCard], str | None]:
        """Return a page by user id, in order, and the next page's cursor."""
        found = await self._directory.query(tenant_id, query, limit=limit, cursor=cursor)
        states = await self._states([user_id for user_id, _ in found.hosts])
        hosts = {}
        for user_id, card in found.hosts:
            state = states[user_id]
            if state.listed:  # the index may not know yet that she left, or that her node died
                host = msgspec.json.decode(card, type=HostCard)
                host.status, host.bookable = state.status.value, state.bookable
                hosts[user_id] = host
        return hosts, found.cursor

    # Writing.

    async def update(self, states: Sequence[UserState]) -> None:
        """Make the index and its watchers know of hosts whose presence or profile changed.

        Raises:
            PresenceUnavailable, Unavailable, or what the accounts service raises: some may not have been written or
                told; repeat.
        """
        profiles = await self._profiles.host_cards([state.user_id for state in states])
        news: dict[int, list[HostNews]] = {}
        writes = []
        for state in states:
            profile = profiles.get(state.user_id)
            if profile is not None and state.listed:
                card = host_card(profile, status=state.status.value, bookable=state.bookable)
                writes.append(self._directory.put(state.tenant_id, _entry(profile, card, state.version)))
            else:
                card = None
                writes.append(self._directory.remove(state.tenant_id, state.user_id, state.version))
            one = HostNews(state.user_id, state.version, state.external_id, card)
            news.setdefault(state.tenant_id, []).append(one)
        # First the index, then the word: who looks because of it must find it there.
        await asyncio.gather(*writes)
        for tenant_id, changes in news.items():
            await self._broker.announce(directory_topic(tenant_id), NEWS, _encode(changes))

    # News.

    def heard(self, stream: str, data: bytes) -> None:
        """A hub's control: hosts of a tenant changed."""
        tenant_id = int(stream.partition(":")[2])
        if tenant_id not in self._watchers:
            return
        diffs = self._diffs.setdefault(tenant_id, Coalescer(settle=False))
        for news in msgspec.json.decode(data, type=list[HostNews]):
            if diffs.note(news.user_id, news, here=news.card is not None, version=news.version):
                self._dirty.add(tenant_id)
                self._wake.set()

    def restored(self, streams: Sequence[str]) -> None:
        """Topics were without subscription for a while: look again."""
        wanted = set(streams)
        self._reload |= {tenant_id for tenant_id in self._watchers if directory_topic(tenant_id) in wanted}
        if self._reload:
            self._wake.set()

    async def run(self) -> None:
        """Flush what has changed every FLUSH_S, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(FLUSH_S)
            self._wake.clear()
            for tenant_id in list(self._reload):
                await self._look_again(tenant_id)
            self._flush()

    async def _look_again(self, tenant_id: int) -> None:
        """Show the watchers the directory as it is, and take off what they were shown and is no longer there."""
        current: dict[int, HostCard] = {}
        cursor: str | None = None
        try:
            while len(current) < RELOAD_MAX:
                found, cursor = await self._read(tenant_id, Query(), limit=PAGE_MAX, cursor=cursor)
                current |= found
                if cursor is None:
                    break
        except PresenceUnavailable:
            self._wake.set()  # it stays in `_reload`
            return
        self._reload.discard(tenant_id)
        gone = [user for user_id, user in self._shown.get(tenant_id, {}).items() if user_id not in current]
        if tenant_id in self._watchers:
            self._shown[tenant_id] = {user_id: card.user for user_id, card in current.items()}
            self._send(tenant_id, HostsDiff(list(current.values()), gone if cursor is None else []))

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, set()
        for tenant_id in dirty:
            diffs = self._diffs.get(tenant_id)
            diff = diffs.take() if diffs is not None else None
            if not diff:
                continue
            shown = self._shown.setdefault(tenant_id, {})
            shown.update((user_id, news.user) for user_id, news in diff.joins.items())
            for user_id in diff.leaves:
                shown.pop(user_id, None)
            joins = [news.card for news in diff.joins.values() if news.card is not None]
            self._send(tenant_id, HostsDiff(joins, [news.user for news in diff.leaves.values()]))

    def _send(self, tenant_id: int, diff: HostsDiff) -> None:
        event = EncodedEvent(DIFF, _encode(diff), stream=STREAM, ts_ms=self._now_ms())
        for conn in self._watchers.get(tenant_id, ()):
            conn.send_event(event)


def _entry(profile: HostProfile, card: HostCard, version: int) -> Host:
    return Host(
        user_id=profile.card.user_id,
        version=version,
        card=_encode(card),
        rating=profile.rating or 0.0,
        price_coins=profile.price_coins,
        languages=profile.languages,
        tags=profile.tags,
        category=profile.category,
        media=profile.media,
    )
