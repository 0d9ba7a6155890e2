"""Summaries from the hours that the watcher counted, on a memory and on a real Postgres."""

from __future__ import annotations

from typing import Any

import pytest

from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from log_api.listing import Field, SummaryQuery
from log_api.ports import LogDatabase
from schemas.metric_defs import Metrics
from tests.unit.log_api.api_client import NOW_MS, A, ApiClient, add_token
from tests.unit.log_api.memory_log import MemoryLog
from tests.unit.log_api.stored_log import StoredLog

HOUR_MS = 3_600_000
DAY_MS = NOW_MS - NOW_MS % (24 * HOUR_MS)


def trend(hour: int, events: int, **changes: Any) -> dict[str, Any]:
    usual = {
        "account_id": A,
        "actor_id": "ana",
        "resource_product": None,
        "action_type": "view",
        "action_result": "success",
    }
    return {"hour_ms": DAY_MS + hour * HOUR_MS, **usual, **changes, "events": events}


TRENDS = [
    trend(0, 5),
    trend(1, 7),
    trend(1, 2, action_type="delete", actor_id=None),
    trend(1, 100, account_id="b"),
    trend(3, 11),
]


@pytest.fixture(params=["memory", "postgres"])
async def log(
    request: pytest.FixtureRequest,
    memory_log: MemoryLog,
    postgres_log: PostgresLogDatabase,
    stored_log: StoredLog,
) -> LogDatabase:
    if request.param == "memory":
        memory_log.trends = TRENDS
        return memory_log
    await stored_log.connection.execute("TRUNCATE auditap.trends")
    await stored_log.connection.executemany(
        "INSERT INTO auditap.trends VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        [(row["hour_ms"], number.to_bytes(16), *list(row.values())[1:]) for number, row in enumerate(TRENDS)],
    )
    return postgres_log


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (Field.ACTION_TYPE, [(0, "view", 5), (1, "delete", 2), (1, "view", 7)]),
        (Field.ACTOR_ID, [(0, "ana", 5), (1, "ana", 7), (1, None, 2)]),
        (Field.RESOURCE_PRODUCT, [(0, None, 5), (1, None, 9)]),
    ],
)
async def test_hours_are_counted_by_field(log: LogDatabase, field: Field, expected: list[object]) -> None:
    bounds = tuple(DAY_MS + hour * HOUR_MS for hour in range(4))
    found = await log.counts(SummaryQuery((A,), bounds, field, of_trends=True))
    assert sorted(map(tuple, found), key=str) == expected


async def test_whole_hours_without_filters_are_served(memory_log: MemoryLog, settings: LogApiConfig) -> None:
    memory_log.trends = TRENDS
    add_token(memory_log, "atp_account-a", {A})
    api = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: NOW_MS), settings)
    path = f"/accounts/{A}/logs/audit/summary"
    span = {"since": "2026-01-23", "before": "2026-01-24", "source": "trends"}
    answer = await api.get(path, span, api.headers)
    assert [bucket["count"] for bucket in answer.json()["result"]] == [25]
    for wrong in ({"action_type": "view"}, {"since": "2026-01-23T00:30:00Z"}, {"source": "nothing"}):
        refused = await api.get(path, {**span, **wrong}, api.headers)
        assert refused.status_code == 400
        assert "source" in refused.text
    await api.close()
