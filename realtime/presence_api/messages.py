"""What clients send and get about presence and the directory. Schemas only."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from realtime.accounts.messages import Category, HostCard, Language, Media, PriceCoins, Tag

WATCHED_MAX = 500  # users that one connection may watch
PAGE_MAX = 100
PAGE_DEFAULT = 50

UserIds = Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=WATCHED_MAX)]


class PresenceState(Struct):
    """A user's presence. `bookable`: a call may be placed now."""

    user: str
    status: Literal["online", "away", "busy", "dnd", "offline"]
    bookable: bool
    last_seen_ms: int


class PresenceSet(Struct):
    """`away` is for this device; `dnd` and `offline` (invisible) are for all devices, until `online` or `away`."""

    status: Literal["online", "away", "dnd", "offline"]


class PresenceSetOk(Struct):
    state: PresenceState


class PresenceWatch(Struct):
    users: UserIds


class PresenceWatchOk(Struct):
    """The states now; changes follow as presence.diff. Unknown users are left out."""

    states: list[PresenceState]


class PresenceUnwatch(Struct):
    users: UserIds


class PresenceDiff(Struct):
    """`joins`: who is here, new or changed; `leaves`: who went offline."""

    joins: list[PresenceState]
    leaves: list[PresenceState]


class HostsList(Struct):
    """A host must have one of the languages, one of the tags, one of the media, the category, at most the price."""

    languages: Annotated[list[Language], Meta(max_length=16)] = []
    tags: Annotated[list[Tag], Meta(max_length=16)] = []
    category: Category = ""
    media: Annotated[list[Media], Meta(max_length=2)] = []
    max_price_coins: PriceCoins | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    cursor: Annotated[str, Meta(max_length=64)] | None = None


class HostsPage(Struct, omit_defaults=True):
    """Best rated first. With a `cursor` there are more."""

    hosts: list[HostCard]
    cursor: str | None = None


class HostsDiff(Struct):
    """`joins`: hosts who can be reached, new or changed; `leaves`: ids of hosts who no longer can."""

    joins: list[HostCard]
    leaves: list[str]
