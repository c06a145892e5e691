"""A signed-in client at the dispatcher's door: everything is real behind it, only the wire is left out."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import asyncpg

from realtime.accounts.models import Device
from realtime.accounts.service import Accounts
from realtime.accounts.tokens import Identity
from realtime.dispatch import Dispatcher, Session
from realtime.outbox import Outbox, OutboxRow, Planner
from realtime.protocol.envelope import JSON
from realtime.protocol.principal import Principal
from realtime.protocol.registry import Route
from realtime.rates import Limits, Rate, Rates

ANSWER_TIMEOUT_S = 10.0


def identity(user: str, *, roles: Collection[str] = (), tenant: str = "main", name: str = "") -> Identity:
    now_ms = time.time_ns() // 1_000_000
    return Identity(tenant, user, frozenset(roles), name, now_ms, now_ms + 3_600_000)


class Published:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[OutboxRow] = []

    async def publish_rows(self, rows: Sequence[OutboxRow]) -> None:
        self.rows += rows


class Wire:
    """The socket that a peer's replies come out of."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.codec = JSON
        self.principal: Principal | None = None
        self.session: Any = None
        self.remote = "127.0.0.1"
        self.authorization: str | None = None
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    def sign_in(self, principal: Principal) -> None:
        self.principal = principal

    def send_reply(self, payload: bytes) -> None:
        reply = json.loads(payload)
        self.waiting.pop(reply["re"]).set_result(reply)

    def send_frame(self, frame: bytes) -> None:
        raise AssertionError("events go through the publisher here")

    def send_event(self, encoded: Any) -> None:
        raise AssertionError("events go through the publisher here")

    def close(self, code: int, reason: str = "") -> None:
        raise AssertionError((code, reason))

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def heard_ms_ago(self) -> int:
        return 0


class Peer:
    """One device of one user."""

    def __init__(self, peers: Peers, wire: Wire, principal: Principal) -> None:
        self._peers = peers
        self._wire = wire
        self.principal = principal
        self.user_id = principal.user_id

    async def ask(self, op: str, data: Any, *, key: str | None = None) -> dict[str, Any]:
        """Send a request (with a fresh key when none is given) and return the whole reply."""
        number = next(self._peers.numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._wire.waiting[number] = answer
        request = {"id": number, "op": op, "key": key or f"key-{number}", "data": data}
        self._peers.dispatcher.received(self._wire, json.dumps(request).encode())
        return await asyncio.wait_for(answer, ANSWER_TIMEOUT_S)

    async def ok(self, op: str, data: Any, *, key: str | None = None) -> dict[str, Any]:
        reply = await self.ask(op, data, key=key)
        assert "ok" in reply, reply
        ok: dict[str, Any] = reply["ok"]
        return ok

    async def error(self, op: str, data: Any, *, key: str | None = None) -> dict[str, Any]:
        reply = await self.ask(op, data, key=key)
        assert "error" in reply, reply
        error: dict[str, Any] = reply["error"]
        return error


class Peers:
    """The dispatcher with routes under test, and the events that their transactions published."""

    def __init__(self, pool: asyncpg.Pool, accounts: Accounts, *, planner: Planner | None = None) -> None:
        self.numbers = itertools.count(1)
        self.published = Published()
        self.accounts = accounts
        self.outbox = Outbox(pool, self.published, planner)
        self._pool = pool
        self.dispatcher = Dispatcher(
            outbox=self.outbox,
            pool=pool,
            rates=Rates(Limits(connection=Rate(100_000, 100_000))),
            on_closed=self._on_closed,
            on_ack=self._on_ack,
        )

    async def _on_closed(self, session: Session) -> None: ...

    async def _on_ack(self, principal: Principal, event_ids: Sequence[str]) -> None: ...

    def add(self, routes: Iterable[Route]) -> None:
        self.dispatcher.add(routes, [JSON])

    async def sign_in(self, user: str, *, roles: Collection[str] = (), device_id: str = "d1", name: str = "") -> Peer:
        signed = await self.accounts.sign_in(identity(user, roles=roles, name=name), Device(device_id=device_id))
        wire = Wire(next(self.numbers))
        self.dispatcher.connected(wire)
        session: Session = wire.session
        session.principal = signed.principal
        wire.sign_in(signed.principal)
        return Peer(self, wire, signed.principal)

    async def events(self) -> list[OutboxRow]:
        """Relay what was committed and return all that has been published until now."""
        await self.outbox.sweep(older_than_ms=-60_000)
        return self.published.rows

    async def close(self) -> None:
        await self.dispatcher.close()
