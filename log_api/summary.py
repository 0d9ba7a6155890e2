"""Counts the records of a time range by day, newest day first, within a time limit."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

from log_api.cpu_turns import CpuTurns
from log_api.ports import Count, LogReads
from log_api.sql_builder import SummaryQuery
from schemas.errors import RetryableError
from schemas.identity import rfc3339_ms

_DAY_MS = 86_400_000
_VALUES_MAX = 100


class Summary(NamedTuple):
    """Buckets as the API returns them, oldest first; the time (Unix ms) from which they count; whether that is all."""

    buckets: Sequence[dict[str, Any]]
    counted_since_ms: int
    complete: bool


async def summarize(
    reads: LogReads, query: SummaryQuery, time_s: float, timer: Callable[[], float] = time.monotonic
) -> Summary:
    """Return the counts of as many days as can be read in `time_s`. Raises RetryableError if that is none."""
    if query.hops > 1:
        return Summary(await _hopping_windows(reads, query), query.bounds_ms[0], complete=True)
    began_s = timer()
    parts = _days(query.bounds_ms)
    found: list[dict[str, Any]] = []
    counted_since_ms = query.bounds_ms[-1]
    # The newest day first: if the time does not suffice, the oldest days are missing, and `counted_since` says so.
    for bounds_ms in reversed(parts):
        try:
            counts = await reads.counts(replace(query, bounds_ms=bounds_ms))
        except RetryableError:
            if not found:
                raise
            break
        found = await _buckets(reads.turns, bounds_ms, counts) + found
        counted_since_ms = bounds_ms[0]
        if timer() - began_s >= time_s:
            break
    return Summary(found, counted_since_ms, counted_since_ms == query.bounds_ms[0])


async def _hopping_windows(reads: LogReads, query: SummaryQuery) -> Sequence[dict[str, Any]]:
    """Return windows of `hops` buckets, one starting at each boundary that has enough buckets after it."""
    counts: dict[int, Counter[str | None]] = defaultdict(Counter)
    for one in await reads.counts(query):
        counts[one.bucket][one.value] += one.records
    buckets, window = [], Counter[str | None]()
    for last, (_, before_ms) in enumerate(pairwise(query.bounds_ms)):
        window += counts[last]
        first = last + 1 - query.hops
        if first < 0:
            continue
        await asyncio.sleep(0)  # many windows of many values would block the event loop
        found = [Count(first, value, records) for value, records in window.items()]
        buckets.append(_bucket(query.bounds_ms[first], before_ms, found))
        window -= counts.pop(first)
    return buckets


def _days(bounds_ms: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Split the boundaries into one sequence for each day."""
    parts: list[tuple[int, ...]] = []
    for low, high in pairwise(bounds_ms):
        if low == high:
            continue
        if parts and parts[-1][0] // _DAY_MS == low // _DAY_MS:
            parts[-1] = (*parts[-1], high)
        else:
            parts.append((low, high))
    return parts


async def _buckets(
    turns: CpuTurns, bounds_ms: tuple[int, ...], counts: Sequence[Count]
) -> list[dict[str, Any]]:
    by_bucket: dict[int, list[Count]] = defaultdict(list)

    def group(some: Sequence[Count]) -> None:
        for one in some:
            by_bucket[one.bucket].append(one)

    async for _ in turns.results(counts, group):
        pass
    buckets = []
    for number, (since_ms, before_ms) in enumerate(pairwise(bounds_ms)):
        await asyncio.sleep(0)
        buckets.append(_bucket(since_ms, before_ms, by_bucket[number]))
    return buckets


def _bucket(since_ms: int, before_ms: int, found: list[Count]) -> dict[str, Any]:
    total = sum(one.records for one in found)
    listed = heapq.nsmallest(
        _VALUES_MAX, found, key=lambda one: (-one.records, one.value is not None, one.value or "")
    )
    return {
        "since": rfc3339_ms(max(since_ms, 0)),
        "before": rfc3339_ms(max(before_ms, 0)),
        "count": total,
        "values": [{"value": one.value, "count": one.records} for one in listed],
        "others": total - sum(one.records for one in listed),
    }
