"""Operations and events of chat. Imports its service; never another feature."""

from __future__ import annotations

from realtime.chat.messages import (
    Conversations,
    ConversationsOk,
    ConversationView,
    History,
    HistoryOk,
    MessageEvent,
    Peer,
    Read,
    ReadEvent,
    Send,
    SendOk,
    Sync,
    SyncOk,
    Typing,
    TypingEvent,
    message_view,
)
from realtime.chat.models import Conversation
from realtime.chat.service import MESSAGE, READ, TYPING, Chat
from realtime.dispatch import Request
from realtime.protocol.registry import Empty, EventType, Route

PAGE_COST = 5  # of the connection's rate: a page of messages is more work than one

EVENTS = (
    EventType(
        name=MESSAGE,
        data=MessageEvent,
        durable=True,
        summary="A message was stored; told to both users' devices, also to the sender's.",
    ),
    EventType(name=READ, data=ReadEvent, durable=True, summary="A read cursor moved."),
    EventType(
        name=TYPING, data=TypingEvent, durable=False, summary="Somebody is typing; forget it after a few seconds."
    ),
)


class ChatHandlers:
    """The chat.* operations."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def routes(self) -> list[Route]:
        return [
            Route(
                op="chat.send",
                data=Send,
                ok=SendOk,
                handler=self.send,
                mutation=True,
                summary="Send a message; it is stored when the answer comes.",
            ),
            Route(op="chat.read", data=Read, ok=Empty, handler=self.read, summary="Move the read cursor forward."),
            Route(
                op="chat.typing",
                data=Typing,
                ok=Empty,
                handler=self.typing,
                summary="Say that you are typing; at most every few seconds.",
            ),
            Route(
                op="chat.history",
                data=History,
                ok=HistoryOk,
                handler=self.history,
                cost=PAGE_COST,
                summary="A page of one conversation.",
            ),
            Route(
                op="chat.sync",
                data=Sync,
                ok=SyncOk,
                handler=self.sync,
                cost=PAGE_COST,
                summary="What was sent and received since a cursor, in all conversations.",
            ),
            Route(
                op="chat.conversations",
                data=Conversations,
                ok=ConversationsOk,
                handler=self.conversations,
                cost=PAGE_COST,
                summary="Your conversations, the latest first.",
            ),
        ]

    async def send(self, rq: Request, msg: Send) -> SendOk:
        sender = rq.principal
        message = await self._chat.send(rq.tx, sender, to=msg.to, kind=msg.kind, body=msg.body)
        return SendOk(message_view(message, {message.sender_id: sender.user, message.recipient_id: msg.to}))

    async def read(self, rq: Request, msg: Read) -> Empty:
        await self._chat.read(rq.principal, peer=msg.with_, seq=msg.seq)
        return Empty()

    async def typing(self, rq: Request, msg: Typing) -> Empty:
        await self._chat.typing(rq.principal, peer=msg.with_)
        return Empty()

    async def history(self, rq: Request, msg: History) -> HistoryOk:
        messages, more = await self._chat.history(
            rq.principal, peer=msg.with_, before=msg.before, after=msg.after, limit=msg.limit
        )
        names = await self._chat.names(messages)
        return HistoryOk([message_view(message, names) for message in messages], more)

    async def sync(self, rq: Request, msg: Sync) -> SyncOk:
        page = await self._chat.sync(rq.principal, after=int(msg.after or 0), limit=msg.limit)
        names = await self._chat.names(page.messages)
        return SyncOk([message_view(message, names) for message in page.messages], str(page.position), page.more)

    async def conversations(self, rq: Request, msg: Conversations) -> ConversationsOk:
        before = int(msg.cursor) if msg.cursor else None
        found, more, head = await self._chat.conversations(rq.principal, before=before, limit=msg.limit)
        return ConversationsOk(
            await self._views(rq.principal.user_id, rq.principal.user, found),
            sync_cursor=str(head),
            cursor=str(found[-1].position) if more else None,
        )

    async def _views(self, user_id: int, user: str, found: list[Conversation]) -> list[ConversationView]:
        cards = await self._chat.cards([one.peer_id for one in found])
        return [
            ConversationView(
                with_=Peer(card.user, card.name, card.avatar_url),
                last=message_view(one.last, {user_id: user, one.peer_id: card.user}),
                unread=one.unread,
                read_seq=one.read_seq,
                peer_read_seq=one.peer_read_seq,
            )
            for one in found
            if (card := cards.get(one.peer_id)) is not None
        ]
