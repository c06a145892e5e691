"""Which events become pushes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realtime.push.decide import RECEIPT_GRACE_MS, Alert, Happening, Recipient, decide, pushable
from realtime.push.kinds import CATEGORIES, DAY_MS, KINDS
from realtime.push.notice import compose
from realtime.push.retry import ATTEMPTS_MAX, BACKOFF_MAX_MS, next_attempt_ms

NOW_MS = 1_790_000_000_000
ASLEEP = Recipient("hanna", online=False)
AWAKE = Recipient("hanna", online=True)


def call(**changed: Any) -> dict[str, Any]:
    view: dict[str, Any] = {
        "call_id": "c-1",
        "role": "host",
        "media": "voice",
        "peer": {"id": "carl", "name": "Carl", "avatar_url": ""},
        "ring_deadline_ms": NOW_MS + 30_000,
    }
    return {"call": view | changed}


def message(**changed: Any) -> dict[str, Any]:
    view: dict[str, Any] = {
        "message_id": "m-1",
        "conversation": "x",
        "seq": 3,
        "from": "carl",
        "to": "hanna",
        "kind": "text",
        "body": "hello",
    }
    return {"message": view | changed}


def ask(event: str, data: dict[str, Any], recipient: Recipient = ASLEEP) -> Alert | None:
    return decide(Happening("e-1", event, data, {"carl": "Carl"}), recipient, NOW_MS)


def test_a_sleeping_host_is_rung_at_once_until_the_rings_end() -> None:
    alert = ask("call.incoming", call())
    assert alert is not None
    assert (alert.kind, alert.thing, alert.delay_ms, alert.expires_ms) == ("incoming_call", "c-1", 0, NOW_MS + 30_000)
    assert alert.args["name"] == "Carl"


def test_a_connected_host_is_rung_by_push_when_no_device_confirms_in_time() -> None:
    alert = ask("call.incoming", call(), AWAKE)
    assert alert is not None
    assert alert.delay_ms == RECEIPT_GRACE_MS


@pytest.mark.parametrize(("recipient", "left_ms"), [(ASLEEP, 0), (AWAKE, RECEIPT_GRACE_MS)])
def test_a_ring_that_is_over_before_it_could_be_sent_is_none(recipient: Recipient, left_ms: int) -> None:
    assert ask("call.incoming", call(ring_deadline_ms=NOW_MS + left_ms), recipient) is None


def test_a_ring_comes_though_calls_are_muted_and_a_missed_call_does_not() -> None:
    muted = Recipient("hanna", online=False, muted=frozenset({"calls"}))
    ring = ask("call.incoming", call(), muted)
    over = ask("call.ended", call(reason="missed"), muted)
    assert ring is not None
    assert over is not None
    assert (ring.kind, over.kind) == ("incoming_call", "call_cancelled")


@pytest.mark.parametrize("reason", ["missed", "cancelled", "unreachable"])
def test_a_sleeping_host_is_told_of_a_call_that_nobody_answered(reason: str) -> None:
    alert = ask("call.ended", call(reason=reason))
    assert alert is not None
    assert (alert.kind, alert.thing) == ("missed_call", "c-1")


@pytest.mark.parametrize(("reason", "recipient"), [("missed", AWAKE), ("declined", ASLEEP), ("failed", ASLEEP)])
def test_otherwise_the_end_of_a_ring_only_takes_it_back(reason: str, recipient: Recipient) -> None:
    alert = ask("call.ended", call(reason=reason), recipient)
    assert alert is not None
    assert (alert.kind, alert.takes_back) == ("call_cancelled", "incoming_call")


def test_the_end_of_an_answered_call_or_the_callers_end_is_no_push() -> None:
    assert ask("call.ended", call(reason="hung_up_by_host", accepted_ms=NOW_MS)) is None
    assert ask("call.ended", call(reason="missed", role="caller")) is None


def test_an_answer_elsewhere_is_told_to_all_but_the_device_that_answered() -> None:
    alert = ask("call.answered_elsewhere", call(accepted_device="tablet"), AWAKE)
    assert alert is not None
    assert (alert.kind, alert.takes_back, alert.except_device) == ("call_cancelled", "incoming_call", "tablet")


def test_a_message_wakes_its_recipient_only_and_only_asleep() -> None:
    alert = ask("chat.message", message())
    assert alert is not None
    assert (alert.kind, alert.thing, alert.args["name"], alert.args["preview"]) == ("message", "m-1", "Carl", "hello")
    assert ask("chat.message", message(), AWAKE) is None
    assert ask("chat.message", message(), Recipient("carl", online=False)) is None
    assert ask("chat.message", message(), Recipient("hanna", online=False, muted=frozenset({"messages"}))) is None


def test_what_the_app_has_sealed_is_not_shown() -> None:
    alert = ask("chat.message", message(kind="sealed", body="c2VjcmV0"))
    assert alert is not None
    assert "c2VjcmV0" not in alert.args.values()


def test_gifts_and_purchases_are_told_to_those_asleep() -> None:
    gift = {"from": {"id": "carl", "name": "Carl"}, "gift": {"gift_id": "rose", "name": "Rose", "emoji": "🌹"}}
    alert = ask("gift.received", gift)
    assert alert is not None
    assert (alert.kind, alert.thing, alert.args["gift"]) == ("gift", "e-1", "Rose")
    assert ask("gift.received", gift, AWAKE) is None
    bought = ask("wallet.changed", {"reason": "purchase", "wallet": {"coins": 120}})
    assert bought is not None
    assert bought.args["coins"] == "120"
    assert ask("wallet.changed", {"reason": "call", "wallet": {"coins": 120}}) is None


def test_other_events_are_no_pushes() -> None:
    assert not pushable("call.charged")
    assert ask("call.charged", {}) is None


def test_every_kind_has_a_category_and_an_end() -> None:
    for kind in KINDS.values():
        assert kind.category in CATEGORIES
        assert kind.silent or kind.title
        assert kind.ttl_ms <= 28 * DAY_MS  # what FCM keeps


def test_a_template_is_filled_once_and_never_by_what_a_user_wrote() -> None:
    notice = compose(
        push_id="p",
        kind="gift",
        args={"name": "{emoji} {0.__class__} {", "emoji": "🌹", "gift": "Rose", "event_id": "e"},
        address_kind="fcm",
        address="a",
        expires_ms=NOW_MS + 5_000,
        now_ms=NOW_MS,
    )
    assert (notice.title, notice.body) == ("{emoji} {0.__class__} { sent you a gift", "🌹 Rose")
    assert (notice.tag, notice.collapse_key, notice.ttl_ms) == ("gift:e", "money", 5_000)


def test_attempts_come_slower_and_end() -> None:
    waits = [
        next_attempt_ms(attempts=attempts, retry_after_ms=0, expires_ms=NOW_MS + DAY_MS, now_ms=NOW_MS)
        for attempts in range(1, ATTEMPTS_MAX + 1)
    ]
    assert waits == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, None]
    assert BACKOFF_MAX_MS >= 64_000


def test_a_wish_to_be_left_alone_is_granted_and_nothing_is_tried_beyond_its_use() -> None:
    later = next_attempt_ms(attempts=1, retry_after_ms=9_000, expires_ms=NOW_MS + 10_000, now_ms=NOW_MS)
    never = next_attempt_ms(attempts=1, retry_after_ms=9_000, expires_ms=NOW_MS + 9_000, now_ms=NOW_MS)
    assert (later, never) == (9_000, None)


def test_the_page_for_app_developers_lists_every_kind_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "push.md").read_text()
    for kind in KINDS.values():
        essential, urgent = "yes " if kind.essential else "", "yes " if kind.urgent else ""
        assert f"| `{kind.name}` | {kind.category} | {essential}| {urgent}|" in page
