"""The operations call.*: schemas and thin handlers. Imports its service, never a store."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Struct

from realtime.calls.model import Media
from realtime.calls.receipts import ReceiptView
from realtime.calls.service import HISTORY_PAGE_MAX, Calls
from realtime.calls.views import EVENTS, CallView
from realtime.dispatch import Request
from realtime.media.provider import MediaCredentials
from realtime.protocol.registry import Empty, Route

__all__ = ["EVENTS", "CallHandlers"]

SENT_MS_AGO_MAX = 86_400_000  # what a client may claim; only the last 5 s count


class InviteData(Struct, omit_defaults=True):
    """Whom to ring, and for what.

    `price_coins`: the price of a pulse that the caller was shown; when the host has changed it meanwhile, the invite is
    refused with `conflict` and the new price. Left out, any price is taken.
    """

    host: Annotated[str, Meta(min_length=1, max_length=128)]
    media: Media
    price_coins: int | None = None


class InviteOk(Struct, omit_defaults=True):
    """The new call, `inviting`, in which you are the caller.

    When the host was calling you at the same moment for the same media, both invites become that one call: its `role`
    says that you are its host and do not pay, and it is answered on this device already, with `media` to join it.
    """

    call: CallView
    media: MediaCredentials | None = None


class CallData(Struct):
    """Which call."""

    call_id: UUID


class CallOk(Struct):
    call: CallView


class AcceptOk(Struct):
    """The answered call, and what this device needs to join its media."""

    call: CallView
    media: MediaCredentials


class HangUpData(Struct, omit_defaults=True):
    """`sent_ms_ago`: how long ago the user hung up, when the message had to wait; at most 5 s count."""

    call_id: UUID
    sent_ms_ago: Annotated[int, Meta(ge=0, le=SENT_MS_AGO_MAX)] = 0


class HangUpOk(Struct, omit_defaults=True):
    """The ended call, with its receipt when it was connected."""

    call: CallView
    receipt: ReceiptView | None = None


class MediaData(Struct):
    """`connected` when media flows, and again every 5 s for as long as it does; `lost` when it has stopped."""

    call_id: UUID
    state: Literal["connected", "lost"]


class SignalData(Struct):
    """A WebRTC message for the other side; at most 16 KB of payload."""

    call_id: UUID
    kind: Literal["offer", "answer", "candidate", "bye"]
    payload: Any


class CredentialsOk(Struct):
    media: MediaCredentials


class ActiveOk(Struct):
    calls: list[CallView]


class HistoryData(Struct, omit_defaults=True):
    """A page of ended calls: `cursor` comes from the page before."""

    cursor: UUID | None = None
    limit: Annotated[int, Meta(ge=1, le=HISTORY_PAGE_MAX)] = 30


class HistoryOk(Struct, omit_defaults=True):
    """Newest first; no cursor at the end."""

    calls: list[CallView]
    cursor: str | None = None


class ReceiptOk(Struct):
    receipt: ReceiptView


class CallHandlers:
    """Routes of the call service."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def routes(self) -> list[Route]:
        return [*self._ringing(), *self._talking(), *self._looking()]

    def _ringing(self) -> list[Route]:
        return [
            Route(
                op="call.invite",
                data=InviteData,
                ok=InviteOk,
                handler=self.invite,
                mutation=True,
                begins=True,
                cost=5,
                summary="Ring a host on all her devices; the price is fixed now.",
            ),
            Route(
                op="call.accept",
                data=CallData,
                ok=AcceptOk,
                handler=self.accept,
                mutation=True,
                summary="Answer on this device; the first device wins.",
            ),
            Route(
                op="call.decline",
                data=CallData,
                ok=CallOk,
                handler=self.decline,
                mutation=True,
                summary="Refuse a ringing call, on all devices.",
            ),
            Route(
                op="call.cancel",
                data=CallData,
                ok=CallOk,
                handler=self.cancel,
                mutation=True,
                summary="Give up before the answer; after it, hang up.",
            ),
            Route(
                op="call.hang_up",
                data=HangUpData,
                ok=HangUpOk,
                handler=self.hang_up,
                mutation=True,
                summary="End a call in any state; before the answer it means cancel or decline.",
            ),
        ]

    def _talking(self) -> list[Route]:
        return [
            Route(
                op="call.media",
                data=MediaData,
                ok=CallOk,
                handler=self.media,
                summary="Say that media flows or has stopped; charging begins when both sides have said so.",
            ),
            Route(
                op="call.signal",
                data=SignalData,
                ok=Empty,
                handler=self.signal,
                summary="Pass a WebRTC offer, answer or candidate to the other side's device.",
            ),
            Route(
                op="call.credentials",
                data=CallData,
                ok=CredentialsOk,
                handler=self.credentials,
                summary="Media credentials that last as long as the call is funded; ask again before they expire.",
            ),
        ]

    def _looking(self) -> list[Route]:
        return [
            Route(op="call.get", data=CallData, ok=CallOk, handler=self.get, summary="One call of yours."),
            Route(op="call.active", data=Empty, ok=ActiveOk, handler=self.active, summary="The call you are in now."),
            Route(
                op="call.history",
                data=HistoryData,
                ok=HistoryOk,
                handler=self.history,
                summary="Your ended calls, newest first.",
            ),
            Route(
                op="call.receipt",
                data=CallData,
                ok=ReceiptOk,
                handler=self.receipt,
                summary="What a call cost, every second explained.",
            ),
        ]

    async def invite(self, rq: Request, msg: InviteData) -> InviteOk:
        invited = await self._calls.invite(
            rq.tx, rq.principal, host=msg.host, media=msg.media, shown_coins=msg.price_coins
        )
        view = await self._calls.view_for(rq.tx.conn, invited.call, rq.principal.user_id)
        return InviteOk(view, invited.media)

    async def accept(self, rq: Request, msg: CallData) -> AcceptOk:
        call, media = await self._calls.accept(rq.tx, rq.principal, msg.call_id)
        return AcceptOk(await self._calls.view_for(rq.tx.conn, call, rq.principal.user_id), media)

    async def decline(self, rq: Request, msg: CallData) -> CallOk:
        call = await self._calls.decline(rq.tx, rq.principal, msg.call_id)
        return CallOk(await self._calls.view_for(rq.tx.conn, call, rq.principal.user_id))

    async def cancel(self, rq: Request, msg: CallData) -> CallOk:
        call = await self._calls.cancel(rq.tx, rq.principal, msg.call_id)
        return CallOk(await self._calls.view_for(rq.tx.conn, call, rq.principal.user_id))

    async def hang_up(self, rq: Request, msg: HangUpData) -> HangUpOk:
        call, receipt = await self._calls.hang_up(rq.tx, rq.principal, msg.call_id, sent_ms_ago=msg.sent_ms_ago)
        return HangUpOk(await self._calls.view_for(rq.tx.conn, call, rq.principal.user_id), receipt)

    async def media(self, rq: Request, msg: MediaData) -> CallOk:
        if msg.state == "connected":
            return CallOk(await self._calls.media_up(rq.principal, msg.call_id, rq.session.conn))
        return CallOk(await self._calls.media_down(rq.principal, msg.call_id))

    async def signal(self, rq: Request, msg: SignalData) -> Empty:
        await self._calls.signal(rq.principal, msg.call_id, kind=msg.kind, payload=msg.payload, now_ms=rq.now_ms)
        return Empty()

    async def credentials(self, rq: Request, msg: CallData) -> CredentialsOk:
        return CredentialsOk(await self._calls.credentials(rq.principal, msg.call_id))

    async def get(self, rq: Request, msg: CallData) -> CallOk:
        return CallOk(await self._calls.get(rq.principal, msg.call_id))

    async def active(self, rq: Request, msg: Empty) -> ActiveOk:
        return ActiveOk(await self._calls.active(rq.principal.user_id))

    async def history(self, rq: Request, msg: HistoryData) -> HistoryOk:
        calls, cursor = await self._calls.history(rq.principal.user_id, before=msg.cursor, limit=msg.limit)
        return HistoryOk(calls, str(cursor) if cursor else None)

    async def receipt(self, rq: Request, msg: CallData) -> ReceiptOk:
        return ReceiptOk(await self._calls.receipt(rq.principal, msg.call_id))
