"""What clients send and get about channels. Schemas only."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

HISTORY_MAX = 100
MEMBERS_PAGE_MAX = 500

ChannelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
MessageId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]


class Place(Struct):
    """Where a client stands in a channel's stream."""

    epoch: Annotated[str, Meta(max_length=64)]
    offset: Annotated[int, Meta(ge=0)]


class ChannelJoin(Struct):
    """With `position` what was missed follows as ordinary events; `history` asks for the last messages otherwise."""

    channel: ChannelName
    position: Place | None = None
    history: Annotated[int, Meta(ge=0, le=HISTORY_MAX)] = 20


class ChannelMessage(Struct, omit_defaults=True, rename={"from_": "from"}):
    """`from` is the sender's id; `message_id` the one that the sender gave."""

    channel: str
    from_: str = ""
    data: Any = None
    message_id: str = ""


class HistoryEntry(Struct):
    """A message of the log; `offset` is its place in the channel's stream."""

    offset: int
    event_id: str
    ts_ms: int
    data: Any


class ChannelJoinOk(Struct):
    """`recovered`: the missed events follow up to `offset`. Otherwise `history` holds the last ones, oldest first."""

    channel: str
    epoch: str
    offset: int
    recovered: bool
    count: int
    history: list[HistoryEntry]


class ChannelLeave(Struct):
    channel: ChannelName


class ChannelPublish(Struct):
    """`ephemeral`: to those who are here now, kept nowhere. A repeat of `message_id` is not published again."""

    channel: ChannelName
    data: Any
    ephemeral: bool = False
    message_id: MessageId | None = None


class ChannelPublishOk(Struct, omit_defaults=True):
    """Where the message is in the channel's stream; empty for an ephemeral one."""

    epoch: str = ""
    offset: int = 0
    event_id: str = ""


class ChannelPresence(Struct):
    """`after`: the last user of the page before."""

    channel: ChannelName
    after: Annotated[str, Meta(max_length=128)] | None = None
    limit: Annotated[int, Meta(ge=1, le=MEMBERS_PAGE_MAX)] = 100


class ChannelPresenceOk(Struct):
    """Users in the order of their ids; `count` is of all of them."""

    count: int
    users: list[str]
    more: bool


class ChannelPresenceDiff(Struct):
    """Who came and went since the last diff. `partial`: there were too many to name, the count is right."""

    channel: str
    joins: list[str]
    leaves: list[str]
    count: int
    partial: bool = False
