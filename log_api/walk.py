"""Finding a page's ids within a time limit, whatever is asked.

No statistics are trusted. A walk begins at the page's near end with a few records of the account, which is all that a
common value needs. What is rarer goes on in windows of time that grow as long as they are quick, by an index on a
filter where there is one. When the time is up, the page ends at the last window that was read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol
from uuid import UUID

from log_api.listing import (
    EMAIL,
    Direction,
    Index,
    ListQuery,
    Statement,
    Way,
    best_index,
    bound_statement,
    start_statement,
    walk_statement,
)
from log_api.records import Row
from schemas.errors import RetryableError

_FIRST_RECORDS = 1_000
_FIRST_RECORDS_EACH_MIN = 100
_WINDOW_S = 0.25
_GROWTH_MAX = 4.0
_ID_MAX = (1 << 128) - 1


class Reader(Protocol):
    """Where statements are run."""

    async def rows(self, statement: Statement, timeout_s: float) -> Sequence[Row]:
        """Return all rows. Raises TimeoutError where that takes longer; whatever was begun has then ended."""


class Ids(NamedTuple):
    """Ids in order, and the id beyond which to go on; None: there are no more."""

    ids: Sequence[UUID]
    after: UUID | None


class TimeLimits(NamedTuple):
    """How long a page is looked for (seconds): `found_s` once it holds something, `empty_s` until then."""

    found_s: float
    empty_s: float


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
        self._found: list[UUID] = []
        self._index = best_index(query)
        self._hashes: Sequence[int] = ()
        self._late_accounts = self._late_emails = False

    async def run(self) -> Ids:
        low, high = self._narrowed(*self._query.id_range())
        if low >= high:
            return Ids([], None)
        start = start_statement(self._query, self._index)
        [row] = await self._reader.rows(start, self._limits.empty_s)
        self._late_accounts, self._late_emails = row["late_accounts"], row["late_emails"]
        self._hashes = row["hashes"]
        if not self._query.conditions or self._one_by_one():
            # An index has just these, in this order.
            await self._read((low, high), None)
            return self._page(self._found, None)
        return await self._in_windows(low, high)

    async def _in_windows(self, low: UUID, high: UUID) -> Ids:
        place, end = (low, high) if self._ascending else (high, low)
        edge = await self._first_edge(low, high) or end
        index: Index | None = None
        while True:
            edge = min(edge, end) if self._ascending else max(edge, end)
            began_s = self._timer()
            try:
                await self._read((min(place, edge), max(place, edge)), index)
            except TimeoutError:
                return self._stopped(place)
            width, place = edge.int - place.int, edge
            if len(self._found) >= self._wanted or place == end:
                return self._page(self._found, None)
            if self._left_s() <= 0:
                return self._stopped(place)
            growth = _WINDOW_S / max(self._timer() - began_s, _WINDOW_S / _GROWTH_MAX)
            edge = UUID(int=min(max(place.int + int(width * growth), 0), _ID_MAX))
            index = self._index

    async def _first_edge(self, low: UUID, high: UUID) -> UUID | None:
        """Return the end of the first window: the near end of it holds a few records of each account."""
        accounts = self._query.accounts
        records = max(_FIRST_RECORDS, 2 * self._wanted)
        if accounts is not None:
            records = max(_FIRST_RECORDS_EACH_MIN, records // max(len(accounts), 1))
        edges: list[UUID] = []
        for way in self._ways(None):
            bound = bound_statement(self._query, way, (low, high), records)
            edges += [row["id"] for row in await self._reader.rows(bound, self._limits.empty_s)]
        return (min if self._ascending else max)(edges, default=None)

    async def _read(self, window: tuple[UUID, UUID], index: Index | None) -> None:
        """Add the ids of a window. Raises TimeoutError, and has then added none."""
        left = self._wanted - len(self._found)
        ids: set[UUID] = set()
        for way in self._ways(index):
            by = index if way in {Way.FILTER, Way.LATE_EMAILS} else None
            statement = walk_statement(self._query, way, window, left, index=by, hashes=self._hashes)
            rows = await self._reader.rows(statement, max(self._left_s(), 0.001))
            ids.update(row["id"] for row in rows)
        self._found += sorted(ids, reverse=not self._ascending)[:left]

    def _ways(self, index: Index | None) -> list[Way]:
        """Return all ways that lead to records of the query; two may lead to the same record."""
        if index is not None:
            ways = [Way.FILTER]
            if index.name == EMAIL and self._late_emails:
                ways.append(Way.LATE_EMAILS)
        else:
            ways = [Way.ALL if self._query.accounts is None else Way.ACCOUNTS]
        return [*ways, Way.LATE_ACCOUNTS] if self._late_accounts else ways

    def _narrowed(self, low: UUID, high: UUID) -> tuple[UUID, UUID]:
        """Return the range without what lies beyond the ids that are asked for by name."""
        for condition in self._query.conditions:
            if condition.name == "id" and not condition.excluded:
                ids = [value for value in condition.values if isinstance(value, UUID)]
                low, high = max(low, min(ids)), min(high, UUID(int=min(max(ids).int + 1, _ID_MAX)))
        return low, high

    def _one_by_one(self) -> bool:
        return any(condition.name == "id" and not condition.excluded for condition in self._query.conditions)

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
        start = self._query.id_range()[0 if self._ascending else 1]
        if self._query.whole or (place == start and not self._found):
            raise RetryableError("the log is not read in time")
        # A page goes on beyond its last id: in rising order that is the one before the next window.
        after = UUID(int=max(place.int - 1, 0)) if self._ascending else place
        return self._page(self._found, after)
