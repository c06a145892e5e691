"""Values of chat, and the id of a conversation. Pure; imports nothing of the project."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Message:
    """One stored message. `seq` counts from 1 in its conversation; users are internal ids; time in unix ms."""

    id: UUID
    conversation_id: UUID
    seq: int
    sender_id: int
    recipient_id: int
    kind: str
    body: str
    ts_ms: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as one of the two sees it. `position` orders a user's conversations by their latest message."""

    position: int
    peer_id: int
    unread: int
    read_seq: int
    peer_read_seq: int
    last: Message


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Messages of a user's feed, the position of the last of them, and whether there are more."""

    messages: tuple[Message, ...]
    position: int
    more: bool


def conversation_id(first_user_id: int, second_user_id: int) -> UUID:
    """Return the id of the conversation of two users, the same for both: nothing has to be looked up to write to it."""
    low, high = sorted((first_user_id, second_user_id))
    digest = hashlib.blake2b(low.to_bytes(8) + high.to_bytes(8), digest_size=16, person=b"talkmeter.chat")
    number = int.from_bytes(digest.digest())
    # Version 8, variant 2 (RFC 9562, section 5.8): an id of a kind of our own.
    return UUID(int=number & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62)
