"""Finding a page's ids within a time limit, whatever is asked.

No statistics are trusted. A walk begins at the page's near end with a few records of the account, or a day where there is
no filter, which is all that a common value needs. What is rarer goes on in windows of time that grow as long as they
are quick, by an index on a filter where there is one. When the time is up, the page ends at the last window that was
read. A window is also what the planner has to think about: not every day that there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol
from uuid import UUID

from log_api.listing import (
    EXACT,
    Direction,
    Index,
    ListQuery,
    Statement,
    Way,
    best_index,
    bound_statement,
    hashes_statement,
    late_statement,
    walk_statement,
)
from log_api.records import Row
from schemas.errors import RetryableError
from schemas.identity import first_id_at

_FIRST_RECORDS = 1_000
_FIRST_RECORDS_EACH_MIN = 100
# Of the account's records.
_FREQUENT = 0.005
_WINDOW_S = 0.25
_GROWTH_MAX = 4.0
_ID_MAX = (1 << 128) - 1
_ID_RANDOM_BITS = 80
_DAY_MS = 86_400_000


class Reader(Protocol):
    """Where statements are run."""

    async def rows(self, statement: Statement, timeout_s: float) -> Sequence[Row]:
        """Return all rows. Raises TimeoutError where that takes longer; whatever was begun has then ended."""


class Ids(NamedTuple):
    """Ids in order, and the id beyond which to go on; None: there are no more."""

    ids: Sequence[UUID]
    after: UUID | None


class TimeLimits(NamedTuple):
    """How long a page is looked for (seconds): `found_s` once it holds something, `empty_s` until then. And the span of
    the log that one statement may touch: it opens and locks every partition there.
    """

    found_s: float
    empty_s: float
    span_ms: int = 32 * _DAY_MS


def spans(low: UUID, high: UUID, span_ms: int, *, ascending: bool) -> Iterator[tuple[UUID, UUID]]:
    """Return ranges of ids, near end first, that together are the range from `low` to `high`."""
    width = span_ms << _ID_RANDOM_BITS
    while low < high:
        if ascending:
            middle = UUID(int=min(low.int + width, high.int))
            yield low, middle
            low = middle
        else:
            middle = UUID(int=max(high.int - width, low.int))
            yield middle, high
            high = middle


async def find_ids(
    reader: Reader, query: ListQuery, limits: TimeLimits, timer: Callable[[], float] = time.monotonic
) -> Ids:
    """Return the ids of a page. Raises RetryableError where nothing at all could be read in time."""
    with suppress(TimeoutError):
        return await _Walk(reader, query, limits, timer).run()
    raise RetryableError("the log is not read in time")


class _Walk:
    def __init__(
        self, reader: Reader, query: ListQuery, limits: TimeLimits, timer: Callable[[], float]
    ) -> None:
        self._reader = reader
        self._query = query
        self._limits = limits
        self._timer = timer
        self._began_s = timer()
        self._ascending = query.direction is Direction.ASC
        self._wanted = query.skip + query.limit + 1
        self._records = max(_FIRST_RECORDS, 2 * self._wanted)
        self._found: list[UUID] = []
        self._start = query.id_range()[0 if self._ascending else 1]
        self._index = best_index(query)
        self._hashes: Sequence[int] | None = None

    async def run(self) -> Ids:
        low, high = self._narrowed(*self._query.id_range())
        if low >= high:
            return Ids([], None)
        if self._index is not None and self._index.name == EXACT:
            with suppress(TimeoutError):
                await self._read_spans(low, high, self._index)
                return self._page(self._found, None)
            self._found = []
        return await self._in_windows(low, high)

    async def _read_spans(self, low: UUID, high: UUID, index: Index) -> None:
        """Add the ids of a range, or as many as are wanted. Raises TimeoutError."""
        until_s = self._timer() + self._limits.found_s
        for span in spans(low, high, self._limits.span_ms, ascending=self._ascending):
            await self._read(span, index, max(until_s - self._timer(), 0.001))
            if len(self._found) >= self._wanted:
                return

    async def _in_windows(self, low: UUID, high: UUID) -> Ids:
        end = high if self._ascending else low
        place, begin, edge = await self._first_window(low, high)
        first_width = edge.int - begin.int
        index: Index | None = None
        while True:
            edge = self._bounded(place, edge, end)
            began_s, had = self._timer(), len(self._found)
            try:
                await self._read((min(place, edge), max(place, edge)), index, self._left_s())
            except TimeoutError:
                return self._stopped(place)
            # The first window may begin with time in which there is nothing yet.
            width, begin, place = edge.int - begin.int, edge, edge
            if len(self._found) >= self._wanted or place == end:
                return self._page(self._found, None)
            if self._left_s() <= 0:
                return self._stopped(place)
            growth = _WINDOW_S / max(self._timer() - began_s, _WINDOW_S / _GROWTH_MAX)
            edge = UUID(int=min(max(place.int + int(width * growth), 0), _ID_MAX))
            # An index on ranges of pages leads to all of them where a value is frequent.
            read = self._records * width / first_width
            index = None if len(self._found) - had >= _FREQUENT * read else self._index

    async def _first_window(self, low: UUID, high: UUID) -> tuple[UUID, UUID, UUID]:
        """Return where the first window begins, where it begins to hold records, and where it ends: with all of what is asked for by id,
        with a day where there is no filter, else with a few records of each account.
        """
        start, end = (low, high) if self._ascending else (high, low)
        if self._by_id():
            return start, start, end
        if self._query.conditions:
            return await self._first_records(low, high)
        at_ms = low.int >> _ID_RANDOM_BITS if self._ascending else (high.int - 1) >> _ID_RANDOM_BITS
        return start, start, first_id_at((at_ms // _DAY_MS + self._ascending) * _DAY_MS)

    async def _first_records(self, low: UUID, high: UUID) -> tuple[UUID, UUID, UUID]:
        """Return the window of the first span that holds records; where the time is up before, the end of what holds none."""
        empty_to = low if self._ascending else high
        for span in spans(low, high, self._limits.span_ms, ascending=self._ascending):
            window = await self._first_records_in(*span)
            if window is not None:
                self._start = empty_to
                return empty_to, *window
            empty_to = span[1] if self._ascending else span[0]
            if self._left_s() <= 0:
                break
        return empty_to, empty_to, high if self._ascending else low

    async def _first_records_in(self, low: UUID, high: UUID) -> tuple[UUID, UUID] | None:
        """Return the window of a span with a few records of each account; None where the span holds none."""
        start, end = (low, high) if self._ascending else (high, low)
        accounts = self._query.accounts
        records = self._records
        if accounts is not None:
            records = max(_FIRST_RECORDS_EACH_MIN, records // max(len(accounts), 1))
        firsts: list[UUID] = []
        bounds: list[UUID] = []
        for way in await self._ways((low, high), None, self._limits.empty_s):
            statement = bound_statement(self._query, way, (low, high), records)
            for row in await self._reader.rows(statement, self._limits.empty_s):
                firsts.append(row["first_id"])
                bounds += [] if row["bound_id"] is None else [row["bound_id"]]
        if not firsts:
            return None
        nearest = min if self._ascending else max
        edge = nearest(bounds, default=end)
        begin = nearest(firsts)
        # Accounts differ: one may have its few where another has nothing yet.
        return (start if begin == edge else begin), edge

    def _bounded(self, place: UUID, edge: UUID, end: UUID) -> UUID:
        """Return the edge of a window that begins at `place`, within the range and the span of a statement."""
        span = self._limits.span_ms << _ID_RANDOM_BITS
        if self._ascending:
            return UUID(int=min(edge.int, end.int, place.int + span))
        return UUID(int=max(edge.int, end.int, place.int - span))

    async def _read(self, window: tuple[UUID, UUID], index: Index | None, time_s: float) -> None:
        """Add the ids of a window. Raises TimeoutError, and has then added none."""
        until_s = self._timer() + time_s
        if index is not None and self._hashes is None:
            hashes = await self._reader.rows(hashes_statement(self._query, index), time_s)
            self._hashes = [row["hash"] for row in hashes]
        left = self._wanted - len(self._found)
        ids: set[UUID] = set()
        for way in await self._ways(window, index, time_s):
            by = index if way in {Way.FILTER, Way.LATE_EMAILS} else None
            statement = walk_statement(self._query, way, window, left, index=by, hashes=self._hashes or ())
            rows = await self._reader.rows(statement, max(until_s - self._timer(), 0.001))
            ids.update(row["id"] for row in rows)
        self._found += sorted(ids, reverse=not self._ascending)[:left]

    async def _ways(self, window: tuple[UUID, UUID], index: Index | None, time_s: float) -> list[Way]:
        """Return all ways that lead to records of a window; two may lead to the same record."""
        late = late_statement(self._query, window, index)
        [found] = await self._reader.rows(late, max(time_s, 0.001))
        if index is not None:
            ways = [Way.FILTER]
        else:
            ways = [Way.ALL if self._query.accounts is None else Way.ACCOUNTS]
        if found["late_emails"]:
            ways.append(Way.LATE_EMAILS)
        if found["late_accounts"]:
            ways.append(Way.LATE_ACCOUNTS)
        return ways

    def _narrowed(self, low: UUID, high: UUID) -> tuple[UUID, UUID]:
        """Return the range without what lies beyond the ids that are asked for by name."""
        for condition in self._query.conditions:
            if condition.name == "id" and not condition.excluded:
                ids = [value for value in condition.values if isinstance(value, UUID)]
                low, high = max(low, min(ids)), min(high, UUID(int=min(max(ids).int + 1, _ID_MAX)))
        return low, high

    def _by_id(self) -> bool:
        return any(one.name == "id" and not one.excluded for one in self._query.conditions)

    def _left_s(self) -> float:
        part = self._found and not self._query.whole
        return (self._limits.found_s if part else self._limits.empty_s) - (self._timer() - self._began_s)

    def _page(self, ids: list[UUID], after: UUID | None) -> Ids:
        skip, limit = self._query.skip, self._query.limit
        shown = ids[skip : skip + limit]
        if len(ids) > skip + limit:
            after = shown[-1]
        return Ids(shown, after)

    def _stopped(self, place: UUID) -> Ids:
        """Return what was found when the time was up; `place` is the end of the last window."""
        if self._query.whole or (place == self._start and not self._found):
            raise RetryableError("the log is not read in time")
        # A page goes on beyond its last id: in rising order that is the one before the next window.
        after = UUID(int=max(place.int - 1, 0)) if self._ascending else place
        return self._page(self._found, after)
