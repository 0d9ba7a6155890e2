"""Rate limits of API tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from uuid import UUID

from cachetools import LRUCache


class RateLimits:
    """A token bucket for each API token: `burst` requests at once, refilled at the token's rate.

    At most `buckets_max` buckets are kept. An evicted one starts full again. `timer` returns monotonic seconds.
    """

    def __init__(self, burst: int, buckets_max: int, timer: Callable[[], float]) -> None:
        self._burst = burst
        self._timer = timer
        # For each API token: the requests left, and the time when that was computed.
        self._buckets: LRUCache[UUID, tuple[float, float]] = LRUCache(buckets_max)

    def wait_s(self, token_id: UUID, per_s: float) -> int:
        """Take one request and return 0, or return the whole seconds until the next request is allowed."""
        now_s = self._timer()
        left, at_s = self._buckets.get(token_id, (float(self._burst), now_s))
        left = min(left + (now_s - at_s) * per_s, self._burst)
        if left >= 1:
            self._buckets[token_id] = (left - 1, now_s)
            return 0
        self._buckets[token_id] = (left, now_s)
        return max(math.ceil((1 - left) / per_s), 1)

    def headers(self, token_id: UUID, per_s: float) -> Mapping[str, str]:
        """Return the response headers that show a client how much is left after its last request.

        `r`: requests left; `t`: seconds until all are; `q`: requests at once; `w`: seconds in which as many are refilled.
        """
        left, _ = self._buckets.get(token_id, (float(self._burst), 0.0))
        return {
            "Ratelimit": f'"default";r={int(left)};t={math.ceil((self._burst - left) / per_s)}',
            "Ratelimit-Policy": f'"burst";q={self._burst};w={math.ceil(self._burst / per_s)}',
        }
