"""The ingestor's clock, believed only while the database's clock agrees with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from schemas.errors import RetryableError
from schemas.metric_defs import Metrics

log = structlog.get_logger("ingestor")
# As far as a tap's clock may be ahead (`clock_ahead_ms_max`): more than any clock that is kept in time is wrong.
_APART_MS_MAX = 300_000
# By our own clock, so that a jump of it is found at once. A check costs one short query.
_CHECKED_FOR_MS = 1_000


class CheckedClock:
    """The time by which events expire or are clamped. A wrong clock would dead-letter the whole log as `expired`."""

    def __init__(
        self,
        *,
        clock_ms: Callable[[], int],
        database_clock_ms: Callable[[], Awaitable[int]],
        metrics: Metrics,
    ) -> None:
        """Make a clock that has not been checked. `clock_ms`, `database_clock_ms`: Unix ms; the second raises RetryableError."""
        self._clock_ms = clock_ms
        self._database_clock_ms = database_clock_ms
        self._metrics = metrics
        self._checking = asyncio.Lock()
        self._agreed_at_ms: int | None = None
        self._is_apart = False

    @property
    def agrees(self) -> bool:
        """Whether the clocks agreed when they were last compared."""
        return self._agreed_at_ms is not None and not self._is_apart

    async def now_ms(self) -> int:
        """Return the time (Unix ms), compared with the database's within the last second.

        Raises RetryableError where the clocks are apart, or the database is away.
        """
        now_ms = self._clock_ms()
        if self._is_checked(now_ms):
            return now_ms
        # Batches that ask at once share a check.
        async with self._checking:
            now_ms = self._clock_ms()
            return now_ms if self._is_checked(now_ms) else await self._check()

    def _is_checked(self, now_ms: int) -> bool:
        return self.agrees and 0 <= now_ms - (self._agreed_at_ms or 0) < _CHECKED_FOR_MS

    async def _check(self) -> int:
        before_ms = self._clock_ms()
        database_ms = await self._database_clock_ms()
        now_ms = self._clock_ms()
        # At both ends, because our clock may jump during the query.
        apart_ms = max(before_ms - database_ms, now_ms - database_ms, key=abs)
        self._note(apart_ms, is_apart=abs(apart_ms) > _APART_MS_MAX)
        if self._is_apart:
            raise RetryableError("this host's clock and the database's are apart")
        self._agreed_at_ms = now_ms
        return now_ms

    def _note(self, apart_ms: int, *, is_apart: bool) -> None:
        self._metrics.ingest_clocks_apart.set(is_apart)
        if is_apart and not self._is_apart:
            apart_s = abs(apart_ms) // 1000
            which = "ahead of" if apart_ms > 0 else "behind"
            log.error(
                "clocks_apart",
                message=f"This host's clock is {apart_s:,} seconds {which} the database's, so nothing is stored: set the wrong"
                " one right. The ingestor then goes on by itself.",
            )
        elif self._is_apart and not is_apart:
            log.info("clocks_agree")
        self._is_apart = is_apart
