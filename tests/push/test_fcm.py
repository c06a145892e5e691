"""The real firebase-admin against a local fake of FCM, over TLS and HTTP/2."""

from __future__ import annotations

import asyncio
import email.utils
import time
from typing import Any

import pytest

from realtime.push import fcm as fcm_module
from realtime.push.fcm import FcmSender
from realtime.push.kinds import KINDS
from realtime.push.notice import Notice, Outcome, compose
from tests.push.fake_fcm import HANG_UP, UNREGISTERED, FakeFcm, Reply

ARGS = {"call_id": "c-1", "name": "Carl {media}", "media": "video", "from": "carl", "avatar_url": ""}


def notice(address: str = "phone", *, kind: str = "incoming_call", address_kind: str = "fcm", **args: str) -> Notice:
    now_ms = 1_790_000_000_000
    return compose(
        push_id="p-1",
        kind=kind,
        args=ARGS | args,
        address_kind=address_kind,
        address=address,
        expires_ms=now_ms + 25_000,
        now_ms=now_ms,
    )


async def send_one(sender: FcmSender, address: str = "phone", **more: Any) -> Outcome:
    (outcome,) = await sender.send([notice(address, **more)])
    return outcome


async def test_an_incoming_call_is_data_alone_on_android_and_an_alert_on_ios(sender: FcmSender, fcm: FakeFcm) -> None:
    assert await send_one(sender) == Outcome("sent", service_id="projects/talkmeter-test/messages/1")
    (message,) = fcm.messages
    assert message["token"] == "phone"
    assert "notification" not in message
    assert message["android"] == {"collapse_key": "calls", "priority": "high", "ttl": "25s"}
    assert message["data"] == ARGS | {
        "push_id": "p-1",
        "kind": "incoming_call",
        "sent_ms": "1790000000000",
        "expires_ms": "1790000025000",
    }
    assert message["apns"]["headers"] == {
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-expiration": "1790000025",
        "apns-collapse-id": "call:c-1",
    }
    # What a user put into a name is no template.
    assert message["apns"]["payload"]["aps"]["alert"] == {
        "title": "Carl {media} is calling",
        "body": "Incoming video call",
    }


async def test_a_tombstone_shows_nothing_anywhere(sender: FcmSender, fcm: FakeFcm) -> None:
    await send_one(sender, kind="call_cancelled")
    (message,) = fcm.messages
    assert "notification" not in message["android"]
    assert message["apns"]["payload"] == {"aps": {"content-available": 1}}
    assert message["apns"]["headers"]["apns-push-type"] == "background"
    assert message["apns"]["headers"]["apns-priority"] == "5"


async def test_a_message_is_shown_under_its_conversations_tag(sender: FcmSender, fcm: FakeFcm) -> None:
    await send_one(sender, kind="message", conversation="x", preview="hi")
    (message,) = fcm.messages
    assert message["android"]["notification"] == {
        "title": "Carl {media}",
        "body": "hi",
        "tag": "chat:x",
        "channel_id": "messages",
    }


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_every_kind_can_be_encoded(sender: FcmSender, fcm: FakeFcm, kind: str) -> None:
    assert (await send_one(sender, kind=kind)).state == "sent"


async def test_an_installation_id_is_sent_as_such(sender: FcmSender, fcm: FakeFcm) -> None:
    assert (await send_one(sender, address_kind="fcm_fid")).state == "sent"
    assert fcm.messages[0]["fid"] == "phone"
    assert "token" not in fcm.messages[0]


async def test_many_notices_share_one_connection_and_one_token(sender: FcmSender, fcm: FakeFcm) -> None:
    outcomes = await sender.send([notice(f"phone-{number}") for number in range(300)])
    assert {outcome.state for outcome in outcomes} == {"sent"}
    assert len({outcome.service_id for outcome in outcomes}) == 300
    assert (fcm.connections, fcm.token_requests) == (1, 1)


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        pytest.param(UNREGISTERED, "dead", id="uninstalled"),
        pytest.param(Reply(403, "SENDER_ID_MISMATCH"), "dead", id="address of another project"),
        pytest.param(
            Reply(400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"),
            "dead",
            id="no address at all",
        ),
        pytest.param(Reply(400, "INVALID_ARGUMENT", "Invalid data payload key"), "refused", id="our mistake"),
        pytest.param(Reply(403), "refused", id="no permission"),
        pytest.param(Reply(404), "refused", id="no such project"),
        pytest.param(Reply(401, "THIRD_PARTY_AUTH_ERROR"), "refused", id="bad APNs key"),
        pytest.param(Reply(429, "QUOTA_EXCEEDED"), "retry", id="quota"),
        pytest.param(Reply(200, body=b"<html>hello</html>"), "retry", id="no JSON"),
        pytest.param(Reply(200, body=b"{}"), "retry", id="no message id"),
        pytest.param(Reply(429, body=b"slow down"), "retry", id="an error that is no JSON"),
    ],
)
async def test_an_error_means_what_it_says_for_its_own_notice_only(
    sender: FcmSender, fcm: FakeFcm, reply: Reply, state: str
) -> None:
    fcm.always["bad"] = reply
    outcomes = await sender.send([notice("good-1"), notice("bad"), notice("good-2")])
    assert [outcome.state for outcome in outcomes] == ["sent", state, "sent"]
    assert outcomes[1].error or state == "sent"


async def test_retry_after_is_read_in_seconds_and_as_a_date(sender: FcmSender, fcm: FakeFcm) -> None:
    date = email.utils.formatdate(time.time() + 90, usegmt=True)
    fcm.replies["phone"] = [
        Reply(429, "QUOTA_EXCEEDED", retry_after="7"),
        Reply(429, "QUOTA_EXCEEDED", retry_after=date),
        Reply(429, "QUOTA_EXCEEDED", retry_after="soon"),
        Reply(429, "QUOTA_EXCEEDED", retry_after="999999999"),
    ]
    waits = [(await send_one(sender)).retry_after_ms for _ in range(4)]
    assert waits[0] == 7_000
    assert 60_000 < waits[1] <= 90_000
    assert waits[2:] == [0, 3_600_000]


async def test_an_endpoint_that_fails_for_a_moment_is_tried_again_at_once(sender: FcmSender, fcm: FakeFcm) -> None:
    fcm.replies["phone"] = [Reply(503, "UNAVAILABLE")]
    assert (await send_one(sender)).state == "sent"


async def test_an_endpoint_that_does_not_answer_is_given_up_in_time(
    sender: FcmSender, fcm: FakeFcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcm_module, "SEND_TIMEOUT_S", 0.3)
    fcm.always["slow"] = Reply(200, body=b"{}", after=asyncio.Event())
    outcomes = await sender.send([notice("slow"), notice("quick")])
    assert [outcome.state for outcome in outcomes] == ["retry", "sent"]


async def test_a_connection_that_is_cut_is_replaced(sender: FcmSender, fcm: FakeFcm) -> None:
    fcm.replies["phone"] = [HANG_UP]
    assert (await send_one(sender)).state == "retry"
    assert (await send_one(sender)).state == "sent"
    assert fcm.connections == 2


async def test_no_server_at_all_is_a_reason_to_try_again(fcm: FakeFcm) -> None:
    sender = FcmSender(fcm.certificate, url="https://127.0.0.1:1")
    try:
        assert (await send_one(sender)).state == "retry"
    finally:
        await sender.close()


async def test_a_slow_token_never_stops_the_event_loop(sender: FcmSender, fcm: FakeFcm) -> None:
    fcm.token_gate = asyncio.Event()
    sending = asyncio.create_task(send_one(sender))
    # The fake lives in this loop, so it is asked only while the loop turns.
    await asyncio.wait_for(fcm.token_asked.wait(), 5)
    fcm.token_gate.set()
    assert (await sending).state == "sent"


async def test_without_a_token_all_are_to_be_tried_again(sender: FcmSender, fcm: FakeFcm) -> None:
    fcm.token_status = 400
    outcomes = await sender.send([notice("a"), notice("b")])
    assert [outcome.state for outcome in outcomes] == ["retry", "retry"]
    fcm.token_status = 200
    assert (await send_one(sender)).state == "sent"


async def test_a_revoked_token_is_replaced_for_the_next_attempt(sender: FcmSender, fcm: FakeFcm) -> None:
    assert (await send_one(sender)).state == "sent"
    fcm.revoke()
    assert (await send_one(sender)).state == "retry"
    assert (await send_one(sender)).state == "sent"
    assert fcm.token_requests == 2


async def test_a_token_near_its_end_is_replaced_before_it(sender: FcmSender, fcm: FakeFcm) -> None:
    fcm.token_life_s = 240
    assert (await send_one(sender)).state == "sent"
    assert (await send_one(sender)).state == "sent"
    assert fcm.token_requests == 2
    fcm.token_status = 400  # cannot be replaced, but still holds
    assert (await send_one(sender)).state == "sent"
