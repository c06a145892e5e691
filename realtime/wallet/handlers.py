"""The operations wallet.* and gift.*: schemas and thin handlers. Imports its service, never a store."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from realtime.dispatch import Request
from realtime.protocol.registry import Empty, Route
from realtime.wallet.gifts import SendOk
from realtime.wallet.service import HISTORY_PAGE_MAX, Wallets
from realtime.wallet.views import EVENTS, EntryView, GiftView, WalletView

__all__ = ["EVENTS", "WalletHandlers"]


class WalletOk(Struct):
    wallet: WalletView


class HistoryData(Struct, omit_defaults=True):
    """A page of the statement: `cursor` comes from the page before."""

    cursor: Annotated[str, Meta(max_length=64)] | None = None
    limit: Annotated[int, Meta(ge=1, le=HISTORY_PAGE_MAX)] = 50


class HistoryOk(Struct, omit_defaults=True):
    """Newest first; no cursor at the end."""

    entries: list[EntryView]
    cursor: str | None = None


class GiftsOk(Struct):
    gifts: list[GiftView]


class SendData(Struct, omit_defaults=True):
    """A gift to a host; with `call_id` it is shown in that call."""

    to: Annotated[str, Meta(min_length=1, max_length=128)]
    gift_id: Annotated[str, Meta(pattern="^[a-z0-9_]{1,32}$")]
    call_id: UUID | None = None


class WalletHandlers:
    """Routes of the wallet service."""

    def __init__(self, wallets: Wallets) -> None:
        self._wallets = wallets

    def routes(self) -> list[Route]:
        return [
            Route(
                op="wallet.get", data=Empty, ok=WalletOk, handler=self.get, summary="The coins of the user who asks."
            ),
            Route(
                op="wallet.history",
                data=HistoryData,
                ok=HistoryOk,
                handler=self.history,
                summary="The statement, newest first; each call is one line.",
            ),
            Route(op="gift.list", data=Empty, ok=GiftsOk, handler=self.gifts, summary="The gifts that can be sent."),
            Route(
                op="gift.send",
                data=SendData,
                ok=SendOk,
                handler=self.send,
                mutation=True,
                shared=True,
                cost=2,
                summary="Pay a gift to a host, in a call or out of one.",
            ),
        ]

    async def get(self, rq: Request, msg: Empty) -> WalletOk:
        return WalletOk(await self._wallets.get(rq.principal.user_id))

    async def history(self, rq: Request, msg: HistoryData) -> HistoryOk:
        entries, cursor = await self._wallets.history(rq.principal.user_id, cursor=msg.cursor, limit=msg.limit)
        return HistoryOk(entries, cursor)

    async def gifts(self, rq: Request, msg: Empty) -> GiftsOk:
        return GiftsOk(await self._wallets.gifts(rq.principal.tenant_id))

    async def send(self, rq: Request, msg: SendData) -> SendOk:
        return await self._wallets.send(rq.principal, rq.key, to=msg.to, gift_id=msg.gift_id, call_id=msg.call_id)
