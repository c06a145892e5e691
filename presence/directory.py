"""The directory of hosts who can be reached, by tenant: an index in Redis. Imports batch only.

What is kept for a host (the card) is opaque here; it comes from the accounts service and goes to clients. Hosts are in
order of rating, and among equals the ones who registered first come first. The index may lag behind presence for the
moment that it takes to write it: who lists hosts checks the states of the page's few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from presence.batch import Batch, Script

PAGE_MAX: Final = 100
SCAN_MAX: Final = 2_000  # hosts that one query looks at: about 2 ms of the server's time
TIE_BITS: Final = 43  # the rank is a double: 52 bits hold a rating of up to 511 hundredths and this tie-breaker
RATING_SCALE: Final = 100


class BadCursor(ValueError):
    """The cursor is none that `query` gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the index knows of a host.

    Attributes:
        user_id: internal id.
        version: of her presence or profile, whichever changed; an older one never replaces a newer.
        card: what is shown; opaque.
        rating: 0 to 5, 0 before the first.
        price_coins: per pulse.
    """

    user_id: int
    version: int
    card: bytes
    rating: float = 0.0
    price_coins: int = 0
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    category: str = ""
    media: tuple[str, ...] = ()

    def facets(self) -> list[str]:
        """Return the names of the sets that she belongs to."""
        named = (("language", self.languages), ("tag", self.tags), ("media", self.media))
        found = [_facet(kind, value) for kind, values in named for value in values]
        return [*found, _facet("category", self.category)] if self.category else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which hosts: one of the languages, one of the tags, one of the media, the category, at most the price."""

    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    category: str = ""
    media: tuple[str, ...] = ()
    max_price_coins: int | None = None

    def groups(self) -> list[list[str]]:
        named = (("language", self.languages), ("tag", self.tags), ("media", self.media))
        groups = [[_facet(kind, value) for value in values] for kind, values in named if values]
        return [*groups, [_facet("category", self.category)]] if self.category else groups


@dataclass(frozen=True, slots=True)
class Page:
    """Hosts as (user id, card), best first; `cursor` asks for the next page, None on the last.

    A page with a cursor may hold fewer hosts than asked for, even none: then enough were looked at.
    """

    hosts: list[tuple[int, bytes]]
    cursor: str | None


class Directory:
    """The index of every tenant.

    Args:
        client: redis.asyncio Redis or RedisCluster; stays its maker's.
        prefix: of all keys.
        scan_max: hosts that one query looks at.
    """

    __slots__ = ("_batch", "_prefix", "_put", "_query", "_scan_max")

    def __init__(self, client: Any, *, prefix: str = "tm", scan_max: int = SCAN_MAX) -> None:
        self._scan_max = scan_max
        self._batch = Batch(client)
        self._prefix = prefix
        self._put = Script("directory_put")
        self._query = Script("directory_query")

    async def close(self) -> None:
        await self._batch.close()

    async def put(self, tenant_id: int, host: Host) -> bool:
        """List a host; return False when something newer is there. Raises PresenceUnavailable."""
        keys = self._keys(tenant_id)
        return bool(
            await self._batch.run(
                self._put, keys, host.user_id, host.version, host.card, rank(host.user_id, host.rating),
                host.price_coins, self._facets(tenant_id), *host.facets(),
            )
        )  # fmt: skip

    async def remove(self, tenant_id: int, user_id: int, version: int) -> bool:
        """Take a host off; return False when something newer is there. Raises PresenceUnavailable."""
        keys = self._keys(tenant_id)
        return bool(await self._batch.run(self._put, keys, user_id, version, b"", 0, 0, self._facets(tenant_id)))

    async def query(self, tenant_id: int, query: Query, *, limit: int, cursor: str | None = None) -> Page:
        """Return a page of hosts.

        Args:
            limit: 1 to PAGE_MAX.
            cursor: of the page before.

        Raises:
            BadCursor: the cursor is none of ours.
            PresenceUnavailable: Redis cannot be reached.
        """
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 16):
            raise BadCursor("the cursor is none that hosts.list gave")
        cards, ranks, prices, *_ = self._keys(tenant_id)
        groups: list[str | int] = []
        for group in query.groups():
            groups += [len(group), *group]
        highest = "+inf" if query.max_price_coins is None else query.max_price_coins
        last, *rows = await self._batch.run(
            self._query, (cards, ranks, prices, self._key(tenant_id, "found")), cursor or "+inf",
            max(1, min(limit, PAGE_MAX)), highest, self._scan_max, self._facets(tenant_id),
            *groups,
        )  # fmt: skip
        hosts = [(int(rows[i]), rows[i + 1]) for i in range(0, len(rows), 2)]
        return Page(hosts, str(int(float(last))) if last else None)

    def _key(self, tenant_id: int, name: str) -> str:
        return f"{self._prefix}:{{h:{tenant_id}}}:{name}"

    def _keys(self, tenant_id: int) -> tuple[str, ...]:
        return tuple(self._key(tenant_id, name) for name in ("cards", "rank", "price", "facets", "versions"))

    def _facets(self, tenant_id: int) -> str:
        return self._key(tenant_id, "in:")


def rank(user_id: int, rating: float) -> int:
    """Return the score that orders hosts: rating first, then who has the lower id; distinct for distinct hosts.

    Ids that differ only above TIE_BITS share a score, which can hide one of the two at a page's edge, no more.
    """
    tie = (1 << TIE_BITS) - 1
    return (round(rating * RATING_SCALE) << TIE_BITS) + (tie - (user_id & tie))


def _facet(kind: str, value: str) -> str:
    # Newlines separate facets in the record of a host.
    return f"{kind}:{value.casefold().replace(chr(10), ' ')}"
