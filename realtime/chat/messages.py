"""What clients send and get in chat. Schemas only."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from realtime.chat.models import Message

BODY_CHARS_MAX = 8_000  # in UTF-8 at most 32 KB, half of what a frame may hold

UserId = Annotated[str, Meta(min_length=1, max_length=128)]
Kind = Annotated[str, Meta(max_length=32, pattern=r"^[a-z][a-z0-9_.-]*$")]
Body = Annotated[str, Meta(min_length=1, max_length=BODY_CHARS_MAX, pattern=r"^[^\x00]*$")]
Seq = Annotated[int, Meta(ge=0, le=2**53)]
Limit = Annotated[int, Meta(ge=1, le=200)]
Cursor = Annotated[str, Meta(max_length=32, pattern=r"^[0-9]{1,16}$")]


class MessageView(Struct):
    """One message. `seq` orders a conversation and counts from 1; `ts_ms` is the server's."""

    message_id: str
    conversation: str
    seq: int
    from_: str = field(name="from")
    to: str
    kind: str
    body: str
    ts_ms: int


class Peer(Struct):
    """The other one of a conversation."""

    id: str
    name: str
    avatar_url: str


class Send(Struct):
    """`kind` says how `body` is to be read, `text` or one of the app's own; the server looks into neither."""

    to: UserId
    body: Body
    kind: Kind = "text"


class SendOk(Struct):
    message: MessageView


class History(Struct):
    """A page before or after a seq; the latest page without either."""

    with_: UserId = field(name="with")
    before: Seq | None = None
    after: Seq | None = None
    limit: Limit = 50


class HistoryOk(Struct):
    """Messages, oldest first; `more` in the direction that was asked for."""

    messages: list[MessageView]
    more: bool


class Sync(Struct):
    """Everything sent or received after a cursor, over all conversations; from the first message without one."""

    after: Cursor | None = None
    limit: Limit = 100


class SyncOk(Struct):
    """Ask again from `cursor`: at once when there is `more`, after the next absence otherwise."""

    messages: list[MessageView]
    cursor: str
    more: bool


class Read(Struct):
    """All messages of the peer up to `seq` have been read."""

    with_: UserId = field(name="with")
    seq: Seq


class Typing(Struct):
    with_: UserId = field(name="with")


class Conversations(Struct):
    cursor: Cursor | None = None
    limit: Limit = 50


class ConversationView(Struct):
    """`unread` counts the peer's messages after `read_seq`; the peer has read up to `peer_read_seq`."""

    with_: Peer = field(name="with")
    last: MessageView
    unread: int
    read_seq: int
    peer_read_seq: int


class ConversationsOk(Struct, omit_defaults=True):
    """The conversations with the latest messages first; `sync_cursor` is where chat.sync goes on from this list."""

    conversations: list[ConversationView]
    sync_cursor: str
    cursor: str | None = None


class MessageEvent(Struct):
    message: MessageView


class ReadEvent(Struct):
    """In the conversation with `with`, `by` (the peer, or this user on another device) has read up to `seq`."""

    with_: str = field(name="with")
    seq: int
    by: str


class TypingEvent(Struct):
    from_: str = field(name="from")


def message_view(message: Message, names: dict[int, str]) -> MessageView:
    """Return the message as clients see it; `names` gives outside ids by internal id."""
    return MessageView(
        message_id=str(message.id),
        conversation=str(message.conversation_id),
        seq=message.seq,
        from_=names.get(message.sender_id, ""),
        to=names.get(message.recipient_id, ""),
        kind=message.kind,
        body=message.body,
        ts_ms=message.ts_ms,
    )
