"""A walk in windows, on a log of numbers whose reading takes as long as the test says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from log_api.listing import Condition, Direction, ListQuery, Statement
from log_api.walk import TimeLimits, find_ids
from schemas.errors import RetryableError

HOUR_MS = 3_600_000
LIMITS = TimeLimits(2, 10)


class Slow:
    """Records of one account, one a minute; the filter meets those in `met`. Each one read takes `record_s`."""

    def __init__(self, count: int, met: set[int], record_s: float = 0.0) -> None:
        self._count = count
        self._met = met
        self._record_s = record_s
        self.now_s = 0.0
        self.windows: list[int] = []
        self.by_index = 0

    def timer(self) -> float:
        return self.now_s

    async def rows(self, statement: Statement, timeout_s: float) -> Sequence[Any]:
        if "late_accounts" in statement.text or "hash\n" in statement.text:
            return [{"late_accounts": False, "late_emails": False, "hash": 1}]
        _, low, high, limit, *_ = statement.arguments
        assert isinstance(low, UUID)
        assert isinstance(high, UUID)
        assert isinstance(limit, int)
        within = range(self._first(low), self._first(high))[:: -1 if "DESC" in statement.text else 1]
        if "OFFSET $4" in statement.text:
            bounds: list[UUID | None] = [id_of(number) for number in within[limit:][:1]] or [None]
            return [{"first_id": id_of(number), "bound_id": bounds[0]} for number in within[:1]]
        takes_s = len(within) * self._record_s
        if takes_s > timeout_s:
            self.now_s += timeout_s
            raise TimeoutError
        self.now_s += takes_s
        self.windows.append(len(within))
        self.by_index += "AS stored" in statement.text
        return [{"id": id_of(number)} for number in within if number in self._met][:limit]

    def _first(self, bound: UUID) -> int:
        """Return the number of the first record whose id is not below a bound."""
        number = (bound.int >> 80) // 60_000
        return min(number if id_of(number) >= bound else number + 1, self._count)


def id_of(number: int) -> UUID:
    return UUID(int=(number * 60_000) << 80 | 1)


def asked(direction: Direction, limit: int = 10, **others: Any) -> ListQuery:
    condition = Condition(others.pop("name", "raw_method"), False, ("PUT",))
    return ListQuery(("a",), 0, 10_000 * HOUR_MS, direction, limit, conditions=(condition,), **others)


async def every(log: Slow, query: ListQuery) -> tuple[list[UUID], int]:
    """Read page after page; return the ids and how many pages there were."""
    found: list[UUID] = []
    for pages in range(1, 1000):
        page = await find_ids(log, query, LIMITS, log.timer)
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
async def test_pages_have_every_id_once_however_slow_it_is(direction: Direction, record_s: float) -> None:
    met = set(range(0, 20_000, 50)) | {0, 19_999}
    log = Slow(20_000, met, record_s)
    found, pages = await every(log, asked(direction))
    expected = [id_of(number) for number in sorted(met, reverse=direction is Direction.DESC)]
    assert found == expected
    assert pages >= len(met) / 10


@pytest.mark.parametrize("direction", list(Direction))
async def test_a_record_that_stands_where_the_time_is_up_comes_once(direction: Direction) -> None:
    """The first window of rising order ends before its 1,001st record, that of falling order with it."""
    met = {0, 1_000, 18_999, 19_000, 19_999}
    log = Slow(20_000, met, 0.0021)
    found, pages = await every(log, asked(direction))
    assert found == [id_of(number) for number in sorted(met, reverse=direction is Direction.DESC)]
    assert pages > 2


@pytest.mark.parametrize("direction", list(Direction))
async def test_a_common_value_is_found_near_the_end_where_the_page_begins(direction: Direction) -> None:
    log = Slow(100_000, set(range(100_000)))
    page = await find_ids(log, asked(direction), LIMITS, log.timer)
    assert len(page.ids) == 10
    assert len(log.windows) == 1
    assert log.windows[0] <= 1_001


async def test_windows_grow_while_they_are_quick() -> None:
    log = Slow(100_000, set())
    page = await find_ids(log, asked(Direction.DESC), LIMITS, log.timer)
    assert page == ([], None)
    assert len(log.windows) < 8
    assert sum(log.windows) == 100_000


async def test_windows_do_not_grow_beyond_what_is_read_in_time() -> None:
    log = Slow(100_000, {0, 99_000}, 0.0005)
    await find_ids(log, asked(Direction.DESC), LIMITS, log.timer)
    assert max(log.windows) * 0.0005 < 1


async def test_a_page_with_something_in_it_ends_when_its_time_is_up() -> None:
    log = Slow(100_000, {99_999}, 0.001)
    page = await find_ids(log, asked(Direction.DESC), LIMITS, log.timer)
    assert page.ids == [id_of(99_999)]
    assert page.after is not None
    assert log.now_s == pytest.approx(2, abs=0.6)


async def test_an_empty_page_goes_on_longer() -> None:
    log = Slow(1_000_000, set(), 0.001)
    page = await find_ids(log, asked(Direction.DESC), LIMITS, log.timer)
    assert page.ids == []
    assert page.after is not None
    assert log.now_s == pytest.approx(10, abs=0.6)


async def test_a_page_that_cannot_be_read_at_all() -> None:
    log = Slow(100_000, set(), 1.0)
    with pytest.raises(RetryableError):
        await find_ids(log, asked(Direction.DESC), LIMITS, log.timer)


async def test_a_part_is_no_answer_where_the_whole_is_asked_for() -> None:
    log = Slow(100_000, {99_999}, 0.001)
    with pytest.raises(RetryableError):
        await find_ids(log, asked(Direction.DESC, whole=True), LIMITS, log.timer)


async def test_an_index_is_taken_after_the_first_window() -> None:
    log = Slow(50_000, {100})
    page = await find_ids(log, asked(Direction.DESC, name="actor_id"), LIMITS, log.timer)
    assert page == ([id_of(100)], None)
    assert log.by_index == len(log.windows) - 1 > 0


async def test_an_index_is_not_taken_for_what_is_frequent_and_is_where_it_gets_rare() -> None:
    frequent = set(range(40_000, 50_000, 100))
    log = Slow(50_000, frequent)
    await find_ids(log, asked(Direction.DESC, limit=50, name="actor_id"), LIMITS, log.timer)
    assert log.by_index == 0
    log = Slow(50_000, frequent)
    page = await find_ids(log, asked(Direction.DESC, limit=500, name="actor_id"), LIMITS, log.timer)
    assert (len(page.ids), page.after) == (100, None)
    assert log.by_index > 0


async def test_skipped_ids_are_counted_over_windows() -> None:
    met = set(range(0, 20_000, 50))
    log = Slow(20_000, met)
    page = await find_ids(log, asked(Direction.ASC, limit=5, skip=300), LIMITS, log.timer)
    assert page.ids == [id_of(number) for number in sorted(met)[300:305]]


async def test_a_range_of_nothing_is_not_read() -> None:
    log = Slow(10, set())
    query = ListQuery(("a",), 1000, 1000)
    assert await find_ids(log, query, LIMITS, log.timer) == ([], None)
    assert log.windows == []
