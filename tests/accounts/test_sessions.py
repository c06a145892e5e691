"""Sign-ins that something gets in the way of: a sign-out everywhere, an expiry, another sign-in of the same device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import redis.asyncio as aioredis

from presence.states import Status
from realtime.accounts.keys import KeyRing
from realtime.accounts.models import Device
from realtime.accounts.service import Accounts, SignedIn
from realtime.accounts.tokens import Identity, JwtVerifier, Verifiers, mint
from realtime.broker import Broker
from realtime.channels.service import Channels
from realtime.hub import Hub
from realtime.joints import Arrivals
from realtime.presence_api.service import Presence
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.errors import TokenExpired, TokenInvalid, Unavailable
from realtime.rates import Limits, Rate, Rates
from realtime.request import Request, Session
from realtime.session import Sessions, SignIn, SignOut
from tests.broker.support import Recorder, until

KEYS = KeyRing.parse(f"k1:{'s' * 32}")
CONFIRM_S = 0.05


class Interrupted(Accounts):
    """The accounts service, with something that happens after the database let a sign-in pass."""

    meanwhile: Callable[[SignedIn], Awaitable[None]] | None = None

    async def sign_in(self, identity: Identity, device: Device) -> SignedIn:
        signed = await super().sign_in(identity, device)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile(signed)
        return signed


@dataclass
class Node:
    """One node's way from a token to a signed-in connection."""

    sessions: Sessions
    accounts: Interrupted
    presence: Presence
    hub: Hub

    async def sign_in(self, session: Session, token: str, device_id: str = "phone") -> Any:
        """Handle one session.sign_in as dispatch does."""
        try:
            return await self.sessions.sign_in(Request(session, now_ms()), SignIn(device_id=device_id, token=token))
        finally:
            after, session.after_reply = session.after_reply, None
            if after is not None:
                after()

    async def sockets(self, user_id: int) -> int:
        return (await self.presence.tracker.states([user_id]))[user_id].sockets


MakeNode = Callable[[], Awaitable[Node]]


@pytest.fixture
async def make(pool: asyncpg.Pool, redis: aioredis.Redis, redis_url: str) -> AsyncIterator[MakeNode]:
    parts: list[tuple[Presence, Hub, Channels, Broker]] = []

    async def make() -> Node:
        name, broker, accounts = uuid4().hex, Broker(redis_url), Interrupted(pool)
        hub = Hub(broker)
        presence = Presence(broker, hub, node=name, profiles=accounts, resolve=accounts.resolve)
        channels = Channels(broker, hub, node=name)
        await hub.start()
        await presence.start()
        parts.append((presence, hub, channels, broker))
        sessions = Sessions(
            verifiers=Verifiers([JwtVerifier(KEYS, issuer="i", audience="a", default_tenant="main")]),
            accounts=accounts,
            hub=hub,
            node=name,
            arrivals=Arrivals(presence, channels),
            rates=Rates(Limits(connection=Rate(1_000, 1_000))),
            snapshots={},
            heartbeat_ms=1_000,
            confirm_s=CONFIRM_S,
        )
        return Node(sessions, accounts, presence, hub)

    yield make
    for presence, hub, channels, broker in parts:
        await presence.close()
        await hub.close()
        await channels.close()
        await broker.close()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def token_of(user: str = "ravi", *, life_ms: int = 60_000) -> str:
    return mint(KEYS, issuer="i", audience="a", tenant="main", user=user, now_ms=now_ms(), life_ms=life_ms)


def session() -> Session:
    return Session(Recorder())


def closed_with(session: Session) -> int | None:
    """Return the code with which the server closed the connection, or None."""
    conn: Any = session.conn
    code: int | None = conn.closed_with
    return code


def any_closed(sessions: Sequence[Session]) -> bool:
    return any(closed_with(one) is not None for one in sessions)


async def test_a_sign_out_everywhere_in_the_middle_of_a_sign_in_stops_it(make: MakeNode) -> None:
    one, two = await make(), await make()
    phone, tablet = session(), session()
    token = token_of()
    await one.sign_in(phone, token, "phone")

    async def meanwhile(signed: SignedIn) -> None:
        await asyncio.sleep(0.002)  # the token's instant is over
        await one.sessions.sign_out(Request(phone, now_ms()), SignOut(everywhere=True))

    two.accounts.meanwhile = meanwhile
    with pytest.raises(TokenInvalid):
        await two.sign_in(tablet, token, "tablet")
    assert tablet.principal is None
    assert closed_with(tablet) == CloseCode.SIGNED_OUT
    assert phone.principal is not None
    assert not two.hub.connections(phone.principal.user_id)
    await one.sessions.closed(phone)
    assert await two.sockets(phone.principal.user_id) == 0


async def test_a_token_that_runs_out_while_the_sign_in_waits_is_refused(make: MakeNode) -> None:
    node = await make()
    waiting = session()

    async def meanwhile(signed: SignedIn) -> None:
        expires_at_ms = signed.principal.expires_at_ms
        await until(lambda: now_ms() >= expires_at_ms, "the token is over")

    node.accounts.meanwhile = meanwhile
    with pytest.raises(TokenExpired):
        await node.sign_in(waiting, token_of(life_ms=150))
    assert waiting.principal is None
    assert waiting.conn.principal is None
    assert (await node.accounts.resolve(1, ["ravi"])).keys() == {"ravi"}
    assert await node.sockets((await node.accounts.resolve(1, ["ravi"]))["ravi"]) == 0


async def test_of_one_device_at_two_nodes_at_once_exactly_one_connection_stays(make: MakeNode) -> None:
    nodes = [await make(), await make()]
    token = token_of()
    await nodes[0].sign_in(session(), token, "first")  # the user is known: both run at full speed
    for number in range(10):
        pair = [session(), session()]
        answers = await asyncio.gather(
            *(node.sign_in(one, token, f"d{number}") for node, one in zip(nodes, pair, strict=True))
        )
        assert [answer.user.id for answer in answers] == ["ravi", "ravi"]
        await until(partial(any_closed, pair), "one of the two is closed")
        codes = [closed_with(one) for one in pair]
        assert sorted(codes, key=str) == [CloseCode.REPLACED, None]
        for node, one in zip(nodes, pair, strict=True):
            await node.sessions.closed(one)


async def test_a_device_that_signs_in_again_replaces_itself_and_no_other(make: MakeNode) -> None:
    one, two = await make(), await make()
    token = token_of()
    phone, tablet, again = session(), session(), session()
    await one.sign_in(phone, token, "phone")
    await one.sign_in(tablet, token, "tablet")
    await one.sign_in(again, token, "phone")
    await until(lambda: closed_with(phone) == CloseCode.REPLACED, "the device's first connection goes")
    await one.sessions.closed(phone)
    elsewhere = session()
    await two.sign_in(elsewhere, token, "phone")
    await until(lambda: closed_with(again) == CloseCode.REPLACED, "so does its second, on another node")
    await one.sessions.closed(again)
    assert closed_with(tablet) is None
    assert closed_with(elsewhere) is None
    assert elsewhere.principal is not None
    state = (await two.presence.tracker.states([elsewhere.principal.user_id]))[elsewhere.principal.user_id]
    assert (state.status, state.sockets) == (Status.ONLINE, 2)


async def test_a_device_that_was_signed_out_is_closed_even_if_the_order_was_lost(make: MakeNode) -> None:
    node = await make()
    signed, staying = session(), session()
    await node.sign_in(signed, token_of(), "phone")
    await node.sign_in(staying, token_of("asha"), "phone")
    assert signed.principal is not None
    await node.accounts.sign_out_everywhere(signed.principal.user_id, now_ms=now_ms())  # and nobody is told
    upkeep = asyncio.create_task(node.sessions.run(lambda: [signed, staying]))
    await until(lambda: closed_with(signed) == CloseCode.SIGNED_OUT, "the socket is closed")
    upkeep.cancel()
    await asyncio.gather(upkeep, return_exceptions=True)
    assert closed_with(staying) is None


async def test_a_sign_in_that_cannot_reach_the_database_ends_with_a_close_that_lets_the_client_come_back(
    make: MakeNode,
) -> None:
    node = await make()
    await node.sign_in(session(), token_of(), "phone")
    await node.accounts.close()
    late = session()
    with pytest.raises(Unavailable):
        await node.sign_in(late, token_of(), "phone")
    assert closed_with(late) == CloseCode.OVERLOADED
    assert CloseCode.OVERLOADED.reconnect


async def test_a_connection_that_goes_while_it_signs_in_leaves_nothing_behind(make: MakeNode) -> None:
    node = await make()
    gone = session()
    known = session()
    await node.sign_in(known, token_of(), "phone")
    assert known.principal is not None

    async def meanwhile(signed: SignedIn) -> None:
        gone.closed = True

    node.accounts.meanwhile = meanwhile
    with pytest.raises(Exception, match="closed while it signed in"):
        await node.sign_in(gone, token_of(), "tablet")
    assert node.hub.connections(known.principal.user_id) == [known.conn]
    assert await node.sockets(known.principal.user_id) == 1
