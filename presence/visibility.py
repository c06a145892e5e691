"""Who may see whose presence. Pure; imports nothing of the project.

Tenants never see each other. A block hides both from each other: who is blocked must not learn of it from presence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks.

    Attributes:
        tenant_id, user_id: internal ids.
        hidden: users that this one has blocked, or by whom it is blocked.
    """

    tenant_id: int
    user_id: int
    hidden: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is looked at."""

    tenant_id: int
    user_id: int


def may_see(viewer: Viewer, subject: Subject) -> bool:
    """Return whether the viewer may know whether the subject is online."""
    return viewer.tenant_id == subject.tenant_id and subject.user_id not in viewer.hidden


def visible(viewer: Viewer, subjects: Iterable[Subject]) -> list[Subject]:
    """Return those whom the viewer may see, in the given order."""
    return [subject for subject in subjects if may_see(viewer, subject)]


def hidden_from(blocks: Collection[tuple[int, int]], user_id: int) -> frozenset[int]:
    """Return whom blocks (blocker, blocked) hide from a user: both directions."""
    return frozenset(
        other
        for blocker, blocked in blocks
        for one, other in ((blocker, blocked), (blocked, blocker))
        if one == user_id
    )
