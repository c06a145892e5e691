"""Random histories of a few users: whatever they do, in whatever order, the invariants hold after every step."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from realtime.calls.model import State
from realtime.calls.views import CallView
from realtime.protocol.errors import TalkmeterError
from realtime.protocol.principal import Principal
from tests.calls.world import Phone, Told, World

STEPS = 150
ORDER = [state.value for state in State]


class History:
    """Users with two devices each who press every button at random."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.users: list[tuple[Principal, Principal]] = []
        self.known: list[UUID] = []
        self.refused: set[str] = set()
        self.done: set[str] = set()

    async def begin(self) -> None:
        for n in range(4):
            phone = await self.world.host(f"user{n}", coins=60, pulse_ms=5_000, device="phone")
            tablet = await self.world.user(f"user{n}", device="tablet")
            self.users.append((phone, tablet))

    async def step(self) -> None:
        """Press one button; a refusal must be a typed one."""
        button = self.chance.choice(self.buttons())
        try:
            await button()
            self.done.add(button.__name__)
        except TalkmeterError as exc:
            self.refused.add(exc.code)

    def buttons(self) -> list[Callable[[], Awaitable[object]]]:
        often = [self.invite, self.invite, self.accept, self.media_up, self.connect, self.time_passes]
        seldom = [self.acknowledge, self.decline, self.cancel, self.hang_up, self.media_down, self.gift, self.silence]
        return [*often, *often, *seldom]

    def somebody(self) -> Principal:
        return self.chance.choice(self.chance.choice(self.users))

    async def some_call(self) -> UUID:
        """Mostly one that is live, sometimes one that is over."""
        live = [UUID(view.call_id) for user, _ in self.users for view in await self.world.calls.active(user.user_id)]
        old = self.known or [await self.first()]
        return self.chance.choice(live or old if self.chance.random() < 0.9 else old)

    async def first(self) -> UUID:
        self.known.append(await self.world.invite(self.users[0][0], self.users[1][0]))
        return self.known[0]

    async def pick(self) -> tuple[Principal, UUID]:
        """A call and a person: mostly one of its two, on the device that has it."""
        call_id = await self.some_call()
        row = await self.world.pool.fetchrow("select * from realtime.calls where id = $1", call_id)
        if row is None or self.chance.random() < 0.2:
            return self.somebody(), call_id
        side = self.chance.choice([("caller_id", "caller_device"), ("host_id", "accepted_device")])
        devices = next(pair for pair in self.users if pair[0].user_id == row[side[0]])
        return next((who for who in devices if who.device_id == row[side[1]]), self.chance.choice(devices)), call_id

    async def invite(self) -> None:
        caller, host = self.somebody(), self.somebody()
        self.known.append(await self.world.invite(caller, host, self.chance.choice(["voice", "video"])))

    async def acknowledge(self) -> None:
        who, call_id = await self.pick()
        await self.world.calls.acknowledged(who, [str(call_id)])

    async def accept(self) -> None:
        await self.world.accept(*await self.pick())

    async def connect(self) -> None:
        """Two who really want to talk."""
        _, call_id = await self.pick()
        call = await self.world.call(call_id)
        caller, host = (
            next(pair for pair in self.users if pair[0].user_id == user) for user in (call.caller_id, call.host_id)
        )
        device = next((who for who in host if who.device_id == call.accepted_device), host[0])
        await self.world.accept(device, call_id)
        await self.world.calls.media_up(next(w for w in caller if w.device_id == call.caller_device), call_id, Phone())
        await self.world.calls.media_up(device, call_id, Phone())

    async def decline(self) -> None:
        await self.world.decline(*await self.pick())

    async def cancel(self) -> None:
        await self.world.cancel(*await self.pick())

    async def hang_up(self) -> None:
        who, call_id = await self.pick()
        await self.world.hang_up(who, call_id, sent_ms_ago=self.chance.randrange(8_000))

    async def media_up(self) -> None:
        who, call_id = await self.pick()
        await self.world.calls.media_up(who, call_id, Phone())

    async def media_down(self) -> None:
        await self.world.calls.media_down(*await self.pick())

    async def gift(self) -> None:
        async with self.world.tx() as tx:
            await self.world.wallets.grant(tx, self.somebody().user_id, coins=7, bucket="promo", reason="test")

    async def time_passes(self) -> None:
        live = [UUID(view.call_id) for user, _ in self.users for view in await self.world.calls.active(user.user_id)]
        await self.world.talk(*live, ms=self.chance.choice([1_000, 4_000, 15_000]))
        await self.world.deadlines.sweep()

    async def silence(self) -> None:
        for _ in range(self.chance.choice([2, 9, 30])):
            self.world.clock.forward(1_000)
            await self.world.report()
            await self.world.tick()
            await self.world.deadlines.sweep()


async def check_now(world: World) -> None:
    """Nobody is in two calls, the busy rows are exactly the users of live calls, and presence was told of them."""
    rows = await world.pool.fetch("select caller_id, host_id from realtime.calls where state <> 'ended'")
    inside = [user for row in rows for user in row]
    assert len(inside) == len(set(inside))
    assert await world.busy() == set(inside) == world.presence.in_call


async def check_told(world: World, who: Principal) -> None:
    """What one user was told of each call grows in version, never goes back, and ends once."""
    told = [t for t in await world.told(who) if t.event.startswith("call.")]
    by_call: dict[str, list[Told]] = {}
    for t in told:
        by_call.setdefault(t.data["call"]["call_id"], []).append(t)
    for call_id, events in by_call.items():
        versions = [t.v for t in events]
        assert versions == sorted(set(versions)), f"{call_id}: {[t.event for t in events]}"
        states = [ORDER.index(t.data["call"]["state"]) for t in events]
        assert states == sorted(states)
        ends = [t for t in events if t.event == "call.ended"]
        call = await world.call(UUID(call_id))
        assert len(ends) == (call.state is State.ENDED)
        if ends:
            assert events[-1].event == "call.ended"
            assert ends[0].data["call"]["reason"] == call.reason
            receipt = ends[0].data.get("receipt")
            assert (receipt is not None) == (call.connected_ms is not None)
            if receipt is not None:
                assert receipt["spent_coins"] == call.spent_coins
                assert receipt["ended_ms"] == call.ended_ms


async def check_wallet(world: World, who: Principal) -> None:
    """The wallet with the highest version that a user was told is the wallet."""
    wallets = [t.data["wallet"] for t in await world.told(who) if "wallet" in t.data]
    newest = max(wallets, key=lambda wallet: int(wallet["v"]))
    now = await world.wallets.get(who.user_id)
    assert (newest["coins"], newest["earned"], newest["v"]) == (now.coins, now.earned, now.v)


async def check_receipt(world: World, who: Principal, view: CallView) -> None:
    """A receipt's lines follow each other from the invite to the end, and its sums are the call's."""
    if view.connected_ms is None:
        return
    receipt = await world.calls.receipt(who, UUID(view.call_id))
    edges = [(line.from_ms, line.until_ms) for line in receipt.lines]
    assert [start for start, _ in edges[1:]] == [end for _, end in edges[:-1]]
    if edges:
        assert (edges[0][0], edges[-1][1]) == (view.created_ms, view.ended_ms)
    given_back = sum(refund.coins for refund in receipt.refunds)
    assert sum(line.coins for line in receipt.lines) - given_back <= receipt.spent_coins
    assert receipt.spent_coins == view.spent_coins
    assert receipt.earned_coins == view.earned_coins or view.role == "caller"


@pytest.mark.parametrize("seed", range(6))
async def test_any_history_keeps_the_invariants(world: World, seed: int) -> None:
    history = History(world, seed)
    await history.begin()
    for _ in range(STEPS):
        await history.step()
        await check_now(world)
    await history.silence()
    for _ in range(3):  # the longest deadline of each state, one after the other
        world.clock.forward(world.limits.watch_ms)
        await world.tick()
        await world.deadlines.sweep()
    await world.news.consume()
    await check_now(world)
    assert await world.busy() == set(), "every call has ended by itself"
    for who, _ in history.users:
        await check_told(world, who)
        await check_wallet(world, who)
        views, _ = await world.calls.history(who.user_id, before=None, limit=100)
        for view in views:
            await check_receipt(world, who, view)
    assert {"invite", "connect", "hang_up"} <= history.done, "the history was no history"
