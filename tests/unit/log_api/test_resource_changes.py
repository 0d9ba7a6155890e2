"""The search for the records that changed a resource ends within its time, and says what it did not read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from log_api.keyset_scan import TimeLimits
from log_api.records import Row
from log_api.resource_changes import ChangeIds, ResourceKey, WantedChanges, find_change_ids
from log_api.sql_builder import Statement
from schemas.errors import RetryableError
from schemas.identity import first_id_at

DAY_MS = 86_400_000
LIMITS = TimeLimits(1, 1, DAY_MS)
LAST = first_id_at(10 * DAY_MS)
WANTED = [WantedChanges(ResourceKey("a", "p", "t", name), LAST, 3) for name in ("often", "seldom")]


class Reader:
    """Finds one change of the first resource in each span, and is too slow from one statement on."""

    def __init__(self, slow_from: int = 1_000) -> None:
        self.statements = 0
        self.resources: list[int] = []
        self._slow_from = slow_from

    async def give_way(self) -> None:
        pass

    async def rows(self, statement: Statement, timeout_s: float) -> Sequence[Row]:
        assert timeout_s > 0
        self.statements += 1
        if self.statements > self._slow_from:
            raise TimeoutError
        if "examined AS MATERIALIZED" in statement.text:
            return []
        _, _, _, names, _, low, _, _ = statement.arguments
        assert isinstance(names, list)
        self.resources.append(len(names))
        found: list[Any] = [
            {
                "place": place,
                "ids": [low] if name == "often" else None,
                "examined": 1,
                "oldest": low,
                "backfilled": True,
            }
            for place, name in enumerate(names, 1)
        ]
        return found


async def oldest() -> UUID:
    return first_id_at(3 * DAY_MS)


async def test_each_resource_is_looked_for_until_enough_is_found() -> None:
    reader = Reader()
    often, seldom = await find_change_ids(reader, WANTED, oldest, LIMITS)
    assert (len(often.ids), often.from_id) == (3, often.ids[-1])
    assert seldom == ChangeIds([], None)
    assert reader.resources == [2, 2, 2, 1, 1, 1, 1, 1]


async def test_what_is_not_read_in_time_is_unknown() -> None:
    often, seldom = await find_change_ids(Reader(slow_from=2), WANTED, oldest, LIMITS)
    edge = UUID(int=LAST.int + 1 - (DAY_MS << 80))
    assert (list(often.ids), often.from_id) == ([edge], edge)
    assert seldom == ChangeIds([], edge)


async def test_nothing_read_in_time_is_an_error() -> None:
    with pytest.raises(RetryableError):
        await find_change_ids(Reader(slow_from=0), WANTED, oldest, LIMITS)
