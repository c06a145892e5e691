"""When to try a push again: a pure function of attempts, the service's wish, and the end of its use."""

from __future__ import annotations

ATTEMPTS_MAX = 8  # 1 + 2 + 4 + ... with the cap: about five minutes of an outage
BACKOFF_FIRST_MS = 1_000
BACKOFF_MAX_MS = 120_000


def next_attempt_ms(*, attempts: int, retry_after_ms: int, expires_ms: int, now_ms: int) -> int | None:
    """Return after how many milliseconds to try again, or None when it is over.

    Args:
        attempts: how many there have been.
        retry_after_ms: for how long the service wants to be left alone; 0 when it did not say.
        expires_ms: unix ms after which the push is pointless.
    """
    if attempts >= ATTEMPTS_MAX:
        return None
    delay_ms = max(min(BACKOFF_FIRST_MS << (attempts - 1), BACKOFF_MAX_MS), retry_after_ms)
    return delay_ms if now_ms + delay_ms < expires_ms else None
