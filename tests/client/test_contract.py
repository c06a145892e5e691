"""The contract of both clients with a real server: the same suite for Python and TypeScript, JSON and MessagePack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from bench.harness import ServerProcess
from realtime.accounts.keys import load_keys
from realtime.accounts.tokens import mint
from tests.client.players import Data, Failure, Player

DAY_MS = 86_400_000
Make = Callable[[], Player]


@dataclass
class Someone:
    """A user of this test only, on one device."""

    id: str
    token: str
    player: Player
    welcome: Data

    async def ask(self, op: str, **data: Any) -> Data:
        return await self.player.request(op, data)

    async def say(self, to: Someone, body: str) -> Data:
        message: Data = (await self.ask("chat.send", to=to.id, kind="text", body=body))["message"]
        return message

    def heard(self) -> list[str]:
        """The bodies of all messages that came as events."""
        return [event["data"]["message"]["body"] for event in self.player.events.named("chat.message")]


class Town:
    """Makes users of the real server."""

    def __init__(self, server: ServerProcess, make: Make) -> None:
        self.server = server
        self._make = make

    async def token(self, user: str, **wishes: Any) -> str:
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"{self.server.url}/dev/token", json={"user": user, **wishes})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    async def arrive(self, name: str, *, user: str = "", device_id: str = "phone", **wishes: Any) -> Someone:
        user = user or f"{name.lower()}-{uuid4().hex[:8]}"
        token = await self.token(user, name=name, **wishes)
        player = self._make()
        welcome = await player.open(self.server.socket_url, token, device_id=device_id)
        return Someone(user, token, player, welcome)

    def minted(self, user: str, *, now_ms: int, life_ms: int = DAY_MS) -> str:
        """A token that the server's own key has signed, of any time."""
        keys = load_keys("", self.server.data_dir)
        return mint(
            keys,
            issuer="talkmeter",
            audience="talkmeter",
            tenant="main",
            user=user,
            name="",
            roles=(),
            now_ms=now_ms,
            life_ms=life_ms,
        )


@pytest.fixture
def town(server: ServerProcess, new_player: Make) -> Town:
    return Town(server, new_player)


async def test_sign_in_says_who_we_are_and_how_things_stand(town: Town) -> None:
    asha = await town.arrive("Asha", coins=7)
    assert asha.welcome["user"] == {"id": asha.id, "name": "Asha", "avatar_url": ""}
    assert asha.welcome["tenant"] == "main"
    assert asha.welcome["heartbeat_ms"] > 0
    assert asha.welcome["snapshot"]["wallet"]["coins"] == 7
    assert asha.player.events.named("client.snapshot")[0]["data"] == asha.welcome["snapshot"]


async def test_values_keep_their_types_on_the_way_there_and_back(town: Town) -> None:
    payload = {"text": 'नमस्ते 🙏 \\ " \n', "big": 2**53 - 1, "minus": -1, "none": None, "yes": True, "list": [[], {}]}
    asha = await town.arrive("Asha")
    assert (await asha.ask("session.ping", payload=payload))["payload"] == payload


async def test_a_forged_token_stops_the_client(town: Town) -> None:
    token = await town.token("mallory")
    head, _, signature = token.rpartition(".")
    forged = f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    with pytest.raises(Failure) as caught:
        await town._make().open(town.server.socket_url, forged)
    assert (caught.value.kind, caught.value.code) == ("Stopped", "token_invalid")
    assert caught.value.next_action == "sign_in"


async def test_an_expired_token_stops_the_client(town: Town) -> None:
    with pytest.raises(Failure) as caught:
        await town._make().open(town.server.socket_url, town.minted("asha", now_ms=1_700_000_000_000))
    assert (caught.value.kind, caught.value.code) == ("Stopped", "token_expired")


async def test_refusals_name_what_is_wrong(town: Town) -> None:
    asha = await town.arrive("Asha")
    for op, data, code in (
        ("no.such_op", {}, "unknown_op"),
        ("chat.send", {"to": asha.id, "kind": "text"}, "invalid_data"),
        ("chat.send", {"to": "nobody-at-all", "kind": "text", "body": "hello"}, "not_found"),
    ):
        with pytest.raises(Failure) as caught:
            await asha.ask(op, **data)
        assert (caught.value.kind, caught.value.code, caught.value.retryable) == ("RequestRefused", code, False)
    assert await asha.ask("session.ping", payload=1)


async def test_a_message_arrives_and_is_in_the_history(town: Town) -> None:
    asha, ravi = await town.arrive("Asha"), await town.arrive("Ravi")
    sent = await asha.say(ravi, "hello")
    event = await ravi.player.events.next("chat.message")
    assert event["data"]["message"] == sent
    assert event["offset"] > 0
    history = await ravi.ask("chat.history", **{"with": asha.id})
    assert [message["body"] for message in history["messages"]] == ["hello"]


async def test_a_repeated_key_gives_the_first_answer_and_does_nothing_twice(town: Town) -> None:
    asha, ravi = await town.arrive("Asha"), await town.arrive("Ravi")
    data = {"to": ravi.id, "kind": "text", "body": "once"}
    answers = [await asha.player.request("chat.send", data, key="the-key") for _ in range(2)]
    assert answers[0] == answers[1]
    assert [m["body"] for m in (await ravi.ask("chat.history", **{"with": asha.id}))["messages"]] == ["once"]


async def test_a_key_cannot_carry_another_request(town: Town) -> None:
    asha, ravi = await town.arrive("Asha"), await town.arrive("Ravi")
    await asha.player.request("chat.send", {"to": ravi.id, "kind": "text", "body": "one"}, key="k")
    with pytest.raises(Failure) as caught:
        await asha.player.request("chat.send", {"to": ravi.id, "kind": "text", "body": "two"}, key="k")
    assert caught.value.code == "key_reused"


async def test_what_was_missed_follows_a_reconnect_once_and_in_order(town: Town) -> None:
    asha, ravi = await town.arrive("Asha"), await town.arrive("Ravi")
    said = [f"message {number}" for number in range(60)]
    for number, body in enumerate(said):
        if number % 15 == 0:
            await ravi.player.drop()
        await asha.say(ravi, body)
    await ravi.player.events.next("chat.message", lambda data: data["message"]["body"] == said[-1])
    assert ravi.heard() == said
    welcomes = ravi.player.events.named("client.signed_in")
    assert len(welcomes) > 1
    assert all(welcome["data"]["recovered"] for welcome in welcomes[1:])


async def test_a_request_survives_losing_its_connection_and_happens_once(town: Town) -> None:
    asha, ravi = await town.arrive("Asha"), await town.arrive("Ravi")
    for number in range(10):
        sending = asyncio.create_task(asha.say(ravi, f"message {number}"))
        await asha.player.drop()
        await sending
    await ravi.player.events.next("chat.message", lambda data: data["message"]["body"] == "message 9")
    assert ravi.heard() == [f"message {number}" for number in range(10)]


async def test_both_devices_of_a_user_hear_the_same(town: Town) -> None:
    asha = await town.arrive("Asha")
    phone = await town.arrive("Ravi")
    tablet = await town.arrive("Ravi", user=phone.id, device_id="tablet")
    await asha.say(phone, "to both")
    first = await phone.player.events.next("chat.message")
    second = await tablet.player.events.next("chat.message")
    assert first["event_id"] == second["event_id"]
    assert first["data"] == second["data"]


async def test_a_call_rings_by_our_acknowledgement_and_runs_to_its_end(town: Town) -> None:
    caller = await town.arrive("Ravi", coins=50)
    host = await town.arrive("Asha", host=True, price_coins=5, pulse_ms=60_000)
    await host.ask("presence.set", status="online")
    call = (await caller.ask("call.invite", host=host.id, media="voice"))["call"]
    call_id = call["call_id"]
    incoming = await host.player.events.next("call.incoming")
    assert incoming["data"]["call"]["peer"]["name"] == "Ravi"
    await caller.player.events.next("call.ringing")
    await host.ask("call.accept", call_id=call_id)
    await caller.player.events.next("call.accepted")
    await caller.ask("call.signal", call_id=call_id, kind="offer", payload={"sdp": "v=0"})
    signal = await host.player.events.next("call.signal")
    assert signal["data"]["payload"] == {"sdp": "v=0"}
    for side in (caller, host):
        await side.ask("call.media", call_id=call_id, state="connected")
    charged = await caller.player.events.next("call.charged")
    assert charged["data"]["wallet"]["coins"] == 45
    hung_up = await host.ask("call.hang_up", call_id=call_id, sent_ms_ago=0)
    assert hung_up["receipt"]["spent_coins"] == 5
    ended = await caller.player.events.next("call.ended")
    assert (ended["data"]["call"]["reason"], ended["data"]["call"]["state"]) == ("hung_up_by_host", "ended")


async def test_the_directory_tells_of_hosts_who_come_and_go(town: Town) -> None:
    watcher = await town.arrive("Ravi")
    await watcher.ask("hosts.watch")
    host = await town.arrive("Asha", host=True, price_coins=5, pulse_ms=60_000)
    await host.ask("presence.set", status="online")

    def joins(data: Data) -> bool:
        return any(card["user"] == host.id and card["bookable"] for card in data.get("joins", []))

    await watcher.player.events.next("hosts.diff", joins)
    await host.player.close()

    def left(data: Data) -> bool:
        cards = {card["user"]: card for card in data.get("joins", [])}
        return host.id in data.get("leaves", []) or not cards.get(host.id, {"bookable": True})["bookable"]

    await watcher.player.events.next("hosts.diff", left)


async def test_a_channel_goes_on_after_a_reconnect_without_loss_or_repeat(town: Town) -> None:
    asha, ravi = await town.arrive("Asha"), await town.arrive("Ravi")
    room = f"room-{uuid4().hex[:8]}"
    for member in (asha, ravi):
        joined = await member.ask("channel.join", channel=room)
        assert joined["history"] == []
    for number in range(40):
        if number % 10 == 5:
            await ravi.player.drop()
        await asha.ask("channel.publish", channel=room, data=number)
    await ravi.player.events.next("channel.message", lambda data: data["data"] == 39)
    heard = [event["data"].get("data") for event in ravi.player.events.named("channel.message")]
    assert heard == list(range(40))
    assert all(event["data"]["recovered"] for event in ravi.player.events.named("client.channel"))


async def test_a_publish_survives_losing_its_connection_and_happens_once(town: Town) -> None:
    asha, ravi = await town.arrive("Asha"), await town.arrive("Ravi")
    room = f"room-{uuid4().hex[:8]}"
    for member in (asha, ravi):
        await member.ask("channel.join", channel=room)
    for number in range(8):
        publishing = asyncio.create_task(asha.ask("channel.publish", channel=room, data=number))
        await asha.player.drop()
        await publishing
    await ravi.player.events.next("channel.message", lambda data: data["data"] == 7)
    heard = [event["data"].get("data") for event in ravi.player.events.named("channel.message")]
    assert heard == list(range(8))


async def test_a_left_channel_is_not_joined_again(town: Town) -> None:
    asha = await town.arrive("Asha")
    room = f"room-{uuid4().hex[:8]}"
    await asha.ask("channel.join", channel=room)
    await asha.ask("channel.leave", channel=room)
    await asha.player.drop()
    await asha.player.events.next("client.signed_in")
    assert await asha.ask("session.ping", payload=1)
    with pytest.raises(Failure) as caught:
        await asha.ask("channel.presence", channel=room)
    assert caught.value.code == "forbidden"
    assert asha.player.events.named("client.channel") == []


async def test_a_token_is_replaced_on_the_running_connection(town: Town) -> None:
    asha = await town.arrive("Asha")
    await asha.player.refresh(await town.token(asha.id))
    with pytest.raises(Failure) as caught:
        await asha.player.refresh("no token at all")
    assert caught.value.code == "token_invalid"
    assert await asha.ask("session.ping", payload="still here")
    assert len(asha.player.events.named("client.signed_in")) == 1


async def test_signing_out_ends_this_device_and_no_other(town: Town) -> None:
    phone = await town.arrive("Asha")
    tablet = await town.arrive("Asha", user=phone.id, device_id="tablet")
    await phone.ask("session.sign_out")
    closed = await phone.player.events.next("client.state", lambda data: data["state"] == "closed")
    assert "4503" in closed["data"]["reason"]
    assert await tablet.ask("session.ping", payload=1)


async def test_a_frame_over_the_limit_stops_the_client_and_nobody_else(town: Town) -> None:
    asha, ravi = await town.arrive("Asha"), await town.arrive("Ravi")
    with pytest.raises(Failure) as caught:
        await asha.ask("session.ping", payload="x" * 100_000)
    assert (caught.value.kind, caught.value.close_code) == ("Stopped", 4507)
    assert await ravi.ask("session.ping", payload=1)
