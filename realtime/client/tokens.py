"""The user's token: a text, or a function that fetches one; and when to fetch the next. Imports errors only."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from realtime.client.endings import Lost
from realtime.client.errors import ClientError

REFRESH_EVERY_MS = 1_000  # at most, however short tokens live
REFRESH_AHEAD_MS = 60_000  # a new token is fetched so long before the old one ends, or at half of a shorter life

TokenSource = str | Callable[[], Awaitable[str]]


class Tokens:
    """The token of one client.

    Args:
        source: a token, or an async function that fetches one.
    """

    __slots__ = ("_ahead_ms", "_expires_ms", "_source")

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._expires_ms = 0
        self._ahead_ms = 0.0

    async def fetch(self) -> str:
        """Return a token to sign in or refresh with.

        Raises:
            Lost: the app's function failed; it asks its backend over the same bad network.
        """
        if isinstance(self._source, str):
            return self._source
        try:
            return await self._source()
        except ClientError:
            raise
        except Exception as exc:
            raise Lost(f"no token: {exc}") from exc

    def replace(self, token: str) -> None:
        """Sign in with this one from now on, unless there is a function to ask."""
        if isinstance(self._source, str):
            self._source = token

    def lives_until(self, expires_ms: int, *, server_time_ms: int | None = None) -> None:
        """Note the server's word on when the token ends, and its clock if it told that."""
        self._expires_ms = expires_ms
        if server_time_ms:
            self._ahead_ms = server_time_ms - time.time() * 1000

    def renewal_delay_s(self) -> float | None:
        """Return how long to wait before fetching the next token; None if there is nothing to fetch with."""
        if isinstance(self._source, str) or not self._expires_ms:
            return None
        left_ms = self._expires_ms - self._ahead_ms - time.time() * 1000
        return max(REFRESH_EVERY_MS, left_ms - REFRESH_AHEAD_MS, left_ms / 2) / 1000
