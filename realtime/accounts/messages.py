"""What clients send and get about people. Schemas only."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from realtime.accounts.models import HostProfile, UserCard

# PostgreSQL's text holds no NUL, so no text field of a request may.
Name = Annotated[str, Meta(max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")]
AvatarUrl = Annotated[str, Meta(max_length=500, pattern=r"""^((https?://|/)[^\s"'<>\\\x00-\x1f]*)?$""")]
Headline = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Language = Annotated[str, Meta(max_length=35, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
Tag = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[^\x00-\x1f\x7f,]+$")]
Category = Annotated[str, Meta(max_length=32, pattern=r"^[^\x00-\x1f\x7f]*$")]
Media = Literal["voice", "video"]
PriceCoins = Annotated[int, Meta(ge=0, le=1_000_000)]
PulseMs = Annotated[int, Meta(ge=1_000, le=3_600_000)]
PushAddress = Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[\x21-\x7e]+$")]
Platform = Annotated[str, Meta(max_length=16, pattern=r"^[a-z]*$")]


class UserView(Struct):
    """A user as others see them."""

    id: str
    name: str
    avatar_url: str


class HostCard(Struct):
    """A host in the directory. `price_coins` is for each begun `pulse_ms` of talk."""

    user: str
    name: str
    avatar_url: str
    headline: str
    languages: list[str]
    tags: list[str]
    category: str
    media: list[Media]
    price_coins: int
    pulse_ms: int
    rating: float | None
    status: str = "offline"
    bookable: bool = False


class HostsUpdate(Struct):
    """What to change; fields left out stay as they are."""

    name: Name | UnsetType = UNSET
    headline: Headline | UnsetType = UNSET
    languages: Annotated[list[Language], Meta(max_length=16)] | UnsetType = UNSET
    tags: Annotated[list[Tag], Meta(max_length=16)] | UnsetType = UNSET
    category: Category | UnsetType = UNSET
    media: Annotated[list[Media], Meta(min_length=1, max_length=2)] | UnsetType = UNSET
    price_coins: PriceCoins | UnsetType = UNSET
    pulse_ms: PulseMs | UnsetType = UNSET


class HostsUpdateOk(Struct):
    host: HostCard


class ProfileUpdate(Struct):
    """What to change; fields left out stay as they are."""

    name: Name | UnsetType = UNSET
    avatar_url: AvatarUrl | UnsetType = UNSET


class ProfileUpdateOk(Struct):
    user: UserView


class DeviceRegister(Struct):
    """Where pushes for this device go: `fcm` takes a registration token, `fcm_fid` an installation id."""

    push_kind: Literal["fcm", "fcm_fid"]
    push_address: PushAddress
    platform: Platform = ""


def user_view(card: UserCard) -> UserView:
    return UserView(card.user, card.name, card.avatar_url)


def host_card(profile: HostProfile, *, status: str = "offline", bookable: bool = False) -> HostCard:
    """Return a host as clients see her; status and bookable come from presence."""
    return HostCard(
        user=profile.card.user,
        name=profile.card.name,
        avatar_url=profile.card.avatar_url,
        headline=profile.headline,
        languages=list(profile.languages),
        tags=list(profile.tags),
        category=profile.category,
        media=[kind for kind in ("voice", "video") if kind in profile.media],
        price_coins=profile.price_coins,
        pulse_ms=profile.pulse_ms,
        rating=profile.rating,
        status=status,
        bookable=bookable,
    )
