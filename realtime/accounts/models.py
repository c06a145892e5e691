"""What the rest of the product sees of people: values only. Imports nothing of the project."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UserCard:
    """Who a user is to others. `user_id` is internal; `user` is the id that the outside knows."""

    user_id: int
    tenant_id: int
    user: str
    name: str
    avatar_url: str


@dataclass(frozen=True, slots=True)
class HostProfile:
    """A host as the directory shows her: the card, what she offers, and her price per pulse."""

    card: UserCard
    headline: str
    languages: tuple[str, ...]
    tags: tuple[str, ...]
    category: str
    media: tuple[str, ...]
    price_coins: int
    pulse_ms: int
    rating_sum: int
    rating_count: int

    @property
    def rating(self) -> float | None:
        """The mean of the ratings to one decimal, or None before the first."""
        return round(self.rating_sum / self.rating_count, 1) if self.rating_count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChange:
    """What a host wants changed; None leaves a field as it is."""

    headline: str | None = None
    languages: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    category: str | None = None
    media: tuple[str, ...] | None = None
    price_coins: int | None = None
    pulse_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDefaults:
    """What a host offers who has not said anything yet."""

    price_coins: int = 10
    pulse_ms: int = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One installation of the app, as it introduces itself at sign-in."""

    device_id: str
    platform: str = ""
    app_version: str = ""


@dataclass(frozen=True, slots=True)
class PushTarget:
    """Where a push for one device of a user goes. `kind` is `fcm` (registration token) or `fcm_fid` (installation)."""

    user_id: int
    device_id: str
    kind: str
    address: str
    platform: str
