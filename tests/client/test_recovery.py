"""What both clients do when the peer or the network misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.client.players import Failure, Player
from tests.client.scripted import Script, refusal


async def test_sign_in_tells_the_device_and_no_position_at_first(player: Player, script: Script) -> None:
    welcome = await player.open(script.url, "token-1", device_id="tablet")
    peer = await script.peer()
    assert peer.sign_in["token"] == "token-1"
    assert peer.sign_in["device_id"] == "tablet"
    assert peer.sign_in["streams"] == []
    assert welcome["user"]["id"] == "asha"


@pytest.mark.parametrize("code", [1001, 1006, 4000, 4001, 4004, 4499])
async def test_a_close_below_4500_is_followed_by_a_new_sign_in(player: Player, script: Script, code: int) -> None:
    await player.open(script.url, "token")
    first = await script.peer()
    if code == 1006:
        first.cut()
    else:
        await first.close(code, "going_away")
    await script.peer()
    assert await player.request("session.ping", {"payload": "still here"}) == {"payload": "still here"}


@pytest.mark.parametrize(
    ("code", "reason", "next_action"),
    [(4500, "malformed", None), (4502, "token_expired", "sign_in"), (4508, "update_app", "update_app")],
)
async def test_a_close_from_4500_on_stops_the_client(
    player: Player, script: Script, code: int, reason: str, next_action: str | None
) -> None:
    await player.open(script.url, "token")
    await (await script.peer()).close(code, reason)
    await player.events.next("client.state", lambda data: data["state"] == "closed")
    with pytest.raises(Failure) as caught:
        await player.request("wallet.get")
    assert (caught.value.kind, caught.value.code) == ("Stopped", reason)
    assert (caught.value.close_code, caught.value.next_action) == (code, next_action)


async def test_a_refused_token_stops_the_client(player: Player, script: Script) -> None:
    script.refusals = [refusal("token_invalid", next_action="sign_in")]
    with pytest.raises(Failure) as caught:
        await player.open(script.url, "forged")
    assert (caught.value.kind, caught.value.code) == ("Stopped", "token_invalid")
    assert caught.value.next_action == "sign_in"


async def test_a_sign_in_that_fails_for_a_while_is_tried_again(player: Player, script: Script) -> None:
    script.refusals = [refusal("unavailable", retryable=True, next_action="wait")] * 2
    await player.open(script.url, "token")
    assert (await script.peer()).sign_in["token"] == "token"


async def test_a_server_that_is_not_there_ends_in_a_connect_timeout(player: Player) -> None:
    with pytest.raises(Failure) as caught:
        await player.open("ws://127.0.0.1:9/v1/socket", "token", timeout_ms=300)
    assert caught.value.kind == "ConnectTimeout"
    assert caught.value.retryable


async def test_each_sign_in_asks_for_a_token_when_that_is_a_function(player: Player, script: Script) -> None:
    await player.open(script.url, ["first", "second"])
    first = await script.peer()
    first.cut()
    assert [first.sign_in["token"], (await script.peer()).sign_in["token"]] == ["first", "second"]


async def test_a_token_about_to_end_is_replaced_on_the_running_connection(player: Player, script: Script) -> None:
    script.welcome = {"token_expires_ms": 1}
    script.answers["session.refresh"] = lambda peer, frame: {"ok": {"token_expires_ms": 4_102_444_800_000}}
    await player.open(script.url, ["short", "long"])
    heard = await script.hear()
    assert (heard["op"], heard["data"]) == ("session.refresh", {"token": "long"})


async def test_an_unanswered_request_is_repeated_with_its_key_on_the_next_connection(
    player: Player, script: Script
) -> None:
    silent = [True]
    script.answers["chat.send"] = lambda peer, frame: None if silent[0] else {"ok": {"message": {"seq": 7}}}
    await player.open(script.url, "token")
    sending = asyncio.create_task(player.request("chat.send", {"to": "ravi", "kind": "text", "body": "hello"}))
    first = await script.hear()
    silent[0] = False
    (await script.peer()).cut()
    assert await sending == {"message": {"seq": 7}}
    second = await script.hear()
    assert second == first
    assert first["key"]


async def test_a_mutation_gets_a_key_of_its_own_and_a_query_none(player: Player, script: Script) -> None:
    await player.open(script.url, "token")
    for op in ("chat.send", "chat.send", "wallet.get"):
        await player.request(op, {})
    frames = [await script.hear() for _ in range(3)]
    assert frames[0]["key"] != frames[1]["key"]
    assert "key" not in frames[2]


async def test_a_given_key_is_used(player: Player, script: Script) -> None:
    await player.open(script.url, "token")
    await player.request("gift.send", {}, key="mine")
    assert (await script.hear())["key"] == "mine"


@pytest.mark.parametrize("code", ["internal", "unavailable", "draining", "rate_limited", "too_many_pending"])
async def test_a_passing_error_is_tried_again_with_the_same_key(player: Player, script: Script, code: str) -> None:
    errors = [refusal(code, retryable=True, retry_after_ms=1)] * 2
    script.answers["gift.send"] = lambda peer, frame: {"error": errors.pop()} if errors else {"ok": {"gift": "rose"}}
    await player.open(script.url, "token")
    assert await player.request("gift.send", {}) == {"gift": "rose"}
    assert len({(await script.hear())["key"] for _ in range(3)}) == 1


async def test_a_lasting_error_is_raised_at_once_with_all_it_says(player: Player, script: Script) -> None:
    error = refusal("insufficient_funds", retryable=True, next_action="top_up", needs_coins=12)
    script.answers["call.invite"] = lambda peer, frame: {"error": error}
    await player.open(script.url, "token")
    with pytest.raises(Failure) as caught:
        await player.request("call.invite", {"host": "asha", "media": "voice"})
    failure = caught.value
    assert (failure.kind, failure.code, failure.retryable) == ("RequestRefused", "insufficient_funds", True)
    assert (failure.next_action, failure.details) == ("top_up", {"needs_coins": 12})
    assert len(script.heard) == 1


async def test_a_request_without_an_answer_times_out_and_tells_its_key(player: Player, script: Script) -> None:
    script.answers["chat.send"] = lambda peer, frame: None
    await player.open(script.url, "token")
    with pytest.raises(Failure) as caught:
        await player.request("chat.send", {}, timeout_ms=100)
    assert (caught.value.kind, caught.value.retryable) == ("RequestTimeout", True)
    assert caught.value.key == (await script.hear())["key"]


async def test_more_than_64_waiting_requests_are_refused_locally(player: Player, script: Script) -> None:
    script.answers["wallet.get"] = lambda peer, frame: None
    await player.open(script.url, "token")
    waiting = [asyncio.create_task(player.request("wallet.get")) for _ in range(64)]
    for _ in waiting:
        await script.hear()
    with pytest.raises(Failure) as caught:
        await player.request("wallet.get")
    assert caught.value.kind == "TooManyRequests"
    await player.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {result.kind for result in results if isinstance(result, Failure)} == {"ClientClosed"}


async def test_a_reconnect_tells_the_position_after_the_last_event(player: Player, script: Script) -> None:
    await player.open(script.url, "token")
    first = await script.peer()
    for offset in (1, 2, 3):
        await first.event("chat.message", offset=offset)
    await player.events.next("chat.message", lambda data: True)
    await player.request("session.ping")
    first.cut()
    second = await script.peer()
    assert second.sign_in["streams"] == [{"stream": "user", "epoch": "e1", "offset": 3}]


async def test_an_event_sent_twice_is_seen_once(player: Player, script: Script) -> None:
    await player.open(script.url, "token")
    peer = await script.peer()
    await peer.event("wallet.changed", {"n": 1}, offset=1)
    await peer.event("wallet.changed", {"n": 1}, offset=1)
    await peer.event("wallet.changed", {"n": 1}, offset=2, event_id="id-e1-1")  # relayed again under a new offset
    await peer.event("wallet.changed", {"n": 3}, offset=3)
    await player.events.next("wallet.changed", lambda data: data["n"] == 3)
    assert [event["data"]["n"] for event in player.events.named("wallet.changed")] == [1, 3]


async def test_a_gap_is_not_skipped_but_fetched_by_a_reconnect(player: Player, script: Script) -> None:
    await player.open(script.url, "token")
    first = await script.peer()
    await first.event("chat.message", {"n": 1}, offset=1)
    await first.event("chat.message", {"n": 3}, offset=3)
    second = await script.peer()
    assert second.sign_in["streams"] == [{"stream": "user", "epoch": "e1", "offset": 1}]
    await second.event("chat.message", {"n": 2}, offset=2)
    await second.event("chat.message", {"n": 3}, offset=3)
    await player.events.next("chat.message", lambda data: data["n"] == 3)
    assert [event["data"]["n"] for event in player.events.named("chat.message")] == [1, 2, 3]


async def test_a_gap_that_a_resume_does_not_close_is_accepted(player: Player, script: Script) -> None:
    await player.open(script.url, "token")
    await (await script.peer()).event("chat.message", offset=5)
    await (await script.peer()).event("chat.message", offset=5)
    await player.events.next("chat.message")


async def test_an_ephemeral_event_moves_no_position(player: Player, script: Script) -> None:
    await player.open(script.url, "token")
    first = await script.peer()
    await first.event("chat.typing", {"from": "ravi"})
    await player.events.next("chat.typing")
    first.cut()
    assert (await script.peer()).sign_in["streams"] == [{"stream": "user", "epoch": "e1", "offset": 0}]


async def test_without_recovery_the_server_s_position_and_snapshot_are_taken(player: Player, script: Script) -> None:
    await player.open(script.url, "token")
    first = await script.peer()
    await first.event("chat.message", offset=1)
    await player.events.next("chat.message")
    head = {"stream": {"epoch": "e2", "offset": 40}, "recovered": False, "snapshot": {"unread": 5}}
    script.welcome = head
    first.cut()
    second = await script.peer()
    assert (await player.events.next("client.snapshot"))["data"] == {"unread": 5}
    await second.event("chat.message", {"n": 41}, epoch="e2", offset=41)
    await player.events.next("chat.message", lambda data: data.get("n") == 41)
    second.cut()
    assert (await script.peer()).sign_in["streams"] == [{"stream": "user", "epoch": "e2", "offset": 41}]


async def test_a_ring_is_acknowledged_and_other_events_are_not(player: Player, script: Script) -> None:
    await player.open(script.url, "token")
    peer = await script.peer()
    await peer.event("chat.message", offset=1)
    await peer.event("call.incoming", offset=2, event_id="ring-1")
    assert await script.hear() == {"ack": ["ring-1"]}


async def test_a_repeated_ring_is_acknowledged_again_but_rings_once(player: Player, script: Script) -> None:
    """The first acknowledgement may have been lost with its connection."""
    await player.open(script.url, "token")
    peer = await script.peer()
    await peer.event("call.incoming", offset=1, event_id="ring-1")
    await peer.event("call.incoming", offset=1, event_id="ring-1")
    assert [await script.hear(), await script.hear()] == [{"ack": ["ring-1"]}] * 2
    assert len(player.events.named("call.incoming")) == 1


async def test_acknowledgements_are_repeated_after_a_reconnect(player: Player, script: Script) -> None:
    """They have no reply, so nobody knows whether the last ones arrived."""
    script.welcome = {"recovered": True}
    await player.open(script.url, "token")
    peer = await script.peer()
    for offset in (1, 2):
        await peer.event("call.incoming", offset=offset, event_id=f"ring-{offset}")
        assert await script.hear() == {"ack": [f"ring-{offset}"]}
    peer.cut()
    await script.peer()
    assert await script.hear() == {"ack": ["ring-1", "ring-2"]}


async def test_silence_is_answered_with_a_ping_and_then_with_a_new_connection(player: Player, script: Script) -> None:
    script.welcome = {"heartbeat_ms": 100}
    script.answers["session.ping"] = lambda peer, frame: None
    await player.open(script.url, "token")
    await script.peer()
    assert (await script.hear())["op"] == "session.ping"
    await script.peer()


async def test_a_closed_client_says_goodbye(new_player: Callable[[], Player], script: Script) -> None:
    player = new_player()
    await player.open(script.url, "token")
    peer = await script.peer()
    await player.close()
    async with asyncio.timeout(10):
        await peer.closed.wait()
    assert peer.socket.close_code == 1000
