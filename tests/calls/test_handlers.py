"""The call.* and wallet operations as a socket meets them: schemas, keys, repeats, both codecs."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from realtime.calls.handlers import CallHandlers
from realtime.dispatch import Dispatcher
from realtime.protocol.envelope import CODECS, JSON, MSGPACK, Codec
from realtime.protocol.principal import Principal
from realtime.rates import Limits, Rate, Rates
from realtime.wallet.errors import translate
from realtime.wallet.handlers import WalletHandlers
from tests.calls.world import World

ANSWER_TIMEOUT_S = 10.0


class Line:
    """One signed-in connection without a network: requests go in, answers are waited for."""

    session: Any  # set by dispatch

    def __init__(self, dispatcher: Dispatcher, who: Principal, codec: Codec, number: int) -> None:
        self.id = number
        self.codec = codec
        self.principal = who
        self._dispatcher = dispatcher
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._socket = cast(Any, self)  # what dispatch needs of a socket, and no more
        dispatcher.connected(self._socket)
        self.session.principal = who

    def send_reply(self, payload: bytes) -> None:
        self._answers.put_nowait(self.codec.data_decoder(dict)(payload))

    def heard_ms_ago(self) -> int:
        return 0

    def send(self, op: str, data: dict[str, Any], *, key: str | None = None) -> None:
        frame = {"id": 1, "op": op, "data": data} | ({"key": key} if key else {})
        self._dispatcher.received(self._socket, self.codec.encode(frame))

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await self._answers.get()

    async def ask(self, op: str, *, key: str | None = None, **data: Any) -> dict[str, Any]:
        """Return what was answered: `ok`, or the error."""
        self.send(op, data, key=key)
        reply = await self.answer()
        result: dict[str, Any] = reply["ok"] if "ok" in reply else reply["error"]
        return result

    async def do(self, op: str, **data: Any) -> dict[str, Any]:
        return await self.ask(op, key=uuid4().hex, **data)


class Lines:
    """A dispatcher with the routes under test."""

    def __init__(self, world: World) -> None:
        async def nothing(*args: object) -> None:
            return None

        self.dispatcher = Dispatcher(
            outbox=world.outbox,
            pool=world.pool,
            rates=Rates(Limits(connection=Rate(1_000, 1_000))),
            on_closed=nothing,
            on_ack=world.calls.acknowledged,
            translate=translate,
        )
        for handlers in (CallHandlers(world.calls), WalletHandlers(world.wallets)):
            self.dispatcher.add(handlers.routes(), CODECS.values())
        self._count = 0

    def open(self, who: Principal, codec: Codec = JSON) -> Line:
        self._count += 1
        return Line(self.dispatcher, who, codec, self._count)


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
async def test_whole_call_over_the_table_of_operations(world: World, codec: Codec) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    lines = Lines(world)
    caller, host = lines.open(ann, codec), lines.open(mia, codec)
    invited = (await caller.do("call.invite", host="mia", media="voice"))["call"]
    call_id = invited["call_id"]
    assert (invited["role"], invited["state"], invited["peer"]["name"]) == ("caller", "inviting", "Mia")
    accepted = await host.do("call.accept", call_id=call_id)
    assert (accepted["call"]["state"], accepted["media"]["provider"]) == ("accepted", "webrtc")
    assert (await caller.ask("call.credentials", call_id=call_id))["media"]["ice_servers"] == []
    for line in (caller, host, caller):
        view = (await line.ask("call.media", call_id=call_id, state="connected"))["call"]
    assert view["state"] == "connected"
    assert await caller.ask("call.signal", call_id=call_id, kind="candidate", payload={"candidate": "x"}) == {}
    await world.talk(UUID(call_id), ms=2_000)
    sent = await caller.do("gift.send", to="mia", gift_id="rose", call_id=call_id)
    assert (sent["wallet"]["coins"], sent["gift"]["emoji"]) == (85, "🌹")
    ended = await host.do("call.hang_up", call_id=call_id, sent_ms_ago=100)
    assert (ended["call"]["reason"], ended["receipt"]["earned_coins"]) == ("hung_up_by_host", 7)
    receipt = (await caller.ask("call.receipt", call_id=call_id))["receipt"]
    assert (receipt["spent_coins"], receipt["paid_coins"], receipt["pulses"]) == (10, 10, 1)
    assert (await caller.ask("call.active"))["calls"] == []
    assert [call["call_id"] for call in (await host.ask("call.history"))["calls"]] == [call_id]
    assert len((await caller.ask("wallet.history"))["entries"]) == 3


async def test_repeated_invite_is_answered_with_the_first_call(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    lines = Lines(world)
    line, again = lines.open(ann), lines.open(ann)
    first = await line.ask("call.invite", key="k1", host="mia", media="voice")
    assert await again.ask("call.invite", key="k1", host="mia", media="voice") == first
    assert (await line.ask("call.invite", key="k1", host="mia", media="video"))["code"] == "key_reused"
    assert (await line.ask("call.invite", key="k2", host="mia", media="voice"))["code"] == "busy"
    await world.cancel(ann, UUID(first["call"]["call_id"]))
    assert await again.ask("call.invite", key="k1", host="mia", media="voice") == first, "also when it is over"
    assert await world.names(mia) == ["call.incoming", "call.ended"]


async def test_invite_sent_twice_at_once_rings_once(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    lines = Lines(world)
    first, second = lines.open(ann), lines.open(ann)
    for line in (first, second):
        line.send("call.invite", {"host": "mia", "media": "voice"}, key="same")
    answers = [await first.answer(), await second.answer()]
    assert answers[0] == answers[1]
    assert await world.names(mia) == ["call.incoming"]


async def test_repeated_hang_up_and_gift_are_done_once(world: World) -> None:
    ann, mia = await world.user("ann", coins=100), await world.host("mia")
    call_id = str(await world.connect(ann, mia))
    await world.talk(UUID(call_id), ms=2_000)
    line = Lines(world).open(ann)
    gifts = [await line.ask("gift.send", key="g", to="mia", gift_id="rose") for _ in range(3)]
    assert gifts[0] == gifts[1] == gifts[2]
    ends = [await line.ask("call.hang_up", key="h", call_id=call_id) for _ in range(3)]
    assert ends[0] == ends[1] == ends[2]
    assert await world.coins(ann) == 85


@pytest.mark.parametrize(
    ("op", "data", "path"),
    [
        ("call.invite", {"host": "mia", "media": "smell"}, "$.media"),
        ("call.invite", {"host": "", "media": "voice"}, "$.host"),
        ("call.invite", {"host": 5, "media": "voice"}, "$.host"),
        ("call.invite", {"media": "voice"}, "$"),
        ("call.accept", {"call_id": "not-a-call"}, "$.call_id"),
        ("call.hang_up", {"call_id": str(uuid4()), "sent_ms_ago": -1}, "$.sent_ms_ago"),
        ("call.media", {"call_id": str(uuid4()), "state": "happy"}, "$.state"),
        ("call.signal", {"call_id": str(uuid4()), "kind": "virus", "payload": 1}, "$.kind"),
        ("call.history", {"limit": 0}, "$.limit"),
        ("call.history", {"limit": 10_000}, "$.limit"),
        ("call.history", {"cursor": "x"}, "$.cursor"),
        ("gift.send", {"to": "mia", "gift_id": "'; drop table"}, "$.gift_id"),
        ("wallet.history", {"limit": "all"}, "$.limit"),
    ],
)
async def test_wrong_data_is_refused_with_its_path(world: World, op: str, data: dict[str, Any], path: str) -> None:
    ann = await world.user("ann", coins=100)
    refused = await Lines(world).open(ann).ask(op, key="k", **data)
    assert (refused["code"], refused["details"]["path"]) == ("invalid_data", path)


@pytest.mark.parametrize(
    ("op", "data", "code"),
    [
        ("call.invite", {"host": "nobody", "media": "voice"}, "not_found"),
        ("call.invite", {"host": "no\0body", "media": "voice"}, "not_found"),
        ("call.invite", {"host": "ann", "media": "voice"}, "self_call"),
        ("call.accept", {"call_id": str(uuid4())}, "not_found"),
        ("call.get", {"call_id": str(uuid4())}, "not_found"),
        ("call.receipt", {"call_id": str(uuid4())}, "not_found"),
        ("call.credentials", {"call_id": str(uuid4())}, "not_found"),
        ("call.media", {"call_id": str(uuid4()), "state": "connected"}, "not_found"),
        ("call.signal", {"call_id": str(uuid4()), "kind": "offer", "payload": None}, "not_found"),
        ("call.signal", {"call_id": str(uuid4()), "kind": "offer", "payload": "x" * 17_000}, "payload_too_large"),
        ("gift.send", {"to": "nobody", "gift_id": "rose"}, "not_found"),
        ("wallet.history", {"cursor": "????"}, "invalid_data"),
    ],
)
async def test_what_cannot_be_done_has_its_code(world: World, op: str, data: dict[str, Any], code: str) -> None:
    ann = await world.user("ann", coins=100)
    assert (await Lines(world).open(ann).ask(op, key="k", **data))["code"] == code


async def test_caller_without_coins_is_sent_to_top_up(world: World) -> None:
    ann = await world.user("ann", coins=3)
    await world.host("mia", price_coins=10)
    line = Lines(world).open(ann)
    refused = await line.do("call.invite", host="mia", media="voice")
    assert (refused["code"], refused["next_action"]) == ("insufficient_funds", "top_up")
    refused = await line.do("gift.send", to="mia", gift_id="rose")
    assert (refused["code"], refused["next_action"]) == ("insufficient_funds", "top_up")


@pytest.mark.parametrize(
    "op", ["call.invite", "call.accept", "call.decline", "call.cancel", "call.hang_up", "gift.send"]
)
async def test_what_changes_something_needs_a_key(world: World, op: str) -> None:
    ann = await world.user("ann")
    data = {"call_id": str(uuid4()), "host": "x", "media": "voice", "to": "x", "gift_id": "rose"}
    assert (await Lines(world).open(ann).ask(op, **data))["code"] == "key_required"
