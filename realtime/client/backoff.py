"""How long to wait before connecting again: exponential with full jitter. Pure; imports nothing of the project.

Full jitter spreads the clients of a node that went away over the whole interval, so that they do not return as one
wave (AWS Architecture Blog, "Exponential Backoff And Jitter").
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

STABLE_MS = 10_000  # a connection that lived so long was a good one: count attempts anew
PATIENT_ATTEMPT = 3  # where the count starts when the server asked us to wait
ATTEMPT_MAX = 16  # beyond it 2**attempt only grows past every cap


@dataclass(slots=True)
class Backoff:
    """Delays between attempts.

    Attributes:
        base_ms: upper bound of the first delay.
        cap_ms: upper bound of every delay.
        random: gives a number in [0, 1); replaced in tests.
    """

    base_ms: int = 500
    cap_ms: int = 30_000
    random: random.Random = field(default_factory=random.Random)

    def delay_ms(self, attempt: int) -> float:
        """Return the wait before attempt `attempt` (0 is the first after a loss): uniform in [0, bound)."""
        bound: int = min(self.cap_ms, self.base_ms * 2 ** min(attempt, ATTEMPT_MAX))
        return self.random.random() * bound


def next_attempt(attempt: int, *, lived_ms: float, patient: bool) -> int:
    """Return the attempt that follows a connection that was signed in for `lived_ms` (0: never was).

    Args:
        attempt: the number of the one that just ended, -1 before the first.
        patient: the server said that it has no room or that we were flooding.
    """
    following = 0 if lived_ms >= STABLE_MS else attempt + 1
    return max(following, PATIENT_ATTEMPT) if patient else following
