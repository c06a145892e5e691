"""Operations on pushes. Imports its service; never another feature. Push addresses belong to devices, in accounts."""

from __future__ import annotations

from realtime.dispatch import Request
from realtime.protocol.registry import Empty, EventType, Route
from realtime.push.messages import CategoryView, PushMute, PushReport, PushSettings
from realtime.push.service import Pushes, categories, essentials

EVENTS: tuple[EventType, ...] = ()


class PushHandlers:
    """The push.* operations."""

    def __init__(self, pushes: Pushes) -> None:
        self._pushes = pushes

    def routes(self) -> list[Route]:
        return [
            Route(
                op="push.report",
                data=PushReport,
                ok=Empty,
                handler=self.report,
                summary="Say that a push was received, shown or acted on.",
            ),
            Route(
                op="push.settings",
                data=Empty,
                ok=PushSettings,
                handler=self.settings,
                summary="Which categories of pushes are switched off.",
            ),
            Route(
                op="push.mute",
                data=PushMute,
                ok=PushSettings,
                handler=self.mute,
                mutation=True,
                summary="Switch a category of pushes off or on.",
            ),
        ]

    async def report(self, rq: Request, msg: PushReport) -> Empty:
        who = rq.principal
        await self._pushes.report(who.user_id, who.device_id, msg.push_id, msg.state, now_ms=rq.now_ms)
        return Empty()

    async def settings(self, rq: Request, msg: Empty) -> PushSettings:
        return _view(await self._pushes.muted(rq.principal.user_id))

    async def mute(self, rq: Request, msg: PushMute) -> PushSettings:
        await self._pushes.mute(rq.tx, rq.principal.user_id, msg.category, muted=msg.muted)
        return _view(await self._pushes.muted(rq.principal.user_id, conn=rq.tx.conn))


def _view(muted: set[str]) -> PushSettings:
    return PushSettings(
        [CategoryView(category, category in muted, list(essentials(category))) for category in categories()]
    )
