"""Operations on presence and the directory. Imports its service; never another feature."""

from __future__ import annotations

from presence.directory import Query
from realtime.dispatch import Request
from realtime.presence_api.messages import (
    HostsDiff,
    HostsList,
    HostsPage,
    PresenceDiff,
    PresenceSet,
    PresenceSetOk,
    PresenceUnwatch,
    PresenceWatch,
    PresenceWatchOk,
)
from realtime.presence_api.service import Presence
from realtime.protocol.registry import Empty, EventType, Route

WATCH_COST = 5  # each asks Redis for many users at once

EVENTS: tuple[EventType, ...] = (
    EventType(
        name="presence.diff",
        data=PresenceDiff,
        durable=False,
        summary="Watched users came, changed or went; coalesced over a fifth of a second.",
    ),
    EventType(
        name="hosts.diff",
        data=HostsDiff,
        durable=False,
        summary="Hosts of the watched directory came, changed or went; coalesced over a fifth of a second.",
    ),
)


class PresenceHandlers:
    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    def routes(self) -> list[Route]:
        return [
            Route(
                op="presence.set",
                data=PresenceSet,
                ok=PresenceSetOk,
                handler=self.set,
                summary="Say how you want to be seen, until you say otherwise.",
            ),
            Route(
                op="presence.watch",
                data=PresenceWatch,
                ok=PresenceWatchOk,
                handler=self.watch,
                cost=WATCH_COST,
                summary="Get the states of users now, and their changes as presence.diff.",
            ),
            Route(
                op="presence.unwatch",
                data=PresenceUnwatch,
                ok=Empty,
                handler=self.unwatch,
                summary="Hear no more of these users.",
            ),
            Route(
                op="hosts.list",
                data=HostsList,
                ok=HostsPage,
                handler=self.list_hosts,
                summary="Hosts who can be reached now, best rated first, a page at a time.",
            ),
            Route(
                op="hosts.watch",
                data=Empty,
                ok=HostsPage,
                handler=self.watch_hosts,
                cost=WATCH_COST,
                summary="Get the first page of the directory, and every host's changes as hosts.diff.",
            ),
            Route(
                op="hosts.unwatch",
                data=Empty,
                ok=Empty,
                handler=self.unwatch_hosts,
                summary="Hear no more of the directory.",
            ),
        ]

    async def set(self, rq: Request, msg: PresenceSet) -> PresenceSetOk:
        return PresenceSetOk(await self._presence.set_status(rq.principal, msg.status))

    async def watch(self, rq: Request, msg: PresenceWatch) -> PresenceWatchOk:
        states = await self._presence.watch(rq.session.conn, rq.principal, msg.users)
        self._check(rq)
        return PresenceWatchOk(states)

    async def unwatch(self, rq: Request, msg: PresenceUnwatch) -> Empty:
        await self._presence.unwatch(rq.session.conn, rq.principal, msg.users)
        return Empty()

    async def list_hosts(self, rq: Request, msg: HostsList) -> HostsPage:
        query = Query(
            languages=tuple(msg.languages),
            tags=tuple(msg.tags),
            category=msg.category,
            media=tuple(msg.media),
            max_price_coins=msg.max_price_coins,
        )
        return await self._presence.hosts(rq.principal, query, limit=msg.limit, cursor=msg.cursor)

    async def watch_hosts(self, rq: Request, msg: Empty) -> HostsPage:
        page = await self._presence.watch_hosts(rq.session.conn, rq.principal)
        self._check(rq)
        return page

    async def unwatch_hosts(self, rq: Request, msg: Empty) -> Empty:
        self._presence.unwatch_hosts(rq.session.conn)
        return Empty()

    def _check(self, rq: Request) -> None:
        """A connection that closed while it was entered as a watcher was taken off before; nobody does it again."""
        if rq.session.closed:
            self._presence.forget(rq.session.conn)
