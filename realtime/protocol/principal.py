"""Who a connection speaks for. Imports nothing of the project."""

from __future__ import annotations

from msgspec import Struct


class Principal(Struct, frozen=True, gc=False):
    """A signed-in user on one device; made from a verified token, never from client fields.

    There is one for every socket: it holds no references that could make a cycle, so the collector leaves it out.
    `tenant_id` and `user_id` are internal; `tenant` and `user` are the ids that the outside knows.
    """

    tenant_id: int
    tenant: str
    user_id: int
    user: str
    roles: frozenset[str]
    device_id: str
    expires_at_ms: int
