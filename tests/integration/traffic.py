"""People who talk, write, give and ring all the time, and note what they were told: for restarts under load.

Owns the traffic and the comparison of what was told with the books. Nothing here restarts anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from billing import metering
from billing.audit import audit
from realtime.client import Client
from realtime.client.backoff import Backoff
from realtime.client.endings import ending
from tests.integration.calling import Player, talk
from tests.integration.node import Node, until

PULSE_MS = 1_000
COINS = 1_000_000
PACE_S = 0.1  # between two messages of one sender: the load is the number of people, not their haste
RING_PACE_S = 1.0  # a caller may ring 60 times a minute
APP = Backoff(base_ms=500, cap_ms=5_000)  # as apps have it, with jitter
WITNESS_RETRY_S = 0.1
GIVE_UP_S = 30.0


class Witness:
    """A second device that keeps its own position and nothing else, so that no client library hides a repeat.

    Attributes:
        event_ids: of every logged event, in the order of arrival.
        faults: what must not be: a gap, a repeat, a resume that recovered nothing.
        closes: why its connections ended, as the client words it.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._epoch, self._offset = "", 0
        self.event_ids: list[str] = []
        self.faults: list[str] = []
        self.closes: list[str] = []
        self.signed_in = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled; comes back whenever the server lets go."""
        while True:
            with contextlib.suppress(OSError, InvalidHandshake, TimeoutError):
                await self._watch()
            await asyncio.sleep(WITNESS_RETRY_S)

    async def _watch(self) -> None:
        async with connect(self._url, subprotocols=[Subprotocol("talkmeter.v1.json")], proxy=None) as socket:
            streams = [{"stream": "user", "epoch": self._epoch, "offset": self._offset}] if self._epoch else []
            data = {"token": self._token, "device_id": "witness", "streams": streams}
            try:
                await socket.send(json.dumps({"id": 1, "op": "session.sign_in", "data": data}))
                while True:
                    self._saw(json.loads(await socket.recv()))
            except ConnectionClosed as closed:
                self.closes.append(str(ending(closed)))

    def _saw(self, frame: dict[str, Any]) -> None:
        if "re" in frame:
            if "error" in frame:
                return  # this connection is of no use, the next one may be: a sign-in can meet a drain
            head = frame["ok"]["stream"]
            if self._epoch and not frame["ok"]["recovered"]:
                self.faults.append("nothing was recovered")
            if not self._epoch:
                self._epoch, self._offset = head["epoch"], head["offset"]
            self.signed_in.set()
        elif frame.get("offset"):
            if (frame["epoch"], frame["offset"]) != (self._epoch, self._offset + 1):
                self.faults.append(f"{frame['event']} at {frame['offset']} came after {self._offset}")
            self._epoch, self._offset = frame["epoch"], frame["offset"]
            self.event_ids.append(frame["event_id"])


@dataclass
class Pair:
    """A caller and a host, and what the caller was told of his requests."""

    caller: Player
    host: Player
    caller_id: str
    host_id: str
    witnesses: tuple[Witness, Witness]
    call_id: str = ""
    said: list[str] = field(default_factory=list)
    gifts: int = 0
    rung: list[str] = field(default_factory=list)

    @property
    def sides(self) -> tuple[tuple[Player, Witness], tuple[Player, Witness]]:
        return (self.caller, self.witnesses[0]), (self.host, self.witnesses[1])

    async def connect(self) -> None:
        """Begin the call that lasts."""
        self.call_id = await talk(self.caller, self.host, self.host_id)

    async def chat_and_give(self, stop: asyncio.Event) -> None:
        """Write, ping, and give a rose now and then; every request must be answered with ok."""
        while not stop.is_set():
            sent = await self.caller.ask("chat.send", to=self.host_id, kind="text", body=str(len(self.said) + 1))
            self.said.append(sent["message"]["body"])
            await self.host.ask("session.ping")
            if len(self.said) % 5 == 0:
                await self.caller.ask("gift.send", to=self.host_id, gift_id="rose", call_id=self.call_id)
                self.gifts += 1
            await asyncio.sleep(PACE_S)

    async def ring(self, stop: asyncio.Event) -> None:
        """Ring, answer, talk, hang up, again and again; no call may end in another way."""
        while not stop.is_set():
            call_id = await talk(self.caller, self.host, self.host_id)
            await self.hang_up(call_id)
            self.rung.append(call_id)
            await asyncio.sleep(RING_PACE_S)

    async def hang_up(self, call_id: str) -> None:
        """End a call, and see that both are told of that end and no other."""
        for player in (self.caller, self.host):
            await player.stop_proving()
        answer = await self.caller.ask("call.hang_up", call_id=call_id)
        assert answer["call"]["reason"] == "hung_up_by_caller", answer
        for player in (self.caller, self.host):
            ended = await player.wait_for("call.ended", call_id=call_id)
            assert ended.data["call"]["reason"] == "hung_up_by_caller"


@dataclass
class Crowd:
    """Everybody: pairs that talk all the time, and pairs that ring and hang up."""

    talking: list[Pair]
    ringing: list[Pair]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pairs(self) -> list[Pair]:
        return [*self.talking, *self.ringing]

    def begin(self) -> None:
        """Start the traffic; the talking pairs are in their calls."""
        work = [pair.chat_and_give(self.stop) for pair in self.talking] + [p.ring(self.stop) for p in self.ringing]
        self.tasks = [asyncio.create_task(each) for each in work]

    def check(self) -> None:
        """Raise what any of the traffic met: a refusal, a call that ended, an answer that did not come."""
        for task in self.tasks:
            if task.done():
                task.result()

    async def go_on(self, *, charges: int = 2) -> None:
        """Wait until every talking pair has been charged so often again, and every ringing pair has had a call."""

        def done() -> list[int]:
            charged = [pair.caller.names().count("call.charged") // charges for pair in self.talking]
            return charged + [len(pair.said) for pair in self.talking] + [len(pair.rung) for pair in self.ringing]

        before = done()
        async with asyncio.timeout(GIVE_UP_S):
            while not all(now > then for now, then in zip(done(), before, strict=True)):
                self.check()
                await asyncio.sleep(0.05)

    def moves(self) -> Counter[str]:
        """Why connections of clients and witnesses ended, and how often."""
        found: Counter[str] = Counter()
        for player, witness in (side for pair in self.pairs for side in pair.sides):
            found.update(
                event.data["reason"]
                for event in player.seen
                if event.name == "client.state" and event.data["state"] == "waiting"
            )
            found.update(witness.closes)
        return found

    async def finish(self, owner: asyncpg.Connection) -> None:
        """End the traffic, hang up, and compare what everybody was told with what everybody else was, and the books."""
        self.check()
        self.stop.set()
        await asyncio.gather(*self.tasks)
        for pair in self.talking:
            await pair.hang_up(pair.call_id)
        for pair in self.pairs:
            await _told_once(pair)
            await _booked_once(owner, pair)
        report = await audit(owner)
        assert report.ok, report


async def _told_once(pair: Pair) -> None:
    """Every logged event reached both devices of each once and in order; every connection after the first resumed."""
    await pair.host.wait_for("chat.message", count=len(pair.said)) if pair.said else None
    await pair.host.wait_for("gift.received", count=pair.gifts) if pair.gifts else None
    bodies = [event.data["message"]["body"] for event in pair.host.seen if event.name == "chat.message"]
    assert bodies == pair.said
    assert pair.host.names().count("gift.received") == pair.gifts
    for player, witness in pair.sides:
        sign_ins = [event.data["recovered"] for event in player.seen if event.name == "client.signed_in"]
        assert all(sign_ins[1:]), "a resume recovered nothing"
        assert not witness.faults, witness.faults
        heard = [event.event_id for event in player.seen if event.offset]
        heard = heard[heard.index(witness.event_ids[0]) :]
        assert await until(partial(_heard_by, witness, len(heard))) == heard
        assert len(set(heard)) == len(heard)


async def _heard_by(witness: Witness, count: int) -> list[str]:
    """Return what the witness has heard, once it is so much."""
    return witness.event_ids if len(witness.event_ids) >= count else []


async def _booked_once(owner: asyncpg.Connection, pair: Pair) -> None:
    """What was acknowledged is there once; every second of every call was charged once, and none was free."""
    bodies = await owner.fetch(
        "select m.body from realtime.messages m join realtime.users u on u.id = m.sender_id "
        "where u.external_id = $1 order by m.seq",
        pair.caller_id,
    )
    assert [row["body"] for row in bodies] == pair.said
    gifts = await owner.fetchval(
        "select count(*) from billing.transfers t join realtime.users u on u.id = t.debit_owner "
        "where u.external_id = $1 and t.kind = 'gift' and t.refused is null",
        pair.caller_id,
    )
    assert gifts == pair.gifts
    calls = await owner.fetch(
        "select c.id from realtime.calls c join realtime.users u on u.id = c.caller_id "
        "where u.external_id = $1 order by c.created_ms",
        pair.caller_id,
    )
    assert [str(row["id"]) for row in calls] == ([pair.call_id] if pair.call_id else pair.rung)
    for row in calls:
        receipt = await metering.receipt(owner, row["id"])
        assert receipt.started_ms is not None
        assert receipt.ended_ms is not None
        assert {segment.kind for segment in receipt.segments} <= {"ringing", "connecting", "charged"}, receipt.segments
        talked_ms = receipt.ended_ms - receipt.started_ms
        assert receipt.time_ms("charged") == talked_ms
        periods = [(pulse.period, pulse.begins_ms) for pulse in receipt.pulses]
        wanted = [(n + 1, receipt.started_ms + n * PULSE_MS) for n in range(max(1, -(-talked_ms // PULSE_MS)))]
        assert periods == wanted


@contextlib.asynccontextmanager
async def crowd(
    node: Node, urls: Sequence[str], owner: asyncpg.Connection, *, talking: int, ringing: int
) -> AsyncIterator[Crowd]:
    """Everybody signed in and at it, spread over the socket addresses; the traffic must be ended by `finish`."""
    async with contextlib.AsyncExitStack() as stack:
        turn = itertools.cycle(urls)

        async def arrive(user: str, **wishes: Any) -> tuple[Player, Witness]:
            token = await node.token(user, **wishes)
            client = Client(next(turn), token=token, device_id="phone", backoff=APP)
            player, witness = Player(await stack.enter_async_context(client)), Witness(next(turn), token)
            stack.push_async_callback(_end, asyncio.create_task(witness.run()))
            stack.push_async_callback(player.stop_proving)
            await asyncio.wait_for(witness.signed_in.wait(), GIVE_UP_S)
            return player, witness

        async def pair(number: int) -> Pair:
            caller_id, host_id = f"caller{number}", f"host{number}"
            host, sees_host = await arrive(host_id, host=True, price_coins=2, pulse_ms=PULSE_MS)
            caller, sees_caller = await arrive(caller_id, coins=COINS)
            return Pair(caller, host, caller_id, host_id, (sees_caller, sees_host))

        pairs = await asyncio.gather(*(pair(number) for number in range(talking + ringing)))
        everybody = Crowd(pairs[:talking], pairs[talking:])
        await asyncio.gather(*(each.connect() for each in everybody.talking))
        everybody.begin()
        for task in everybody.tasks:
            stack.push_async_callback(_end, task)
        await everybody.go_on()
        yield everybody
        await everybody.finish(owner)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
