"""Counting a range day after day, the newest first, as far as the time reaches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

from log_api.listing import SummaryQuery
from log_api.ports import Count, LogDatabase
from schemas.errors import RetryableError
from schemas.identity import rfc3339_ms

_DAY_MS = 86_400_000
_VALUES_MAX = 100


class Summary(NamedTuple):
    """Buckets as they are served, oldest first, and from when on (Unix ms) they count."""

    buckets: Sequence[dict[str, Any]]
    counted_since_ms: int
    complete: bool


async def summarize(
    database: LogDatabase, query: SummaryQuery, time_s: float, timer: Callable[[], float] = time.monotonic
) -> Summary:
    """Return the counts of as many buckets as `time_s` allows. Raises RetryableError where it allows none."""
    began_s = timer()
    parts = _days(query.bounds_ms)
    found: list[dict[str, Any]] = []
    counted_since_ms = query.bounds_ms[-1]
    for bounds_ms in reversed(parts):
        try:
            counts = await database.counts(replace(query, bounds_ms=bounds_ms))
        except RetryableError:
            if not found:
                raise
            break
        found = _buckets(bounds_ms, counts) + found
        counted_since_ms = bounds_ms[0]
        if timer() - began_s >= time_s:
            break
    return Summary(found, counted_since_ms, counted_since_ms == query.bounds_ms[0])


def _days(bounds_ms: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the bounds in parts that each lie in one day, and together are all of them."""
    parts: list[tuple[int, ...]] = []
    for low, high in pairwise(bounds_ms):
        if low == high:
            continue
        if parts and parts[-1][0] // _DAY_MS == low // _DAY_MS:
            parts[-1] = (*parts[-1], high)
        else:
            parts.append((low, high))
    return parts


def _buckets(bounds_ms: tuple[int, ...], counts: Sequence[Count]) -> list[dict[str, Any]]:
    buckets = []
    for number, (since_ms, before_ms) in enumerate(pairwise(bounds_ms)):
        found = [one for one in counts if one.bucket == number]
        found.sort(key=lambda one: (-one.records, one.value is not None, one.value or ""))
        total = sum(one.records for one in found)
        shown = found[:_VALUES_MAX]
        buckets.append(
            {
                "since": rfc3339_ms(max(since_ms, 0)),
                "before": rfc3339_ms(max(before_ms, 0)),
                "count": total,
                "values": [{"value": one.value, "count": one.records} for one in shown],
                "others": total - sum(one.records for one in shown),
            }
        )
    return buckets
