"""Conversations of two: messages in server order, stored before they are acknowledged.

Owns the rules of who may write, and the events. Must never import another feature's store; people come from accounts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import asyncpg

from realtime.accounts.models import UserCard
from realtime.accounts.service import Accounts
from realtime.chat.messages import MessageEvent, ReadEvent, TypingEvent, message_view
from realtime.chat.models import Conversation, FeedPage, Message, conversation_id
from realtime.chat.store import ChatStore
from realtime.ids import new_id
from realtime.outbox import Outbox, Tx
from realtime.protocol.errors import InvalidData
from realtime.protocol.principal import Principal

MESSAGE = "chat.message"
READ = "chat.read"
TYPING = "chat.typing"

Gate = Callable[[int, int, asyncpg.Connection | None], Awaitable[None]]
"""Called with the internal ids of sender and recipient, and the transaction's connection when there is one (waiting for
a second could starve the pool); raises Forbidden when the one may not write to the other."""
Ephemeral = Callable[[int, str, TypingEvent], Awaitable[None]]
"""Sends an event to a user's live sockets (internal id, event name, data); may be lost."""


async def open_gate(sender_id: int, recipient_id: int, conn: asyncpg.Connection | None) -> None:
    """Everybody may write to everybody in their tenant."""


class Chat:
    """One-to-one chat over PostgreSQL."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        outbox: Outbox,
        accounts: Accounts,
        *,
        publish_ephemeral: Ephemeral,
        gate: Gate = open_gate,
    ) -> None:
        self._pool = pool
        self._outbox = outbox
        self._accounts = accounts
        self._publish_ephemeral = publish_ephemeral
        self._gate = gate
        self._store = ChatStore()

    async def send(self, tx: Tx, sender: Principal, *, to: str, kind: str, body: str) -> Message:
        """Store a message in the caller's transaction and tell both users' devices once it has committed.

        Raises:
            NotFound: there is no user `to` in the sender's tenant.
            InvalidData: `to` is the sender.
            Forbidden: the gate says no.
        """
        peer_id = await self._peer(sender, to, path="$.to", conn=tx.conn)
        await self._gate(sender.user_id, peer_id, tx.conn)
        draft = Message(new_id(), conversation_id(sender.user_id, peer_id), 0, sender.user_id, peer_id, kind, body, 0)
        message = await self._store.send(tx.conn, sender.tenant_id, draft)
        view = message_view(message, {sender.user_id: sender.user, peer_id: to})
        # The event has the message's id, so that a repeat of either is known to be one.
        tx.emit(MESSAGE, to=(peer_id, sender.user_id), data=MessageEvent(view), v=message.seq, event_id=message.id)
        return message

    async def read(self, reader: Principal, *, peer: str, seq: int) -> None:
        """Move the reader's cursor forward; the peer and the reader's other devices hear of it when it moved."""
        async with self._outbox.transaction(reader.tenant_id) as tx:
            peer_id = await self._peer(reader, peer, path="$.with", conn=tx.conn)
            moved_to = await self._store.read(tx.conn, reader.user_id, peer_id, seq)
            if moved_to is None:
                return
            to_peer = ReadEvent(with_=reader.user, seq=moved_to, by=reader.user)
            to_self = ReadEvent(with_=peer, seq=moved_to, by=reader.user)
            tx.emit(READ, to=(peer_id,), data=to_peer, v=moved_to, push=False)
            tx.emit(READ, to=(reader.user_id,), data=to_self, v=moved_to, push=False)

    async def typing(self, sender: Principal, *, peer: str) -> None:
        """Tell the peer's live sockets; nothing is stored."""
        peer_id = await self._peer(sender, peer, path="$.with")
        await self._gate(sender.user_id, peer_id, None)
        await self._publish_ephemeral(peer_id, TYPING, TypingEvent(sender.user))

    async def history(
        self, user: Principal, *, peer: str, before: int | None, after: int | None, limit: int
    ) -> tuple[list[Message], bool]:
        """Return a page of one conversation, oldest first, and whether there is more in that direction.

        Raises:
            InvalidData: both `before` and `after` are given.
        """
        if before is not None and after is not None:
            raise InvalidData("before or after, not both", path="$.after")
        peer_id = await self._peer(user, peer, path="$.with")
        conversation = conversation_id(user.user_id, peer_id)
        async with self._pool.acquire() as conn:
            if after is not None:
                found = await self._store.after(conn, conversation, after, limit + 1)
                return found[:limit], len(found) > limit
            seq = before if before is not None else 2**62
            found = await self._store.before(conn, conversation, seq, limit + 1)
        return found[:limit][::-1], len(found) > limit

    async def sync(self, user: Principal, *, after: int, limit: int) -> FeedPage:
        """Return what the user sent and received after a position of their feed, in the order of its commits."""
        async with self._pool.acquire() as conn:
            found = await self._store.feed(conn, user.user_id, after, limit + 1)
        page = found[:limit]
        position = page[-1][0] if page else after
        return FeedPage(tuple(message for _, message in page), position, len(found) > limit)

    async def conversations(
        self, user: Principal, *, before: int | None, limit: int
    ) -> tuple[list[Conversation], bool, int]:
        """Return a page of the user's conversations, whether there are more, and the head of the user's feed.

        The head is read first: a message that comes in between is in the list and comes once more with the next sync,
        where its seq gives it away; the other way round it would be missed.
        """
        async with self._pool.acquire() as conn:
            head = await self._store.position(conn, user.user_id)
            below = before if before is not None else 2**62
            found = await self._store.conversations(conn, user.user_id, below, limit + 1)
        return found[:limit], len(found) > limit, head

    async def unread(self, user: Principal) -> int:
        """Return how many messages of others the user has not read, for the sign-in's snapshot."""
        async with self._pool.acquire() as conn:
            return await self._store.unread(conn, user.user_id)

    async def names(self, messages: Collection[Message]) -> dict[int, str]:
        """Return the outside ids of all who wrote or got these."""
        users = {message.sender_id for message in messages} | {message.recipient_id for message in messages}
        return await self._accounts.external_ids(users)

    async def cards(self, user_ids: Collection[int]) -> dict[int, UserCard]:
        """Return names and pictures of these users."""
        return await self._accounts.user_cards(user_ids)

    async def _peer(self, user: Principal, peer: str, *, path: str, conn: asyncpg.Connection | None = None) -> int:
        peer_id = await self._accounts.resolve_one(user.tenant_id, peer, conn=conn)
        if peer_id == user.user_id:
            raise InvalidData("a conversation has two sides", path=path)
        return peer_id
