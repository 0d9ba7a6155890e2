"""How often each token may ask."""

from __future__ import annotations

import math
from collections.abc import Callable
from uuid import UUID

from cachetools import LRUCache


class RateLimits:
    """A bucket of tokens for each API token: `burst` requests at once, refilled at its rate.

    The buckets are bounded in number; one that is pushed out by others begins full again. `timer`: seconds, monotonic.
    """

    def __init__(self, burst: int, buckets_max: int, timer: Callable[[], float]) -> None:
        self._burst = burst
        self._timer = timer
        # What is left, and when that was.
        self._buckets: LRUCache[UUID, tuple[float, float]] = LRUCache(buckets_max)

    def wait_s(self, token_id: UUID, per_s: float) -> int:
        """Take one request and return 0, or return the seconds after which there is one to take."""
        now_s = self._timer()
        left, at_s = self._buckets.get(token_id, (float(self._burst), now_s))
        left = min(left + (now_s - at_s) * per_s, self._burst)
        if left >= 1:
            self._buckets[token_id] = (left - 1, now_s)
            return 0
        self._buckets[token_id] = (left, now_s)
        return max(math.ceil((1 - left) / per_s), 1)
