"""Rows of conversations, messages and feeds. Owns their SQL; no other part touches them. Imports values only."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from realtime.chat.models import Conversation, Message
from realtime.sql import load_sql


class ChatStore:
    """Each method is one statement on the caller's connection."""

    def __init__(self) -> None:
        self._sql = load_sql(Path(__file__).with_name("store.sql"))

    async def send(self, conn: asyncpg.Connection, tenant_id: int, draft: Message) -> Message:
        """Store `draft` and return it with the seq and time that it got."""
        row = await conn.fetchrow(
            self._sql["send"],
            tenant_id,
            draft.sender_id,
            draft.recipient_id,
            draft.conversation_id,
            draft.id,
            draft.kind,
            draft.body,
        )
        return Message(
            draft.id,
            draft.conversation_id,
            row["seq"],
            draft.sender_id,
            draft.recipient_id,
            draft.kind,
            draft.body,
            row["ts_ms"],
        )

    async def read(self, conn: asyncpg.Connection, user_id: int, peer_id: int, seq: int) -> int | None:
        moved_to: int | None = await conn.fetchval(self._sql["read"], user_id, peer_id, seq)
        return moved_to

    async def feed(self, conn: asyncpg.Connection, user_id: int, after: int, limit: int) -> list[tuple[int, Message]]:
        rows = await conn.fetch(self._sql["feed"], user_id, after, limit)
        return [(row["pos"], _message(row)) for row in rows]

    async def before(self, conn: asyncpg.Connection, conversation: object, seq: int, limit: int) -> list[Message]:
        return [_message(row) for row in await conn.fetch(self._sql["before"], conversation, seq, limit)]

    async def after(self, conn: asyncpg.Connection, conversation: object, seq: int, limit: int) -> list[Message]:
        return [_message(row) for row in await conn.fetch(self._sql["after"], conversation, seq, limit)]

    async def conversations(
        self, conn: asyncpg.Connection, user_id: int, before: int, limit: int
    ) -> list[Conversation]:
        rows = await conn.fetch(self._sql["conversations"], user_id, before, limit)
        return [
            Conversation(
                row["last_pos"], row["peer_id"], row["unread"], row["read_seq"], row["peer_read_seq"], _message(row)
            )
            for row in rows
        ]

    async def position(self, conn: asyncpg.Connection, user_id: int) -> int:
        return await conn.fetchval(self._sql["position"], user_id) or 0

    async def unread(self, conn: asyncpg.Connection, user_id: int) -> int:
        unread: int = await conn.fetchval(self._sql["unread"], user_id)
        return unread


def _message(row: asyncpg.Record) -> Message:
    return Message(
        row["id"],
        row["conversation_id"],
        row["seq"],
        row["sender_id"],
        row["recipient_id"],
        row["kind"],
        row["body"],
        row["ts_ms"],
    )
