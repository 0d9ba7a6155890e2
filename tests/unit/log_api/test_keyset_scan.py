"""Keyset scans of a simulated log, in which reading a record takes a given time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from log_api.keyset_scan import TimeLimits, find_page_ids, rows_by_window
from log_api.sql_builder import AccessPath, Condition, Direction, ListQuery, Statement, scan_statement
from schemas.errors import RetryableError

HOUR_MS = 3_600_000
LIMITS = TimeLimits(2, 10)


class Slow:
    """One record of an account a minute. The filter matches those in `matches`. Reading a record takes `record_s`.

    `statements_s`: how long each statement that read records took, also one that ended at its time limit. `turns`: how many
    of them were read before each of the times at which the scan gave way.
    """

    def __init__(self, count: int, matches: set[int], record_s: float = 0.0) -> None:
        self._count = count
        self._met = matches
        self._record_s = record_s
        self.now_s = 0.0
        self.windows: list[int] = []
        self.by_index = 0
        self.statements_s: list[float] = []
        self.turns: list[int] = []

    def timer(self) -> float:
        return self.now_s

    async def rows(self, statement: Statement, timeout_s: float) -> Sequence[Any]:
        if "backfilled_accounts" in statement.text or "hash\n" in statement.text:
            return [{"backfilled_accounts": False, "backfilled_emails": False, "hash": 1}]
        _, low, high, limit, *_ = statement.arguments
        assert isinstance(low, UUID)
        assert isinstance(high, UUID)
        assert isinstance(limit, int)
        within = range(self._first(low), self._first(high))[:: -1 if "DESC" in statement.text else 1]
        if "OFFSET $4" in statement.text:
            bounds: list[UUID | None] = [id_of(number) for number in within[limit:][:1]] or [None]
            return [{"first_id": id_of(number), "bound_id": bounds[0]} for number in within[:1]]
        takes_s = len(within) * self._record_s
        self.statements_s.append(min(takes_s, timeout_s))
        if takes_s > timeout_s:
            self.now_s += timeout_s
            raise TimeoutError
        self.now_s += takes_s
        self.windows.append(len(within))
        self.by_index += "AS stored" in statement.text
        return [{"id": id_of(number)} for number in within if number in self._met][:limit]

    async def give_way(self) -> None:
        self.turns.append(len(self.statements_s))

    def _first(self, bound: UUID) -> int:
        """Return the index of the first record with an id >= the bound."""
        number = (bound.int >> 80) // 60_000
        return min(number if id_of(number) >= bound else number + 1, self._count)


def id_of(number: int) -> UUID:
    return UUID(int=(number * 60_000) << 80 | 1)


def query(direction: Direction, limit: int = 10, **others: Any) -> ListQuery:
    condition = Condition(others.pop("name", "raw_method"), False, ("PUT",))
    return ListQuery(("a",), 0, 10_000 * HOUR_MS, direction, limit, conditions=(condition,), **others)


async def every(log: Slow, query: ListQuery) -> tuple[list[UUID], int]:
    """Read all pages. Returns the ids and the number of pages."""
    found: list[UUID] = []
    for pages in range(1, 1000):
        page = await find_page_ids(log, query, LIMITS, log.timer)
        found += page.ids
        if page.after is None:
            return found, pages
        query = ListQuery(
            query.accounts,
            query.since_ms,
            query.before_ms,
            query.direction,
            query.limit,
            query.conditions,
            after=page.after,
        )
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("record_s", [0.0, 0.0001, 0.001, 0.002])
async def test_pages_hold_every_id_once_at_any_speed(direction: Direction, record_s: float) -> None:
    matches = set(range(0, 20_000, 50)) | {0, 19_999}
    log = Slow(20_000, matches, record_s)
    found, pages = await every(log, query(direction))
    expected = [id_of(number) for number in sorted(matches, reverse=direction is Direction.DESC)]
    assert found == expected
    assert pages >= len(matches) / 10


@pytest.mark.parametrize("direction", list(Direction))
async def test_a_record_at_the_edge_of_a_partial_page_appears_once(direction: Direction) -> None:
    """In ascending order the first window ends before its 1,001st record, in descending order after it."""
    matches = {0, 1_000, 18_999, 19_000, 19_999}
    log = Slow(20_000, matches, 0.0021)
    found, pages = await every(log, query(direction))
    assert found == [id_of(number) for number in sorted(matches, reverse=direction is Direction.DESC)]
    assert pages > 2


@pytest.mark.parametrize("direction", list(Direction))
async def test_a_common_value_is_found_in_the_first_window(direction: Direction) -> None:
    log = Slow(100_000, set(range(100_000)))
    page = await find_page_ids(log, query(direction), LIMITS, log.timer)
    assert len(page.ids) == 10
    assert len(log.windows) == 1
    assert log.windows[0] <= 1_001


async def test_windows_grow_while_they_are_read_quickly() -> None:
    log = Slow(100_000, set())
    page = await find_page_ids(log, query(Direction.DESC), LIMITS, log.timer)
    assert page == ([], None)
    assert len(log.windows) < 8
    assert sum(log.windows) == 100_000


async def test_windows_do_not_outgrow_the_time_limit() -> None:
    log = Slow(100_000, {0, 99_000}, 0.0005)
    await find_page_ids(log, query(Direction.DESC), LIMITS, log.timer)
    assert max(log.windows) * 0.0005 < 1


async def test_a_page_with_records_ends_at_its_time_limit() -> None:
    log = Slow(100_000, {99_999}, 0.001)
    page = await find_page_ids(log, query(Direction.DESC), LIMITS, log.timer)
    assert page.ids == [id_of(99_999)]
    assert page.after is not None
    assert log.now_s == pytest.approx(2, abs=0.6)


async def test_an_empty_page_has_a_longer_time_limit() -> None:
    log = Slow(1_000_000, set(), 0.001)
    page = await find_page_ids(log, query(Direction.DESC), LIMITS, log.timer)
    assert page.ids == []
    assert page.after is not None
    assert log.now_s == pytest.approx(10, abs=0.6)


async def test_a_page_without_a_readable_window_is_retryable() -> None:
    log = Slow(100_000, set(), 3.0)
    with pytest.raises(RetryableError):
        await find_page_ids(log, query(Direction.ASC), LIMITS, log.timer)


@pytest.mark.parametrize("direction", list(Direction))
async def test_a_window_that_takes_too_long_is_read_in_parts(direction: Direction) -> None:
    matches = {0, 100, 150, 199}
    log = Slow(200, matches, 0.015)
    found, _ = await every(log, query(direction))
    assert found == [id_of(number) for number in sorted(matches, reverse=direction is Direction.DESC)]
    # The first window has all 200 records, which take three seconds.
    assert log.statements_s[0] == 2.0
    assert max(log.statements_s) == 2.0
    assert len(log.windows) > 1


@pytest.mark.parametrize("name", ["raw_method", "resource_id"])
async def test_a_scan_gives_way_before_each_window(name: str) -> None:
    log = Slow(100_000, set(), 0.00001)
    await find_page_ids(log, query(Direction.DESC, name=name), LIMITS, log.timer)
    assert log.turns == list(range(len(log.statements_s)))
    assert len(log.turns) > 3


@pytest.mark.parametrize("record_s", [0.0001, 0.01])
async def test_rows_by_window_are_read_once_in_short_statements(record_s: float) -> None:
    log = Slow(600, set(range(600)), record_s)
    found: list[UUID] = []
    until = TimeLimits(2, 1_000)
    id_range = id_of(0), id_of(600)
    whole = query(Direction.ASC)

    def statement(window: tuple[UUID, UUID]) -> Statement:
        return scan_statement(whole, AccessPath.ACCOUNTS, window, 1_000)

    async for rows in rows_by_window(log, statement, id_range, until, log.timer):
        found += [row["id"] for row in rows]
    assert found == [id_of(number) for number in range(600)]
    assert max(log.statements_s) <= 2.0
    assert log.turns == list(range(len(log.statements_s)))
    assert len(log.turns) > 1


async def test_rows_by_window_have_a_time_limit() -> None:
    log = Slow(600, set(), 3.0)
    statement = scan_statement(query(Direction.ASC), AccessPath.ACCOUNTS, (id_of(0), id_of(600)), 1_000)
    with pytest.raises(TimeoutError):
        async for _ in rows_by_window(log, lambda _: statement, (id_of(0), id_of(600)), LIMITS, log.timer):
            pass
    assert log.now_s == pytest.approx(10, abs=0.6)


async def test_a_whole_page_does_not_end_early() -> None:
    log = Slow(100_000, {99_999}, 0.001)
    with pytest.raises(RetryableError):
        await find_page_ids(log, query(Direction.DESC, whole=True), LIMITS, log.timer)


async def test_an_index_is_used_after_the_first_window() -> None:
    log = Slow(50_000, {100})
    page = await find_page_ids(log, query(Direction.DESC, name="actor_id"), LIMITS, log.timer)
    assert page == ([id_of(100)], None)
    assert log.by_index == len(log.windows) - 1 > 0


async def test_an_index_is_used_only_where_the_value_is_rare() -> None:
    frequent = set(range(40_000, 50_000, 100))
    log = Slow(50_000, frequent)
    await find_page_ids(log, query(Direction.DESC, limit=50, name="actor_id"), LIMITS, log.timer)
    assert log.by_index == 0
    log = Slow(50_000, frequent)
    page = await find_page_ids(log, query(Direction.DESC, limit=500, name="actor_id"), LIMITS, log.timer)
    assert (len(page.ids), page.after) == (100, None)
    assert log.by_index > 0


async def test_skipped_ids_are_counted_over_windows() -> None:
    matches = set(range(0, 20_000, 50))
    log = Slow(20_000, matches)
    page = await find_page_ids(log, query(Direction.ASC, limit=5, skip=300), LIMITS, log.timer)
    assert page.ids == [id_of(number) for number in sorted(matches)[300:305]]


async def test_an_empty_range_is_not_read() -> None:
    log = Slow(10, set())
    query = ListQuery(("a",), 1000, 1000)
    assert await find_page_ids(log, query, LIMITS, log.timer) == ([], None)
    assert log.windows == []
