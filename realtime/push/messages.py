"""What clients send and get about pushes. Schemas only."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class PushReport(Struct):
    """What became of a push on this device; `push_id` is in its data."""

    push_id: Annotated[str, Meta(max_length=64)]
    state: Literal["received", "shown", "acted"]


class PushMute(Struct):
    """Switch a category off or on."""

    category: Literal["calls", "messages", "money", "reminders"]
    muted: bool


class CategoryView(Struct):
    """A category of pushes; `essential` names the kinds of it that are sent even when it is muted."""

    category: str
    muted: bool
    essential: list[str]


class PushSettings(Struct):
    categories: list[CategoryView]
