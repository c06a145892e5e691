"""One connection's session and one request, as handlers see them. Owns their fields; dispatch decides over them.

Must never import dispatch or a feature.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from realtime.idempotency import RequestKey
from realtime.outbox import Tx
from realtime.protocol.envelope import Frame
from realtime.protocol.errors import Unauthenticated
from realtime.protocol.principal import Principal
from realtime.protocol.registry import Route
from realtime.rates.node import Allowance
from realtime.transport.interface import Socket


class Session:
    """What dispatch keeps for one connection: its queue of requests, its rates, and features' own notes.

    Attributes:
        conn: the socket.
        principal: who signed in, or None.
        full_at, allowance: its bucket, and those of its user; see realtime/rates.
        later: requests whose reply is under way.
        after_reply: run once, right after the reply to the present request has been queued; for handlers that wait.
        warned_of_ms: the token expiry that the client has been warned of.
    """

    __slots__ = (
        "after_reply",
        "allowance",
        "closed",
        "conn",
        "full_at",
        "later",
        "malformed",
        "principal",
        "queue",
        "task",
        "unsigned",
        "warned_of_ms",
    )

    def __init__(self, conn: Socket) -> None:
        self.conn = conn
        self.principal: Principal | None = None
        self.queue: deque[tuple[Frame, Route | None, Any]] | None = None
        self.task: asyncio.Task[None] | None = None
        self.full_at = 0.0
        self.allowance: Allowance | None = None
        self.later = 0
        self.malformed = 0
        self.unsigned = 0
        self.closed = False
        self.after_reply: Callable[[], None] | None = None
        self.warned_of_ms = 0


@dataclass(slots=True)
class Request:
    """One request as its handler sees it.

    Attributes:
        session: the connection's session.
        now_ms: unix milliseconds of this node at its arrival.
        tx: the open transaction, for mutations; `rq.tx` of a query raises nothing but is None.
        key: the key that a shared mutation stores its reply under.
    """

    session: Session
    now_ms: int
    tx_: Tx | None = None
    key_: RequestKey | None = None

    @property
    def principal(self) -> Principal:
        principal = self.session.principal
        if principal is None:
            raise Unauthenticated
        return principal

    @property
    def tx(self) -> Tx:
        """The mutation's transaction.

        Raises:
            RuntimeError: the route is not a mutation.
        """
        if self.tx_ is None:
            raise RuntimeError("this route is not a mutation")
        return self.tx_

    @property
    def key(self) -> RequestKey:
        """The mutation's idempotency key.

        Raises:
            RuntimeError: the route is not a shared mutation.
        """
        if self.key_ is None:
            raise RuntimeError("this route is not a shared mutation")
        return self.key_
