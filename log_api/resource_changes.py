"""Finds the records of resources from which their changes are worked out: the newest ones, within bounds.

The search goes back in time, one span after the other. For each resource it ends where enough records are found or too many
were looked at: what lies before that is unknown, and the result says so.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from log_api.keyset_scan import Reader, TimeLimits, spans
from log_api.records import AuditRecord, Row
from log_api.sql_builder import Statement
from schemas.errors import RetryableError
from schemas.sql import query as sql_file

# Of all resources together, views and failed actions included: 4,000 took 16 ms from memory.
_EXAMINED_MAX = 2_000
# A timeout must be positive; this one ends a statement at once.
_TIMEOUT_MIN_S = 0.001
_ID_MAX = (1 << 128) - 1


class ResourceKey(NamedTuple):
    """What identifies a resource."""

    account: str
    product: str | None
    type: str | None
    id: str


class WantedChanges(NamedTuple):
    """The newest `records_max` records that changed a resource, up to the record with the id `last`."""

    key: ResourceKey
    last: UUID
    records_max: int


class ResourceChanges(NamedTuple):
    """The records that changed a resource, oldest first. `whole`: there are none before the first of them."""

    records: Sequence[AuditRecord]
    whole: bool


class ChangeIds(NamedTuple):
    """As `ResourceChanges`, with ids, newest first. `from_id`: before it nothing is known; None: nothing is before it."""

    ids: Sequence[UUID]
    from_id: UUID | None


class _Search:
    """The search for one resource."""

    def __init__(self, wanted: WantedChanges) -> None:
        self.wanted = wanted
        self.ids: list[UUID] = []
        self.from_id: UUID | None = None

    @property
    def is_over(self) -> bool:
        return self.from_id is not None or len(self.ids) >= self.wanted.records_max

    def add(self, ids: Sequence[UUID], from_id: UUID | None) -> None:
        """Add what a span holds; `from_id`: not all of it was examined, but what is not before this id."""
        self.from_id = from_id
        self.ids += [one for one in ids if from_id is None or one >= from_id]

    def result(self) -> ChangeIds:
        ids = self.ids[: self.wanted.records_max]
        if len(ids) == self.wanted.records_max:
            return ChangeIds(ids, ids[-1])
        return ChangeIds(ids, self.from_id)


async def find_change_ids(
    reader: Reader,
    wanted: Sequence[WantedChanges],
    oldest: Callable[[], Awaitable[UUID]],
    limits: TimeLimits,
    timer: Callable[[], float] = time.monotonic,
) -> Sequence[ChangeIds]:
    """Return the ids of each resource's changes. `oldest` returns the first id that the log can hold.

    Raises RetryableError if not even the newest span is read in time.
    """
    searches = [_Search(one) for one in wanted]
    until_s = timer() + limits.found_s
    read_any = False
    async for span in _spans_back(max(one.last for one in wanted), oldest, limits.span_ms):
        open_searches = [one for one in searches if not one.is_over]
        if not open_searches:
            break
        await reader.give_way()
        try:
            await _read_span(reader, open_searches, span, until_s, timer)
        except TimeoutError:
            for search in open_searches:
                search.from_id = span[1]
            break
        read_any = True
    if not read_any:
        raise RetryableError("the log is not read in time")
    return [one.result() for one in searches]


async def _spans_back(
    last: UUID, oldest: Callable[[], Awaitable[UUID]], span_ms: int
) -> AsyncIterator[tuple[UUID, UUID]]:
    """Yield half-open ranges of ids, newest first. Only who goes beyond the first one asks where the log begins."""
    high = UUID(int=min(last.int + 1, _ID_MAX))
    low = UUID(int=max(high.int - (span_ms << 80), 0))
    yield low, high
    for span in spans(await oldest(), low, span_ms, ascending=False):
        yield span


async def _read_span(
    reader: Reader,
    searches: Sequence[_Search],
    span: tuple[UUID, UUID],
    until_s: float,
    timer: Callable[[], float],
) -> None:
    """Add what a span holds to each search. Raises TimeoutError."""

    async def rows(name: str, examined_max: int) -> Sequence[Row]:
        statement = Statement(sql_file(name), (*_arguments(searches), *span, examined_max))
        return await reader.rows(statement, max(until_s - timer(), _TIMEOUT_MIN_S))

    examined_max = max(one.wanted.records_max for one in searches)
    found = await rows("resource_changes", examined_max)
    if any(row["examined"] == examined_max and _is_short(row, searches) for row in found):
        # Views lie between. They are rare enough that most resources need no second look.
        examined_max = max(_EXAMINED_MAX // len(searches), examined_max)
        found = await rows("resource_changes", examined_max)
    ids = {row["place"] - 1: list(row["ids"] or ()) for row in found}
    from_ids = {row["place"] - 1: row["oldest"] for row in found if row["examined"] == examined_max}
    backfilled: Sequence[Row] = ()
    if any(row["backfilled"] for row in found):
        examined_max = max(_EXAMINED_MAX, examined_max)
        backfilled = await rows("resource_changes_backfilled", examined_max)
    for row in backfilled:
        if row["place"] is not None:
            ids[row["place"] - 1].append(row["id"])
        if row["examined"] == examined_max:
            for place, search in enumerate(searches):
                if search.wanted.key.account == row["account_id"]:
                    from_ids[place] = max(from_ids.get(place, row["oldest"]), row["oldest"])
    for place, search in enumerate(searches):
        search.add(sorted(ids[place], reverse=True), from_ids.get(place))


def _is_short(row: Row, searches: Sequence[_Search]) -> bool:
    search: _Search = searches[row["place"] - 1]
    ids: Sequence[UUID] = row["ids"] or ()
    return len(search.ids) + len(ids) < search.wanted.records_max


def _arguments(searches: Sequence[_Search]) -> list[list[Any]]:
    """Return the columns of the resources that are searched for, and the ids below which to look."""
    keys = [one.wanted.key for one in searches]
    befores = [UUID(int=min(one.wanted.last.int + 1, _ID_MAX)) for one in searches]
    return [*(list(column) for column in zip(*keys, strict=True)), befores]
