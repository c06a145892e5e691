"""What development and operators' commands do on the database: tokens for trying the server, the audit.

Owns how a development user comes to be. Imports services, never stores; reachable over HTTP only with --dev.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from billing.archive import archive_month, drop_month, move_archive
from billing.audit import audit
from billing.ledger import grant
from billing.wallets import balance
from realtime.accounts.keys import KeyRing, load_keys
from realtime.accounts.models import HostChange
from realtime.accounts.service import HOST_ROLE, Accounts
from realtime.accounts.tokens import mint
from realtime.config import Settings
from realtime.ids import new_id
from realtime.outbox import Outbox, OutboxRow
from realtime.protocol.errors import InvalidData

COINS_MAX = 1_000_000  # of one grant; the demo is no mint
LANGUAGES = ("en",)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevGrant:
    """Whom a development token is for. `coins` tops the wallet up to that many; 0 and "" leave things as they are."""

    user: str
    name: str = ""
    host: bool = False
    coins: int = 0
    price_coins: int = 0
    pulse_ms: int = 0
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    media: tuple[str, ...] = ()


async def prepare_user(
    settings: Settings, keys: KeyRing, accounts: Accounts, outbox: Outbox, wish: DevGrant, *, ttl_s: int
) -> str:
    """Make the user as wished and return a token for them.

    Raises:
        InvalidData: an empty user, or too many coins.
    """
    if not wish.user or not 0 <= wish.coins <= COINS_MAX:
        raise InvalidData(f"a user needs an id, and coins are 0 to {COINS_MAX}")
    tenant_id = await accounts.ensure_tenant(settings.tenant)
    async with outbox.transaction(tenant_id) as tx:
        card = await accounts.ensure_user(tx.conn, tenant_id, wish.user, wish.name or wish.user)
        if wish.name and wish.name != card.name:
            await accounts.update_profile(tx, card.user_id, name=wish.name, avatar_url=None)
        if wish.host:
            change = HostChange(
                price_coins=wish.price_coins or None,
                pulse_ms=wish.pulse_ms or None,
                languages=wish.languages or None,
                tags=wish.tags or None,
                media=wish.media or None,
            )
            await accounts.update_host(tx, card.user_id, change)
        missing = wish.coins - (await balance(tx.conn, card.user_id)).coins
        if wish.coins and missing > 0:
            await grant(
                tx.conn,
                transfer_id=new_id(),
                user_id=card.user_id,
                coins=missing,
                bucket="promo",
                reason="development",
            )
    return mint(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        tenant=settings.tenant,
        user=wish.user,
        name=wish.name,
        roles=(HOST_ROLE,) if wish.host else (),
        now_ms=time.time_ns() // 1_000_000,
        life_ms=ttl_s * 1000,
    )


async def mint_token(settings: Settings, url: str, wish: DevGrant, *, ttl_s: int) -> str:
    """Do `prepare_user` on the database at `url`, as the command line does."""
    pool = await asyncpg.create_pool(url, min_size=1, max_size=2)
    try:
        keys = load_keys(settings.jwt_secret, settings.data_path)
        outbox = Outbox(pool, _Unpublished())
        return await prepare_user(settings, keys, Accounts(pool), outbox, wish, ttl_s=ttl_s)
    finally:
        await pool.close()


async def audit_books(url: str) -> dict[str, Any]:
    """Audit the books at `url`; return the report as JSON values."""
    conn = await asyncpg.connect(url)
    try:
        report = await audit(conn)
    finally:
        await conn.close()
    return {
        "ok": report.ok,
        "complete": report.complete,
        "took_ms": report.took_ms,
        "checks": [asdict(check) for check in report.checks],
        "faults": [asdict(fault) for fault in report.faults],
    }


async def archive_charges(url: str, month: str, folder: Path, *, drop: bool) -> str:
    """Archive the charges of `month` (YYYY-MM) to a file in `folder` (absolute); return a line that says what was done.

    When that was done before and the file has been moved to `folder` since, that is recorded.

    Raises:
        WrongState: the month cannot be archived or dropped; see billing.archive.
        ArchiveUnavailable: it was archived elsewhere, and its file is not in `folder`.
    """
    partition = f"charges_{month.replace('-', '')}"
    conn = await asyncpg.connect(url)
    try:
        done: str | None = await conn.fetchval("select file from billing.archives where partition = $1", partition)
        if done is not None and Path(done).parent != folder:
            done = f"{await move_archive(conn, partition, folder)}: recorded as where the file is now"
        elif done is None:
            archived = await archive_month(conn, partition, folder)
            done = f"{archived.path}: {archived.charges} charges, {archived.coins} coins, sha256 {archived.sha256}"
        if drop:
            await drop_month(conn, partition)
            done += "; dropped from the database"
    finally:
        await conn.close()
    return done


class _Unpublished:
    """The command line publishes nothing itself: a running node relays the rows that it leaves."""

    async def publish_rows(self, rows: Sequence[OutboxRow]) -> None:
        raise AssertionError("no relay runs here")
