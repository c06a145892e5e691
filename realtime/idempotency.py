"""The first reply to a mutation, stored in the mutation's own transaction and given again to every repeat.

Owns the table realtime.idempotency. Knows nothing of operations; imports the outbox, whose rows it may write along.

The record is written *last* in the transaction. A repeat that runs at the same time does its work, waits at this
insert for the first to commit, and then rolls back and gives the first's reply: right for every interleaving, and
one statement in the ordinary case instead of two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg
import msgspec

from realtime.outbox import INSERT_SQL, OutboxRow, columns
from realtime.protocol.errors import KeyReused

KEEP_DAYS = 7
PURGE_ROWS_MAX = 5_000

REMEMBER_SQL = """
insert into realtime.idempotency (tenant_id, user_id, key, request_hash, reply) values ($1, $2, $3, $4, $5)
on conflict do nothing returning true
"""
# The reply and the events of a mutation in one round trip; a conflict rolls both back.
REMEMBER_AND_TELL_SQL = f"""
with told as ({INSERT_SQL})
insert into realtime.idempotency (tenant_id, user_id, key, request_hash, reply) values ($9, $10, $11, $12, $13)
on conflict do nothing returning true
"""  # noqa: S608 - two constants of ours, no input
RECALL_SQL = "select request_hash, reply from realtime.idempotency where tenant_id = $1 and user_id = $2 and key = $3"
# The same for many mutations in one transaction; it returns the keys that were new. Sorted, so that two of these cannot
# wait for each other.
REMEMBER_ALL_SQL = f"""
with told as ({INSERT_SQL})
insert into realtime.idempotency (tenant_id, user_id, key, request_hash, reply)
select * from unnest($9::int[], $10::bigint[], $11::text[], $12::bytea[], $13::bytea[]) as a (tenant_id, user_id, key)
order by tenant_id, user_id, key
on conflict do nothing returning tenant_id, user_id, key
"""  # noqa: S608 - a constant of ours, no input
PURGE_SQL = """
delete from realtime.idempotency where ctid = any(array(
    select ctid from realtime.idempotency where created_at < now() - make_interval(days => $1) limit $2))
"""


class Repeated(Exception):
    """This request was answered before: roll back, and recall that answer."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An idempotency key with a hash of what was asked under it."""

    tenant_id: int
    user_id: int
    key: str
    request_hash: bytes


def request_key(tenant_id: int, user_id: int, key: str, op: str, data: msgspec.Struct) -> RequestKey:
    """Return the key of a request; the hash is over the decoded data, so it is the same in both codecs."""
    digest = hashlib.blake2b(op.encode() + b"\0" + msgspec.json.encode(data), digest_size=16).digest()
    return RequestKey(tenant_id, user_id, key, digest)


def ok_reply(ok: object) -> bytes:
    """Return what is stored for a request that was answered with `ok`."""
    return msgspec.json.encode({"ok": ok})


async def remember(conn: asyncpg.Connection, key: RequestKey, reply: bytes, rows: Sequence[OutboxRow] = ()) -> None:
    """Store the reply (JSON of `{"ok": ...}` or `{"error": ...}`), as the transaction's last statement.

    Args:
        rows: events to insert into the outbox in the same statement.

    Raises:
        Repeated: there is a reply under this key already; roll back.
    """
    record = (key.tenant_id, key.user_id, key.key, key.request_hash, reply)
    if rows:
        fresh = await conn.fetchval(REMEMBER_AND_TELL_SQL, *columns(rows), *record)
    else:
        fresh = await conn.fetchval(REMEMBER_SQL, *record)
    if not fresh:
        raise Repeated


async def remember_all(
    conn: asyncpg.Connection, replies: Mapping[RequestKey, bytes], rows: Sequence[OutboxRow]
) -> set[RequestKey]:
    """Store the replies of mutations that share a transaction, with their events, as its last statement.

    Returns:
        the keys that had a reply already; if there are any, roll back.
    """
    keys = list(replies)
    fresh = await conn.fetch(
        REMEMBER_ALL_SQL,
        *columns(rows),
        [key.tenant_id for key in keys],
        [key.user_id for key in keys],
        [key.key for key in keys],
        [key.request_hash for key in keys],
        list(replies.values()),
    )
    stored = {(row["tenant_id"], row["user_id"], row["key"]) for row in fresh}
    return {key for key in keys if (key.tenant_id, key.user_id, key.key) not in stored}


async def recall(conn: asyncpg.Connection, key: RequestKey) -> bytes | None:
    """Return the first reply, or None when the key is new.

    Raises:
        KeyReused: the key was used for a request with other contents.
    """
    row = await conn.fetchrow(RECALL_SQL, key.tenant_id, key.user_id, key.key)
    if row is None:
        return None
    if row["request_hash"] != key.request_hash:
        raise KeyReused
    reply: bytes = row["reply"]
    return reply


async def purge(conn: asyncpg.Connection) -> int:
    """Delete one batch of replies older than seven days; return how many went."""
    status = await conn.execute(PURGE_SQL, KEEP_DAYS, PURGE_ROWS_MAX)
    return int(status.split()[-1])
