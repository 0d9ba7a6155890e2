"""Counts the requests that matched no operation, newest day first, within a time limit."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from log_api.ports import LogReads, UnmatchedCount
from schemas.errors import RetryableError
from schemas.identity import rfc3339_ms

_DAY_MS = 86_400_000
# In one response.
_LISTED_MAX = 1_000
# While counting: recorded paths are prefixes from the document, so more than this is not expected.
GROUPS_MAX = 10_000


class Unmatched(NamedTuple):
    """The most frequent groups as JSON; the time (Unix ms) from which they count; whether these are all groups and the whole range."""

    listed: Sequence[dict[str, Any]]
    counted_since_ms: int
    complete: bool


async def count_unmatched(
    reads: LogReads,
    accounts: tuple[str, ...] | None,
    range_ms: tuple[int, int],
    time_s: float,
    timer: Callable[[], float] = time.monotonic,
) -> Unmatched:
    """Return the counts of as many days as can be read in `time_s`. Raises RetryableError if that is none."""
    since_ms, before_ms = range_ms
    until_s = timer() + time_s
    groups: dict[tuple[str, str | None, str | None], UnmatchedCount] = {}
    counted_since_ms = max(before_ms, since_ms)
    is_cut = False
    for low_ms, high_ms in _days_back(since_ms, before_ms):
        try:
            found = await reads.unmatched(accounts, low_ms, high_ms, GROUPS_MAX)
        except RetryableError:
            if counted_since_ms == before_ms:
                raise
            break
        counted_since_ms = low_ms
        for each in found:
            key = each[:3]
            known = groups.get(key)
            if known is None and len(groups) == GROUPS_MAX:
                is_cut = True
            elif known is None:
                groups[key] = each
            else:
                groups[key] = known._replace(
                    records=known.records + each.records, last_ms=max(known.last_ms, each.last_ms)
                )
        is_cut = is_cut or len(found) == GROUPS_MAX
        if timer() >= until_s:
            break
    listed = heapq.nsmallest(
        _LISTED_MAX,
        groups.values(),
        key=lambda one: (-one.records, one.reason, one.method or "", one.path or ""),
    )
    complete = counted_since_ms <= since_ms and not is_cut and len(listed) == len(groups)
    return Unmatched([_unmatched_json(one) for one in listed], counted_since_ms, complete)


def _days_back(since_ms: int, before_ms: int) -> Iterator[tuple[int, int]]:
    """Yield the days of a range (Unix ms), newest first."""
    while since_ms < before_ms:
        low_ms = max((before_ms - 1) // _DAY_MS * _DAY_MS, since_ms)
        yield low_ms, before_ms
        before_ms = low_ms


def _unmatched_json(one: UnmatchedCount) -> dict[str, Any]:
    return {
        "reason": one.reason,
        "method": one.method,
        "path": one.path,
        "count": one.records,
        "last_seen": rfc3339_ms(one.last_ms),
    }
