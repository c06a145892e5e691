"""One-to-one chat through the dispatcher on real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from realtime.accounts.service import Accounts
from realtime.chat.handlers import ChatHandlers
from realtime.chat.messages import BODY_CHARS_MAX, TypingEvent
from realtime.chat.models import conversation_id
from realtime.chat.service import Chat
from realtime.protocol.errors import Forbidden
from tests.accounts.peer import Peer, Peers


class Blocks:
    """Who may not write to whom."""

    def __init__(self) -> None:
        self.pairs: set[tuple[int, int]] = set()

    async def check(self, sender_id: int, recipient_id: int, conn: asyncpg.Connection | None) -> None:
        if (sender_id, recipient_id) in self.pairs:
            raise Forbidden("blocked")


class Ephemeral:
    """Keeps what was sent to live sockets."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str, TypingEvent]] = []

    async def publish(self, user_id: int, event: str, data: TypingEvent) -> None:
        self.sent.append((user_id, event, data))


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.fixture
def ephemeral() -> Ephemeral:
    return Ephemeral()


@pytest.fixture
async def peers(pool: asyncpg.Pool, blocks: Blocks, ephemeral: Ephemeral) -> AsyncIterator[Peers]:
    accounts = Accounts(pool)
    peers = Peers(pool, accounts)
    chat = Chat(pool, peers.outbox, accounts, publish_ephemeral=ephemeral.publish, gate=blocks.check)
    peers.add(ChatHandlers(chat).routes())
    yield peers
    await peers.close()


@pytest.fixture
async def alice(peers: Peers) -> Peer:
    return await peers.sign_in("alice", name="Alice")


@pytest.fixture
async def bob(peers: Peers) -> Peer:
    return await peers.sign_in("bob", name="Bob")


async def say(sender: Peer, to: str, body: str, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = (await sender.ok("chat.send", {"to": to, "body": body}, **more))["message"]
    return message


def bodies(messages: list[dict[str, Any]]) -> list[str]:
    return [message["body"] for message in messages]


async def test_a_message_is_stored_when_the_answer_comes(alice: Peer, bob: Peer) -> None:
    message = await say(alice, "bob", "hello")
    assert (message["from"], message["to"], message["seq"], message["kind"]) == ("alice", "bob", 1, "text")
    assert message["conversation"] == str(conversation_id(alice.user_id, bob.user_id))
    history = await bob.ok("chat.history", {"with": "alice"})
    assert history == {"messages": [message], "more": False}


async def test_both_users_devices_hear_of_it_with_the_messages_id(peers: Peers, alice: Peer, bob: Peer) -> None:
    message = await say(alice, "bob", "hello")
    (row,) = await peers.events()
    assert (row.event, set(row.audience), row.v, str(row.id)) == (
        "chat.message",
        {alice.user_id, bob.user_id},
        1,
        message["message_id"],
    )
    assert json.loads(row.data) == {"message": message}


async def test_a_repeat_under_the_same_key_stores_nothing_more(peers: Peers, alice: Peer, bob: Peer) -> None:
    first = await say(alice, "bob", "hello", key="k")
    assert await say(alice, "bob", "hello", key="k") == first
    devices = [await peers.sign_in("alice") for _ in range(5)]
    together = await asyncio.gather(*(say(device, "bob", "again", key="k2") for device in devices))
    assert {message["seq"] for message in together} == {2}
    assert bodies((await bob.ok("chat.history", {"with": "alice"}))["messages"]) == ["hello", "again"]
    assert len(await peers.events()) == 2


async def test_messages_of_both_sides_share_one_order(alice: Peer, bob: Peer) -> None:
    sent = [await say(alice, "bob", "1"), await say(bob, "alice", "2"), await say(alice, "bob", "3")]
    assert [message["seq"] for message in sent] == [1, 2, 3]
    assert len({message["conversation"] for message in sent}) == 1
    times = [message["ts_ms"] for message in sent]
    assert times == sorted(times)


async def test_two_who_write_to_each_other_at_once_both_succeed(peers: Peers, alice: Peer, bob: Peer) -> None:
    senders = [await peers.sign_in(user) for user in ("alice", "bob") for _ in range(4)]
    sent = await asyncio.gather(
        *(
            say(peer, "bob" if peer.principal.user == "alice" else "alice", f"{number}")
            for peer in senders
            for number in range(10)
        )
    )
    assert sorted(message["seq"] for message in sent) == list(range(1, 81))


async def test_history_pages_backwards_and_forwards(alice: Peer, bob: Peer) -> None:
    for number in range(1, 8):
        await say(alice, "bob", str(number))
    latest = await bob.ok("chat.history", {"with": "alice", "limit": 3})
    assert (bodies(latest["messages"]), latest["more"]) == (["5", "6", "7"], True)
    older = await bob.ok("chat.history", {"with": "alice", "before": 5, "limit": 4})
    assert (bodies(older["messages"]), older["more"]) == (["1", "2", "3", "4"], False)
    newer = await bob.ok("chat.history", {"with": "alice", "after": 2, "limit": 3})
    assert (bodies(newer["messages"]), newer["more"]) == (["3", "4", "5"], True)
    both = await bob.error("chat.history", {"with": "alice", "after": 2, "before": 5})
    assert both["code"] == "invalid_data"


async def test_a_conversation_that_never_was_is_empty(alice: Peer, bob: Peer) -> None:
    assert await alice.ok("chat.history", {"with": "bob"}) == {"messages": [], "more": False}
    assert await alice.ok("chat.sync", {}) == {"messages": [], "cursor": "0", "more": False}
    assert await alice.ok("chat.conversations", {}) == {"conversations": [], "sync_cursor": "0"}
    await alice.ok("chat.read", {"with": "bob", "seq": 3})


async def test_sync_gives_what_was_missed_over_all_conversations(peers: Peers, alice: Peer, bob: Peer) -> None:
    carol = await peers.sign_in("carol")
    await say(alice, "bob", "a1")
    cursor = (await bob.ok("chat.sync", {}))["cursor"]
    await say(carol, "bob", "c1")
    await say(bob, "alice", "b1")
    await say(alice, "carol", "not for bob")
    await say(alice, "bob", "a2")
    page = await bob.ok("chat.sync", {"after": cursor, "limit": 2})
    assert (bodies(page["messages"]), page["more"]) == (["c1", "b1"], True)
    page = await bob.ok("chat.sync", {"after": page["cursor"], "limit": 2})
    assert (bodies(page["messages"]), page["more"]) == (["a2"], False)
    again = await bob.ok("chat.sync", {"after": page["cursor"]})
    assert again == {"messages": [], "cursor": page["cursor"], "more": False}


async def test_a_reader_who_syncs_while_many_write_misses_nothing(peers: Peers, bob: Peer) -> None:
    writers = [await peers.sign_in(f"writer{number}") for number in range(8)]
    seen: list[str] = []
    cursor = "0"

    async def write(peer: Peer) -> None:
        for number in range(15):
            await say(peer, "bob", f"{peer.principal.user}:{number}")

    async def read() -> None:
        nonlocal cursor
        page = await bob.ok("chat.sync", {"after": cursor, "limit": 7})
        seen.extend(bodies(page["messages"]))
        cursor = page["cursor"]

    writing = asyncio.gather(*(write(peer) for peer in writers))
    while not writing.done():
        await read()
    await writing
    while len(seen) < 120:
        before = len(seen)
        await read()
        assert len(seen) > before
    assert sorted(seen) == sorted(f"writer{writer}:{number}" for writer in range(8) for number in range(15))
    for peer in writers:
        mine = [body for body in seen if body.startswith(f"{peer.principal.user}:")]
        assert mine == [f"{peer.principal.user}:{number}" for number in range(15)]


async def test_unread_counts_fall_with_the_read_cursor_and_the_peer_sees_it(
    peers: Peers, alice: Peer, bob: Peer
) -> None:
    for body in ("1", "2", "3"):
        await say(alice, "bob", body)
    await say(bob, "alice", "4")

    async def view(peer: Peer) -> tuple[int, int, int]:
        (one,) = (await peer.ok("chat.conversations", {}))["conversations"]
        return one["unread"], one["read_seq"], one["peer_read_seq"]

    assert (await view(bob), await view(alice)) == ((3, 0, 0), (1, 0, 0))
    await bob.ok("chat.read", {"with": "alice", "seq": 2})
    assert (await view(bob), await view(alice)) == ((1, 2, 0), (1, 0, 2))
    await bob.ok("chat.read", {"with": "alice", "seq": 1})  # never backwards
    await bob.ok("chat.read", {"with": "alice", "seq": 99})  # nor beyond the end
    assert (await view(bob), await view(alice)) == ((0, 4, 0), (1, 0, 4))
    await say(alice, "bob", "5")
    assert await view(bob) == (1, 4, 0)


async def test_a_read_cursor_that_moves_is_told_to_the_peer_and_to_ones_own_devices(
    peers: Peers, alice: Peer, bob: Peer
) -> None:
    await say(alice, "bob", "1")
    for _ in range(2):
        await bob.ok("chat.read", {"with": "alice", "seq": 1})
    told = [(row.audience, json.loads(row.data)) for row in await peers.events() if row.event == "chat.read"]
    assert sorted(told, key=lambda one: one[0]) == sorted(
        [
            ((alice.user_id,), {"with": "bob", "seq": 1, "by": "bob"}),
            ((bob.user_id,), {"with": "alice", "seq": 1, "by": "bob"}),
        ],
        key=lambda one: one[0],
    )


async def test_conversations_come_latest_first_in_pages(peers: Peers, alice: Peer) -> None:
    for name in ("ann", "ben", "cem"):
        await peers.sign_in(name, name=name.title())
        await say(alice, name, f"hi {name}")
    await say(alice, "ann", "again")
    page = await alice.ok("chat.conversations", {"limit": 2})
    assert [(one["with"]["name"], one["last"]["body"]) for one in page["conversations"]] == [
        ("Ann", "again"),
        ("Cem", "hi cem"),
    ]
    rest = await alice.ok("chat.conversations", {"limit": 2, "cursor": page["cursor"]})
    assert [one["with"]["id"] for one in rest["conversations"]] == ["ben"]
    assert "cursor" not in rest
    await say(await peers.sign_in("ben"), "alice", "later")
    synced = await alice.ok("chat.sync", {"after": page["sync_cursor"]})
    assert bodies(synced["messages"]) == ["later"]


async def test_typing_reaches_the_peers_sockets_and_is_not_stored(
    peers: Peers, ephemeral: Ephemeral, alice: Peer, bob: Peer
) -> None:
    await alice.ok("chat.typing", {"with": "bob"})
    assert ephemeral.sent == [(bob.user_id, "chat.typing", TypingEvent("alice"))]
    assert await peers.events() == []


async def test_who_is_blocked_can_neither_write_nor_type(
    peers: Peers, ephemeral: Ephemeral, blocks: Blocks, alice: Peer, bob: Peer
) -> None:
    blocks.pairs.add((alice.user_id, bob.user_id))
    assert (await alice.error("chat.send", {"to": "bob", "body": "hi"}))["code"] == "forbidden"
    assert (await alice.error("chat.typing", {"with": "bob"}))["code"] == "forbidden"
    assert (ephemeral.sent, await peers.events()) == ([], [])
    assert (await bob.ok("chat.sync", {}))["messages"] == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"to": "nobody", "body": "x"}, "not_found"),
        ({"to": "a\0b", "body": "x"}, "not_found"),
        ({"to": "alice", "body": "to myself"}, "invalid_data"),
        ({"to": "bob", "body": ""}, "invalid_data"),
        ({"to": "bob", "body": "nul \0 inside"}, "invalid_data"),
        ({"to": "bob", "body": "x" * (BODY_CHARS_MAX + 1)}, "invalid_data"),
        ({"to": "bob", "body": "x", "kind": "Not A Kind"}, "invalid_data"),
        ({"to": "bob"}, "invalid_data"),
    ],
)
async def test_what_cannot_be_sent_is_refused(alice: Peer, bob: Peer, data: dict[str, Any], code: str) -> None:
    assert (await alice.error("chat.send", data))["code"] == code
    assert (await bob.ok("chat.sync", {}))["messages"] == []


async def test_the_longest_message_in_the_widest_letters_fits(alice: Peer, bob: Peer) -> None:
    body = "😀" * BODY_CHARS_MAX
    assert (await say(alice, "bob", body))["body"] == body


async def test_a_user_of_another_tenant_is_not_found(peers: Peers, alice: Peer) -> None:
    tenant = await peers.accounts.ensure_tenant("elsewhere")
    async with peers.outbox.transaction(tenant) as tx:
        await peers.accounts.ensure_user(tx.conn, tenant, "stranger")
    assert (await alice.error("chat.send", {"to": "stranger", "body": "x"}))["code"] == "not_found"


async def test_unread_of_all_conversations_add_up(peers: Peers, pool: asyncpg.Pool, alice: Peer, bob: Peer) -> None:
    carol = await peers.sign_in("carol")
    for sender, count in ((bob, 2), (carol, 1)):
        for _ in range(count):
            await say(sender, "alice", "x")
    chat = Chat(pool, peers.outbox, peers.accounts, publish_ephemeral=Ephemeral().publish)
    assert await chat.unread(alice.principal) == 3
    assert await chat.unread(bob.principal) == 0
