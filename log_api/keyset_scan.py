"""The keyset scan: finds the ids of one page within a time limit, whatever the filters.

The scan does not rely on the planner's statistics. It starts at the near end of the page with a window that holds a few
thousand records of the account (one day where there is no filter), which is enough for common values. If the page is not
full after that, it goes on in windows that grow while they are read quickly, by an index on a filter where one exists. When
the time limit is reached, the page ends after the last window that was read completely. Between two windows the scan lets others
have its connection, and a window that takes too long is read again in parts, so that they never wait for long.

A window is a range of ids, and therefore of time. Every statement reads a single window, so that the planner considers
a bounded number of partitions.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol
from uuid import UUID

from log_api.records import Row
from log_api.sql_builder import (
    EXACT,
    AccessPath,
    Direction,
    Index,
    ListQuery,
    Statement,
    backfilled_statement,
    best_index,
    bound_statement,
    hashes_statement,
    scan_statement,
)
from schemas.errors import RetryableError
from schemas.identity import first_id_at

_FIRST_RECORDS = 1_000
# Half a second from disk.
_FIRST_RECORDS_MAX = 20_000
_FIRST_RECORDS_PER_ACCOUNT_MIN = 100
# The share of an account's records above which a value counts as frequent. A block-range index finds every page for such
# a value, so that scanning the account is faster.
_FREQUENT_SHARE = 0.005
# Windows grow until reading one takes this long.
_WINDOW_TARGET_S = 0.25
_GROWTH_MAX = 4.0
# A statement that takes longer keeps others waiting: it ends, and the next one reads a part.
_STATEMENT_MAX_S = 2.0
# Four statements for a day of few records.
_FIRST_COUNTED_MS = 3_600_000
# A timeout must be positive; this one ends a statement at once.
_TIMEOUT_MIN_S = 0.001
_ID_MAX = (1 << 128) - 1
_ID_RANDOM_BITS = 80
_DAY_MS = 86_400_000


class Reader(Protocol):
    """Runs the statements of a scan."""

    async def rows(self, statement: Statement, timeout_s: float) -> Sequence[Row]:
        """Return all rows. Raises TimeoutError if that takes longer; the statement is then no longer running."""

    async def give_way(self) -> None:
        """Let others use the connection first, if they wait and have less. Raises RetryableError if it does not come back."""


class PageIds(NamedTuple):
    """The ids of a page in order, and the id after which the next page starts; None on the last page."""

    ids: Sequence[UUID]
    after: UUID | None


class TimeLimits(NamedTuple):
    """How long to search for a page, in seconds: `found_s` once the page holds a record, `empty_s` until then.

    `span_ms` is the longest range of time that one statement may cover: a statement opens and locks every partition in it.
    """

    found_s: float
    empty_s: float
    span_ms: int = 32 * _DAY_MS


def spans(low: UUID, high: UUID, span_ms: int, *, ascending: bool) -> Iterator[tuple[UUID, UUID]]:
    """Split the half-open id range from `low` to `high` into ranges of at most `span_ms`, in scan order."""
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


async def rows_by_window(
    reader: Reader,
    statement: Callable[[tuple[UUID, UUID]], Statement],
    id_range: tuple[UUID, UUID],
    limits: TimeLimits,
    timer: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Sequence[Row]]:
    """Yield the rows of `statement` for one window of the range after the other, oldest first.

    Raises TimeoutError if that takes longer than `limits.empty_s`.
    """
    until_s = timer() + limits.empty_s
    start, high = id_range
    width = _FIRST_COUNTED_MS << _ID_RANDOM_BITS
    while start < high:
        await reader.give_way()
        edge = UUID(int=min(start.int + min(width, limits.span_ms << _ID_RANDOM_BITS), high.int))
        began_s = timer()
        left_s = max(until_s - began_s, _TIMEOUT_MIN_S)
        try:
            rows = await reader.rows(statement((start, edge)), min(left_s, _STATEMENT_MAX_S))
        except TimeoutError:
            if timer() >= until_s:
                raise
            width = _part(edge.int - start.int)
            continue
        start, width = edge, int(width * _growth(timer() - began_s))
        yield rows


async def find_page_ids(
    reader: Reader, query: ListQuery, limits: TimeLimits, timer: Callable[[], float] = time.monotonic
) -> PageIds:
    """Return the ids of one page.

    The page may hold fewer ids than `query.limit`, or none, and still have a next page: the time limit was reached.
    Raises RetryableError if not even the first window could be read in time, or if `query.whole` does not allow a partial
    page. `timer` returns monotonic seconds.
    """
    with suppress(TimeoutError):
        return await _KeysetScan(reader, query, limits, timer).run()
    raise RetryableError("the log is not read in time")


class _KeysetScan:
    """One scan. "Start" and "end" below follow the scan's direction; "low" and "high" are ids."""

    def __init__(
        self, reader: Reader, query: ListQuery, limits: TimeLimits, timer: Callable[[], float]
    ) -> None:
        self._reader = reader
        self._query = query
        self._limits = limits
        self._timer = timer
        self._started_s = timer()
        self._ascending = query.direction is Direction.ASC
        # One more than the page holds shows whether there is a next page.
        self._wanted = query.skip + query.limit + 1
        self._first_window_records = min(max(_FIRST_RECORDS, 2 * self._wanted), _FIRST_RECORDS_MAX)
        self._found: list[UUID] = []
        self._start = query.id_range()[0 if self._ascending else 1]
        self._index = best_index(query)
        self._hashes: Sequence[int] | None = None

    async def run(self) -> PageIds:
        low, high = self._range_of_filtered_ids(*self._query.id_range())
        if low >= high:
            return PageIds([], None)
        if self._index is not None and self._index.name == EXACT:
            with suppress(TimeoutError):
                await self._read_spans(low, high, self._index)
                return self._page(self._found, None)
            # Too slow: what it found may have holes, so the scan by windows begins from the start.
            self._found = []
        return await self._scan_windows(low, high)

    async def _read_spans(self, low: UUID, high: UUID, index: Index) -> None:
        """Read the range by an exact index until the page is full. Raises TimeoutError."""
        left_s = self._limits.found_s
        for span in spans(low, high, self._limits.span_ms, ascending=self._ascending):
            await self._reader.give_way()
            began_s = self._timer()
            await self._read(span, index, max(left_s, _TIMEOUT_MIN_S))
            left_s -= self._timer() - began_s
            if len(self._found) >= self._wanted:
                return

    async def _scan_windows(self, low: UUID, high: UUID) -> PageIds:
        end = high if self._ascending else low
        window_start, dense_from, edge = await self._first_window(low, high)
        first_width = edge.int - dense_from.int
        index: Index | None = None
        while True:
            await self._reader.give_way()
            edge = self._clipped(window_start, edge, end)
            began_s, found_before = self._timer(), len(self._found)
            try:
                window = min(window_start, edge), max(window_start, edge)
                await self._read(window, index, min(self._left_s(), _STATEMENT_MAX_S))
            except TimeoutError:
                if self._left_s() <= 0:
                    return self._partial_page(window_start)
                # From here on it is dense: what was empty before it is in the part that is read next.
                dense_from = window_start
                edge = self._moved(window_start, _part(abs(edge.int - window_start.int)))
                continue
            # The first window may start with a stretch without records, which says nothing about density.
            width = abs(edge.int - dense_from.int)
            dense_from = window_start = edge
            if len(self._found) >= self._wanted or window_start == end:
                return self._page(self._found, None)
            if self._left_s() <= 0:
                return self._partial_page(window_start)
            edge = self._moved(window_start, int(width * _growth(self._timer() - began_s)))
            records_read = self._first_window_records * width / abs(first_width)
            is_frequent = len(self._found) - found_before >= _FREQUENT_SHARE * records_read
            index = None if is_frequent else self._index

    def _moved(self, start: UUID, width: int) -> UUID:
        """Return the id that lies `width` behind `start` in the scan's direction."""
        return UUID(int=min(max(start.int + (width if self._ascending else -width), 0), _ID_MAX))

    async def _first_window(self, low: UUID, high: UUID) -> tuple[UUID, UUID, UUID]:
        """Return the first window: its start, the id from which it holds records, and its end.

        The window is the whole range for filters by id, one day where there is no filter, and otherwise long enough for
        a few records of each account.
        """
        start, end = (low, high) if self._ascending else (high, low)
        if self._filters_by_id():
            return start, start, end
        if self._query.conditions:
            return await self._window_with_records(low, high)
        # To a midnight (UTC), where partitions begin unless they are longer than a day.
        at_ms = low.int >> _ID_RANDOM_BITS if self._ascending else (high.int - 1) >> _ID_RANDOM_BITS
        return start, start, first_id_at((at_ms // _DAY_MS + self._ascending) * _DAY_MS)

    async def _window_with_records(self, low: UUID, high: UUID) -> tuple[UUID, UUID, UUID]:
        """Return the window of the first span that holds records. If the time limit is reached before one is found, the
        window starts after the spans that hold none.
        """
        empty_to = low if self._ascending else high
        for span in spans(low, high, self._limits.span_ms, ascending=self._ascending):
            window = await self._window_in_span(*span)
            if window is not None:
                self._start = empty_to
                return empty_to, *window
            empty_to = span[1] if self._ascending else span[0]
            if self._left_s() <= 0:
                break
        return empty_to, empty_to, high if self._ascending else low

    async def _window_in_span(self, low: UUID, high: UUID) -> tuple[UUID, UUID] | None:
        """Return the part of a span that holds a few records of each account; None if the span holds none."""
        start, end = (low, high) if self._ascending else (high, low)
        accounts = self._query.accounts
        records = self._first_window_records
        if accounts is not None:
            records = max(_FIRST_RECORDS_PER_ACCOUNT_MIN, records // max(len(accounts), 1))
        firsts: list[UUID] = []
        bounds: list[UUID] = []
        for access_path in await self._access_paths((low, high), None, self._limits.empty_s):
            statement = bound_statement(self._query, access_path, (low, high), records)
            for row in await self._reader.rows(statement, self._limits.empty_s):
                firsts.append(row["first_id"])
                if row["bound_id"] is not None:
                    bounds.append(row["bound_id"])
        if not firsts:
            return None
        nearest = min if self._ascending else max
        edge = nearest(bounds, default=end)
        first = nearest(firsts)
        # One account's bound may be another account's first record: the window must not be empty.
        return (start if first == edge else first), edge

    def _clipped(self, window_start: UUID, edge: UUID, end: UUID) -> UUID:
        """Return the window's edge, limited to the range and to the span of one statement."""
        span = self._limits.span_ms << _ID_RANDOM_BITS
        if self._ascending:
            return UUID(int=min(edge.int, end.int, window_start.int + span))
        return UUID(int=max(edge.int, end.int, window_start.int - span))

    async def _read(self, window: tuple[UUID, UUID], index: Index | None, time_s: float) -> None:
        """Add the ids of a window to the page. Raises TimeoutError; the page is then unchanged."""
        until_s = self._timer() + time_s
        if index is not None and self._hashes is None:
            hashes = await self._reader.rows(hashes_statement(self._query, index), time_s)
            self._hashes = [row["hash"] for row in hashes]
        missing = self._wanted - len(self._found)
        ids: list[UUID] = []
        for access_path in await self._access_paths(window, index, time_s):
            by_index = access_path in {AccessPath.FILTER, AccessPath.BACKFILLED_EMAILS}
            statement = scan_statement(
                self._query,
                access_path,
                window,
                missing,
                index=index if by_index else None,
                hashes=self._hashes or (),
            )
            rows = await self._reader.rows(statement, max(until_s - self._timer(), _TIMEOUT_MIN_S))
            ids += (row["id"] for row in rows)
        # Only now, when every access path has been read: a timeout in between must leave no hole in the page. Each is in
        # order already, so that sorting them is quick.
        self._found += sorted(dict.fromkeys(ids), reverse=not self._ascending)[:missing]

    async def _access_paths(
        self, window: tuple[UUID, UUID], index: Index | None, time_s: float
    ) -> list[AccessPath]:
        """Return the access paths that together find every record of a window; two may find the same record."""
        statement = backfilled_statement(self._query, window, index)
        [backfilled] = await self._reader.rows(statement, max(time_s, _TIMEOUT_MIN_S))
        if index is not None:
            access_paths = [AccessPath.FILTER]
        elif self._query.accounts is None:
            access_paths = [AccessPath.ALL]
        else:
            access_paths = [AccessPath.ACCOUNTS]
        if backfilled["backfilled_emails"]:
            access_paths.append(AccessPath.BACKFILLED_EMAILS)
        if backfilled["backfilled_accounts"]:
            access_paths.append(AccessPath.BACKFILLED_ACCOUNTS)
        return access_paths

    def _range_of_filtered_ids(self, low: UUID, high: UUID) -> tuple[UUID, UUID]:
        """Return the range, cut to the lowest and highest of the ids in a filter by id."""
        for condition in self._query.conditions:
            if condition.name == "id" and not condition.excluded:
                ids = [value for value in condition.values if isinstance(value, UUID)]
                low, high = max(low, min(ids)), min(high, UUID(int=min(max(ids).int + 1, _ID_MAX)))
        return low, high

    def _filters_by_id(self) -> bool:
        return any(one.name == "id" and not one.excluded for one in self._query.conditions)

    def _left_s(self) -> float:
        may_stop_early = self._found and not self._query.whole
        limit_s = self._limits.found_s if may_stop_early else self._limits.empty_s
        return limit_s - (self._timer() - self._started_s)

    def _page(self, ids: list[UUID], after: UUID | None) -> PageIds:
        skip, limit = self._query.skip, self._query.limit
        page_ids = ids[skip : skip + limit]
        if len(ids) > skip + limit:
            after = page_ids[-1]
        return PageIds(page_ids, after)

    def _partial_page(self, window_start: UUID) -> PageIds:
        """Return the ids found before the time limit; the next page starts at the window that was not read."""
        if self._query.whole or (window_start == self._start and not self._found):
            raise RetryableError("the log is not read in time")
        # The next page starts after this id, so in ascending order it is the one before the window.
        after = UUID(int=max(window_start.int - 1, 0)) if self._ascending else window_start
        return self._page(self._found, after)


def _growth(took_s: float) -> float:
    """Return by how much the next window is wider, where reading one took so long; below 1 if that was too long."""
    return _WINDOW_TARGET_S / max(took_s, _WINDOW_TARGET_S / _GROWTH_MAX)


def _part(width: int) -> int:
    """Return the width of the part that is read of a window that took too long: what should take the target time at most."""
    return max(int(width * _WINDOW_TARGET_S / _STATEMENT_MAX_S), 1)
