"""A token bucket."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Holds at most `burst` tokens and refills at `per_s` tokens a second. `clock` returns monotonic seconds."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._refilled_s = clock()

    def take(self, spare: float = 0) -> bool:
        """Take one token. Returns False if there is none, or if fewer than `spare` would be left."""
        now_s = self._clock()
        self._tokens = min(self._tokens + (now_s - self._refilled_s) * self._per_s, self._burst)
        self._refilled_s = now_s
        if self._tokens < 1 + spare:
            return False
        self._tokens -= 1
        return True
