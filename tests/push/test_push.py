"""From a durable event to a phone: outbox, planner, queue, firebase-admin, and what the ledger says afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from realtime.accounts.handlers import AccountHandlers
from realtime.accounts.service import Accounts
from realtime.calls.views import CallChanged, CallView
from realtime.calls.views import Peer as CallPeer
from realtime.chat.handlers import ChatHandlers
from realtime.chat.messages import TypingEvent
from realtime.chat.service import Chat
from realtime.config import SettingsError
from realtime.push.decide import Alert
from realtime.push.delivery import PushDelivery
from realtime.push.fcm import FcmSender
from realtime.push.handlers import PushHandlers
from realtime.push.kinds import DAY_MS
from realtime.push.parts import PushParts
from realtime.push.planner import PUSHES_PER_JOB_MAX, PushPlanner, Wanted
from realtime.push.service import LEDGER_DAYS, Pushes
from realtime.push.worker import PushWorker
from tests.accounts.peer import Peer, Peers
from tests.push.fake_fcm import UNREGISTERED, FakeFcm, Reply

NOW_MS = 1_790_000_000_000


def incoming(call_id: UUID, **changed: Any) -> CallChanged:
    """Return the data of a call's events as the calls feature makes it."""
    values: dict[str, Any] = {
        "call_id": str(call_id),
        "v": 1,
        "state": "inviting",
        "media": "video",
        "role": "host",
        "peer": CallPeer("carl", "Carl", ""),
        "price_coins": 10,
        "pulse_ms": 60_000,
        "created_ms": NOW_MS,
        "ring_deadline_ms": NOW_MS + 30_000,
        "spent_coins": 0,
    }
    return CallChanged(CallView(**values | changed))


@dataclass
class World:
    """Everything of push on one node, with a clock that tests set and no worker until they start it."""

    pool: asyncpg.Pool
    peers: Peers
    accounts: Accounts
    planner: PushPlanner
    delivery: PushDelivery
    pushes: Pushes
    chat: Chat
    fcm: FakeFcm
    online: set[int] = field(default_factory=set)
    now_ms: int = NOW_MS

    async def phone(self, user: str, device_id: str = "phone", **more: Any) -> Peer:
        """Sign a user in on a device that has registered for pushes."""
        peer = await self.peers.sign_in(user, device_id=device_id, **more)
        await peer.ok("device.register", {"push_kind": "fcm", "push_address": f"{user}-{device_id}"})
        return peer

    async def relay(self) -> None:
        await self.peers.events()

    async def jobs(self) -> list[tuple[bytes, int, float]]:
        """Return payload, priority and remaining delay of the queued jobs, in order."""
        rows = await self.pool.fetch(
            "select payload, priority, extract(epoch from execute_after - created)::float8 as delay_s "
            "from realtime.pgqueuer order by id"
        )
        return [(row["payload"], row["priority"], row["delay_s"]) for row in rows]

    async def attempt(self, tried: int = 0) -> list[int | None]:
        """Run each queued job once, without the queue around it."""
        return [await self.delivery.handle(payload, tried) for payload, _, _ in await self.jobs()]

    async def states(self) -> dict[str, str]:
        """Return the state of each push by its kind."""
        return {row["kind"]: row["state"] for row in await self.pool.fetch("select kind, state from realtime.pushes")}

    async def ring(self, host: Peer, *, event_id: UUID | None = None, **changed: Any) -> UUID:
        """Emit an incoming call to a host; return the call's id, which is the event's."""
        call_id = event_id or uuid4()
        await self.tell("call.incoming", host, self.call(call_id, **changed), event_id=call_id)
        return call_id

    def call(self, call_id: UUID, **changed: Any) -> CallChanged:
        return incoming(call_id, **{"ring_deadline_ms": self.now_ms + 30_000} | changed)

    async def tell(self, event: str, user: Peer, data: msgspec.Struct, *, event_id: UUID | None = None) -> None:
        async with self.peers.outbox.transaction(user.principal.tenant_id) as tx:
            tx.emit(event, to=[user.user_id], data=data, event_id=event_id)
        await self.relay()

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(PushWorker(self.pool, self.delivery).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world(pool: asyncpg.Pool, fcm: FakeFcm, sender: FcmSender) -> AsyncIterator[World]:
    accounts = Accounts(pool)
    worlds: list[World] = []

    async def online(user_ids: Collection[int]) -> set[int]:
        return worlds[0].online & set(user_ids)

    def clock() -> int:
        return worlds[0].now_ms

    planner = PushPlanner(accounts, online=online, clock=clock)
    peers = Peers(pool, accounts, planner=planner)
    delivery = PushDelivery(pool, accounts, sender, clock=clock)
    pushes = Pushes(pool)

    async def nowhere(user_id: int, event: str, data: TypingEvent) -> None:
        raise AssertionError(event)

    chat = Chat(pool, peers.outbox, accounts, publish_ephemeral=nowhere)
    worlds.append(World(pool, peers, accounts, planner, delivery, pushes, chat, fcm))
    peers.add(AccountHandlers(accounts).routes())
    peers.add(ChatHandlers(chat).routes())
    peers.add(PushHandlers(pushes).routes())
    yield worlds[0]
    await peers.close()


async def eventually(check: Callable[[], Any], expected: Any) -> None:
    """Wait until an awaited value is what it should be."""
    value = None
    for _ in range(1_000):
        value = await check()
        if value == expected:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(value)


async def test_a_message_to_a_sleeping_phone_arrives_through_the_queue(world: World) -> None:
    alice = await world.phone("alice", name="Alice")
    await world.phone("bob")
    async with world.worker():
        sent = (await alice.ok("chat.send", {"to": "bob", "body": "wake up"}))["message"]
        await world.relay()
        (message,) = await world.fcm.accepted(1)
        await eventually(world.states, {"message": "sent"})
    assert message["token"] == "bob-phone"
    assert (message["data"]["message_id"], message["data"]["from"]) == (sent["message_id"], "alice")
    assert message["android"]["notification"]["title"] == "Alice"
    assert message["android"]["notification"]["body"] == "wake up"


async def test_nobody_is_pushed_who_is_connected_or_has_no_phone(world: World) -> None:
    alice, bob = await world.phone("alice"), await world.phone("bob")
    await world.peers.sign_in("carol")
    world.online.add(bob.user_id)
    for to in ("bob", "carol"):
        await alice.ok("chat.send", {"to": to, "body": "x"})
    await world.relay()
    assert await world.jobs() == []


async def test_a_push_is_queued_when_and_only_when_its_event_is_relayed(world: World) -> None:
    host = await world.phone("hanna")

    async def relayed_and_lost() -> None:
        async with world.pool.acquire() as conn, conn.transaction():
            await world.planner.plan(conn, world.peers.published.rows)
            raise ZeroDivisionError

    async with world.peers.outbox.transaction(host.principal.tenant_id) as tx:
        tx.emit("call.incoming", to=[host.user_id], data=world.call(uuid4()), push=False)
    await world.relay()
    with pytest.raises(ZeroDivisionError):
        await relayed_and_lost()
    assert (await world.jobs(), await world.states()) == ([], {})


async def test_one_thing_is_told_once_however_often_its_event_comes(world: World) -> None:
    host = await world.phone("hanna")
    call_id = await world.ring(host)
    await world.ring(host, event_id=call_id)
    assert len(await world.jobs()) == 1
    assert await world.attempt() == [None]
    assert await world.attempt() == [None]
    assert len(world.fcm.messages) == 1


async def test_a_ring_carries_its_end_and_lives_no_longer(world: World) -> None:
    host = await world.phone("hanna")
    await world.ring(host)
    ((_, priority, delay_s),) = await world.jobs()
    assert (priority > 0, delay_s) == (True, 0.0)
    world.now_ms += 10_000
    await world.attempt()
    (message,) = world.fcm.messages
    assert message["android"]["ttl"] == "20s"
    assert message["data"]["expires_ms"] == str(NOW_MS + 30_000)


async def test_a_ring_that_is_over_is_not_sent(world: World) -> None:
    host = await world.phone("hanna")
    await world.ring(host)
    world.now_ms += 30_000
    await world.attempt()
    assert (world.fcm.messages, await world.states()) == ([], {"incoming_call": "expired"})


async def test_a_connected_host_is_pushed_only_when_no_device_confirms_the_ring(world: World) -> None:
    host = await world.phone("hanna")
    world.online.add(host.user_id)
    confirmed, unheard = await world.ring(host), await world.ring(host)
    delays = [delay_s for _, _, delay_s in await world.jobs()]
    assert delays == [2.0, 2.0]
    await world.pushes.confirm(host.user_id, [str(confirmed), "no id"], now_ms=world.now_ms)
    await world.attempt()
    assert [message["data"]["call_id"] for message in world.fcm.messages] == [str(unheard)]


async def test_a_confirmation_that_comes_before_the_relay_counts_as_well(world: World) -> None:
    host = await world.phone("hanna")
    world.online.add(host.user_id)
    call_id = uuid4()
    await world.pushes.confirm(host.user_id, [str(call_id)], now_ms=world.now_ms)
    await world.ring(host, event_id=call_id)
    await world.attempt()
    assert (world.fcm.messages, await world.states()) == ([], {"incoming_call": "unneeded"})


async def test_somebody_elses_confirmation_changes_nothing(world: World) -> None:
    host, other = await world.phone("hanna"), await world.phone("otto")
    call_id = await world.ring(host)
    await world.pushes.confirm(other.user_id, [str(call_id)], now_ms=world.now_ms)
    await world.attempt()
    assert len(world.fcm.messages) == 1


async def test_a_cancelled_ring_is_taken_back_from_phones_that_have_it(world: World) -> None:
    host = await world.phone("hanna")
    world.online.add(host.user_id)
    rung, unsent = await world.ring(host), await world.ring(host)
    first, _ = await world.jobs()
    await world.delivery.handle(first[0], 0)
    for call_id in (rung, unsent):
        await world.tell("call.ended", host, world.call(call_id, reason="cancelled"))
    await world.attempt()
    told = [(message["data"]["kind"], message["data"]["call_id"]) for message in world.fcm.messages]
    assert told == [("incoming_call", str(rung)), ("call_cancelled", str(rung))]


async def test_a_missed_call_is_told_once_to_a_sleeping_host(world: World) -> None:
    host = await world.phone("hanna")
    call_id = await world.ring(host)
    await world.attempt()
    for _ in range(2):
        await world.tell("call.ended", host, world.call(call_id, reason="missed"))
    await world.attempt()
    kinds = [message["data"]["kind"] for message in world.fcm.messages]
    assert kinds == ["incoming_call", "missed_call"]


async def test_an_answer_elsewhere_silences_the_other_phone_only(world: World) -> None:
    host = await world.phone("hanna", "phone")
    await world.phone("hanna", "tablet")
    call_id = await world.ring(host)
    await world.attempt()
    assert len(world.fcm.messages) == 2
    await world.tell("call.answered_elsewhere", host, world.call(call_id, accepted_device="tablet"))
    await world.attempt()
    assert [message["token"] for message in world.fcm.messages[2:]] == ["hanna-phone"]
    assert world.fcm.messages[2]["data"]["kind"] == "call_cancelled"


async def test_a_dead_address_is_forgotten_and_the_other_device_gets_it(world: World) -> None:
    host = await world.phone("hanna", "phone")
    await world.phone("hanna", "tablet")
    world.fcm.always["hanna-phone"] = UNREGISTERED
    await world.ring(host)
    assert await world.attempt() == [None]
    assert [message["token"] for message in world.fcm.messages] == ["hanna-tablet"]
    targets = await world.accounts.push_targets([host.user_id])
    assert [target.device_id for target in targets] == ["tablet"]
    rows = await world.pool.fetch("select device_id, state from realtime.push_deliveries order by device_id")
    assert [tuple(row) for row in rows] == [("phone", "dead"), ("tablet", "sent")]


async def test_a_push_that_no_device_could_take_has_failed(world: World) -> None:
    host = await world.phone("hanna")
    world.fcm.always["hanna-phone"] = UNREGISTERED
    await world.ring(host)
    await world.attempt()
    assert await world.states() == {"incoming_call": "failed"}


async def test_a_device_that_unregistered_meanwhile_is_left_alone(world: World) -> None:
    host = await world.phone("hanna")
    await world.ring(host)
    await host.ok("device.unregister", {})
    await world.attempt()
    assert (world.fcm.messages, await world.states()) == ([], {"incoming_call": "unreachable"})


async def test_only_what_failed_is_tried_again_as_late_as_the_service_wants(world: World) -> None:
    host = await world.phone("hanna", "phone")
    await world.phone("hanna", "tablet")
    world.fcm.replies["hanna-phone"] = [Reply(429, "QUOTA_EXCEEDED", retry_after="6")]
    await world.ring(host)
    assert await world.attempt() == [6_000]
    assert await world.states() == {"incoming_call": "sending"}
    world.now_ms += 6_000
    assert await world.attempt(1) == [None]
    assert [message["token"] for message in world.fcm.messages] == ["hanna-tablet", "hanna-phone"]
    assert await world.states() == {"incoming_call": "sent"}


async def test_a_ring_is_not_tried_beyond_its_end(world: World) -> None:
    host = await world.phone("hanna")
    world.fcm.always["hanna-phone"] = Reply(429, "QUOTA_EXCEEDED", retry_after="40")
    await world.ring(host)
    assert await world.attempt() == [None]
    assert await world.states() == {"incoming_call": "failed"}


async def test_the_queue_tries_again_by_itself(world: World) -> None:
    host = await world.phone("hanna")
    world.fcm.replies["hanna-phone"] = [Reply(429, "QUOTA_EXCEEDED")]
    async with world.worker():
        await world.ring(host)
        await world.fcm.accepted(1)
        await eventually(world.states, {"incoming_call": "sent"})
        await eventually(world.jobs, [])


async def test_a_job_that_fails_is_not_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await world.phone("hanna")
    failing = True
    real = world.delivery.handle

    async def handle(payload: bytes, tried: int) -> int | None:
        nonlocal failing
        if failing:
            failing = False
            raise ConnectionError("the database is away")
        return await real(payload, tried)

    monkeypatch.setattr(world.delivery, "handle", handle)
    async with world.worker():
        await world.ring(host)
        await world.fcm.accepted(1)


async def test_two_workers_send_each_push_once(world: World) -> None:
    alice = await world.phone("alice")
    for number in range(12):
        await world.phone(f"user{number}")
    async with world.worker(), world.worker():
        for number in range(12):
            await alice.ok("chat.send", {"to": f"user{number}", "body": "x"})
            await world.relay()
        await world.fcm.accepted(12)
        await eventually(world.jobs, [])
    assert sorted(message["token"] for message in world.fcm.messages) == sorted(
        f"user{number}-phone" for number in range(12)
    )


async def test_many_pushes_are_cut_into_jobs(world: World) -> None:
    host = await world.phone("hanna")
    alerts = [
        Alert(kind="reminder", thing=f"b-{number}", expires_ms=NOW_MS + 1_000, args={"booking_id": f"b-{number}"})
        for number in range(PUSHES_PER_JOB_MAX + 1)
    ]
    wanted = [Wanted(host.principal.tenant_id, host.user_id, None, alert) for alert in alerts]
    async with world.pool.acquire() as conn, conn.transaction():
        await world.planner.queue(conn, wanted)
    sizes = [len(msgspec.json.decode(payload)) for payload, _, _ in await world.jobs()]
    assert sizes == [PUSHES_PER_JOB_MAX, 1]


async def test_texts_too_long_for_a_push_are_cut(world: World) -> None:
    host = await world.phone("hanna")
    alert = Alert(kind="withdrawal", thing="w", expires_ms=NOW_MS + 1_000, args={"outcome": "ä" * 9_000, "x": "y"})
    async with world.pool.acquire() as conn, conn.transaction():
        await world.planner.queue(conn, [Wanted(host.principal.tenant_id, host.user_id, None, alert)])
    await world.attempt()
    (message,) = world.fcm.messages
    assert len(msgspec.json.encode(message)) < 4_096
    assert message["data"]["x"] == "y"


async def test_what_a_device_reports_is_written_and_never_taken_back(world: World) -> None:
    host = await world.phone("hanna")
    other = await world.phone("otto")
    await world.ring(host)
    await world.attempt()
    push_id = world.fcm.messages[0]["data"]["push_id"]

    async def state() -> tuple[Any, ...]:
        row = await world.pool.fetchrow(
            "select state, received_ms is not null as r, shown_ms is not null as s, acted_ms is not null as a "
            "from realtime.push_deliveries"
        )
        assert row is not None
        return tuple(row)

    assert await state() == ("sent", False, False, False)
    await host.ok("push.report", {"push_id": push_id, "state": "received"})
    assert await state() == ("received", True, False, False)
    await host.ok("push.report", {"push_id": push_id, "state": "acted"})
    await host.ok("push.report", {"push_id": push_id, "state": "shown"})
    assert await state() == ("acted", True, True, True)
    for peer, id_ in ((other, push_id), (host, str(uuid4())), (host, "nonsense")):
        error = await peer.error("push.report", {"push_id": id_, "state": "shown"})
        assert error["code"] == "not_found"


async def test_a_muted_category_is_silent_but_for_its_essentials(world: World) -> None:
    alice, bob = await world.phone("alice"), await world.phone("bob")
    for category in ("messages", "calls"):
        settings = await bob.ok("push.mute", {"category": category, "muted": True})
    muted = {one["category"]: (one["muted"], one["essential"]) for one in settings["categories"]}
    assert muted["calls"] == (True, ["incoming_call", "call_cancelled"])
    assert muted["money"] == (False, ["withdrawal"])
    await alice.ok("chat.send", {"to": "bob", "body": "x"})
    call_id = await world.ring(bob)
    await world.attempt()
    await world.tell("call.ended", bob, world.call(call_id, reason="missed"))
    await world.attempt()
    assert [message["data"]["kind"] for message in world.fcm.messages] == ["incoming_call", "call_cancelled"]
    await bob.ok("push.mute", {"category": "messages", "muted": False})
    settings = await bob.ok("push.settings", {})
    assert {one["category"] for one in settings["categories"] if one["muted"]} == {"calls"}


async def test_the_ledger_is_kept_for_its_time_and_no_longer(world: World) -> None:
    host = await world.phone("hanna")
    await world.ring(host)
    await world.attempt()
    await world.pushes.confirm(host.user_id, [str(uuid4())], now_ms=world.now_ms)
    assert await world.pushes.purge(now_ms=world.now_ms + DAY_MS) == 0
    assert await world.pushes.purge(now_ms=world.now_ms + (LEDGER_DAYS + 1) * DAY_MS) == 2
    assert await world.pool.fetchval("select count(*) from realtime.push_deliveries") == 0


async def test_a_worker_that_is_stopped_ends_what_is_under_way(world: World) -> None:
    host = await world.phone("hanna")
    gate = asyncio.Event()
    world.fcm.replies["hanna-phone"] = [Reply(200, body=b'{"name": "late"}', after=gate)]
    async with world.worker() as task:
        await world.ring(host)
        await asyncio.wait_for(world.fcm.asked.wait(), 20)
        task.cancel()
        gate.set()
        await asyncio.gather(task, return_exceptions=True)
    assert (await world.states(), await world.jobs()) == ({"incoming_call": "sent"}, [])


async def test_a_worker_outlives_the_loss_of_its_connections(world: World, owner: asyncpg.Connection) -> None:
    host = await world.phone("hanna")
    async with world.worker():
        await world.ring(host)
        await world.fcm.accepted(1)
        await owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        await world.pool.expire_connections()
        await world.ring(host)
        await world.fcm.accepted(2)


async def test_a_wrong_service_account_is_named(pool: asyncpg.Pool, tmp_path: Path) -> None:
    async def nobody(user_ids: Collection[int]) -> set[int]:
        return set()

    wrong = tmp_path / "account.json"
    wrong.write_text('{"type": "service_account"}')
    for path in (wrong, tmp_path / "missing.json"):
        with pytest.raises(SettingsError, match="TALKMETER_FIREBASE_CREDENTIALS"):
            PushParts(pool, Accounts(pool), online=nobody, certificate=str(path))


async def test_the_parts_work_together_from_a_service_accounts_file(
    pool: asyncpg.Pool, fcm: FakeFcm, tmp_path: Path
) -> None:
    async def nobody(user_ids: Collection[int]) -> set[int]:
        return set()

    path = tmp_path / "account.json"
    path.write_text(json.dumps(fcm.certificate))
    accounts = Accounts(pool)
    parts = PushParts(pool, accounts, online=nobody, certificate=str(path), url=fcm.url)
    peers = Peers(pool, accounts, planner=parts.planner)
    peers.add(AccountHandlers(accounts).routes())
    host = await peers.sign_in("hanna")
    await host.ok("device.register", {"push_kind": "fcm", "push_address": "phone"})
    task = asyncio.create_task(parts.worker.run())
    try:
        deadline_ms = time.time_ns() // 1_000_000 + 30_000
        async with peers.outbox.transaction(host.principal.tenant_id) as tx:
            tx.emit("call.incoming", to=[host.user_id], data=incoming(uuid4(), ring_deadline_ms=deadline_ms))
        await peers.events()
        (message,) = await fcm.accepted(1)
        assert message["data"]["expires_ms"] == str(deadline_ms)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await parts.close()
        await peers.close()


async def test_a_ring_that_no_socket_confirms_goes_out_by_itself_after_the_grace(world: World) -> None:
    host = await world.phone("hanna")
    world.online.add(host.user_id)
    async with world.worker():
        call_id = await world.ring(host)
        (message,) = await world.fcm.accepted(1)
    assert message["data"]["call_id"] == str(call_id)
    waited = await world.pool.fetchval(
        "select extract(epoch from max(created) filter (where status = 'picked') - min(created))::float8 "
        "from realtime.pgqueuer_log"
    )
    assert waited >= 2.0


async def test_a_ring_never_shares_a_job_with_a_message(world: World) -> None:
    alice, host = await world.phone("alice"), await world.phone("hanna")
    async with world.peers.outbox.transaction(host.principal.tenant_id) as tx:
        tx.emit("call.incoming", to=[host.user_id], data=world.call(uuid4()))
        await world.chat.send(tx, alice.principal, to="hanna", kind="text", body="x")
    await world.relay()
    assert [len(msgspec.json.decode(payload)) for payload, _, _ in await world.jobs()] == [1, 1]
