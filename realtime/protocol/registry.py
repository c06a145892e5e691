"""Operations and events as data: dispatch, docs/protocol.md and the AsyncAPI file are all made from these rows.

Imports nothing of the project but `Later`. A feature's handlers.py gives its rows; realtime/app.py joins them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import Any

from msgspec import Struct

from realtime.protocol.later import Later

Answer = Struct | Later[Any]
Handler = Callable[[Any, Any], Awaitable[Answer] | Answer]


class Empty(Struct):
    """No fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation.

    Attributes:
        op: its name on the wire, `feature.verb`.
        data: schema of the request's data.
        ok: schema of the answer.
        handler: `async def (Request, data) -> ok`, or Later of it when nothing is left but to wait. A plain function
            never waits itself: it is called as soon as it is its turn, without a task.
        mutation: changes something in PostgreSQL: needs a key, runs in one transaction with its stored reply.
        shared: a mutation whose handler has it done in a transaction that it shares with others, which also stores the
            reply under `rq.key`; it raises Repeated when there is one.
        inline: answered at once, ahead of requests that wait; its handler is a plain function.
        signed_in: refused before sign-in (all but session.sign_in).
        roles: at least one is needed; empty means everybody.
        cost: what the request takes from its connection's rate bucket.
        begins: starts something long that a node about to stop should not begin, as a call.
        summary: one sentence for the documentation.
        waits: whether the handler is a coroutine function.
    """

    op: str
    data: type[Struct]
    ok: type[Struct]
    handler: Handler
    mutation: bool = False
    shared: bool = False
    inline: bool = False
    signed_in: bool = True
    roles: frozenset[str] = frozenset()
    cost: int = 1
    begins: bool = False
    summary: str = ""
    waits: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "waits", iscoroutinefunction(self.handler))  # asked for every request


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    """One event.

    Attributes:
        name: on the wire, `feature.what_happened`.
        data: schema of its data.
        durable: kept in the event outbox and the user's log, never silently dropped.
        logged: kept in a stream's log only, so a reconnect gets it as long as Redis lives. What is neither durable nor
            logged may be merged or dropped.
        ack: the device must answer with `{ack: [event_id]}`.
    """

    name: str
    data: type[Struct]
    durable: bool
    ack: bool = False
    logged: bool = False
    summary: str = ""
