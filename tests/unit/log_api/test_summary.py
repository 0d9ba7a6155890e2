"""Summaries within a time limit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from log_api.ports import Count
from log_api.sql_builder import Field, SummaryQuery
from log_api.summary import summarize
from schemas.errors import RetryableError
from tests.unit.log_api.memory_log import MemoryLog

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


class Slow(MemoryLog):
    """Counts one record per bucket and takes a second per day. Unavailable from call `fails` on."""

    def __init__(self, fails: int = 1000) -> None:
        super().__init__()
        self.now_s = 0.0
        self.asked: list[tuple[int, ...]] = []
        self._fails = fails

    def timer(self) -> float:
        return self.now_s

    async def counts(self, query: SummaryQuery) -> Sequence[Count]:
        if len(self.asked) + 1 >= self._fails:
            raise RetryableError("away")
        self.asked.append(query.bounds_ms)
        self.now_s += 1
        return [Count(number, "x", 1) for number in range(len(query.bounds_ms) - 1)]


def asked(bounds_ms: Sequence[int]) -> SummaryQuery:
    return SummaryQuery(("a",), tuple(bounds_ms), Field.ACTION_TYPE)


async def test_days_are_counted_newest_first() -> None:
    log = Slow()
    bounds = [12 * HOUR_MS, *range(DAY_MS, 3 * DAY_MS + 1, 12 * HOUR_MS)]
    found = await summarize(log, asked(bounds), 100, log.timer)
    assert log.asked == [
        (2 * DAY_MS, 2 * DAY_MS + 12 * HOUR_MS, 3 * DAY_MS),
        (DAY_MS, DAY_MS + 12 * HOUR_MS, 2 * DAY_MS),
        (12 * HOUR_MS, DAY_MS),
    ]
    assert (found.complete, found.counted_since_ms) == (True, 12 * HOUR_MS)
    assert [one["since"][8:13] for one in found.buckets] == ["01T12", "02T00", "02T12", "03T00", "03T12"]


@pytest.mark.parametrize(("time_s", "fails"), [(3, 1000), (100, 4)])
async def test_days_beyond_the_time_limit_are_left_out_and_reported(time_s: float, fails: int) -> None:
    log = Slow(fails)
    found = await summarize(log, asked(range(0, 10 * DAY_MS + 1, DAY_MS)), time_s, log.timer)
    assert (len(found.buckets), found.complete, found.counted_since_ms) == (3, False, 7 * DAY_MS)


async def test_a_summary_that_counted_nothing_is_retryable() -> None:
    log = Slow(1)
    with pytest.raises(RetryableError):
        await summarize(log, asked([0, DAY_MS]), 100, log.timer)
