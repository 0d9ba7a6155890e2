"""Summaries from trends, on the memory log and on a real Postgres."""

from __future__ import annotations

from typing import Any

import pytest

from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from log_api.ports import LogDatabase
from log_api.sql_builder import Field, SummaryQuery
from log_api.summary import summarize
from schemas.metric_defs import Metrics
from tests.unit.log_api.api_client import NOW_MS, A, ApiClient, add_token
from tests.unit.log_api.memory_log import MemoryLog
from tests.unit.log_api.stored_log import StoredLog, reads

HOUR_MS = 3_600_000
TEN_MINUTES_MS = 600_000
DAY_MS = NOW_MS - NOW_MS % (24 * HOUR_MS)


def trend(hour: float, events: int, width_ms: int = HOUR_MS, **changes: Any) -> dict[str, Any]:
    usual = {
        "account_id": A,
        "actor_id": "ana",
        "resource_product": None,
        "action_type": "view",
        "action_result": "success",
    }
    return {
        "start_ms": DAY_MS + round(hour * HOUR_MS),
        "width_ms": width_ms,
        **usual,
        **changes,
        "events": events,
    }


TRENDS = [
    trend(0, 5),
    trend(1, 7),
    trend(1, 2, action_type="delete", actor_id=None),
    trend(1, 100, account_id="b"),
    trend(3, 11),
    *(trend(tenth / 6, tenth, TEN_MINUTES_MS) for tenth in range(1, 13)),
    trend(1, 3, TEN_MINUTES_MS, action_type="delete"),
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
        "INSERT INTO auditap.trends (start_ms, digest, width_ms, account_id, actor_id, resource_product,"
        " action_type, action_result, events) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        [
            (row["start_ms"], number.to_bytes(16), *list(row.values())[1:])
            for number, row in enumerate(TRENDS)
        ],
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
    found = await reads(log).counts(SummaryQuery((A,), bounds, field, from_trends=True))
    assert sorted(map(tuple, found), key=str) == expected


async def test_trends_serve_whole_hours_without_filters(
    memory_log: MemoryLog, settings: LogApiConfig
) -> None:
    memory_log.trends = TRENDS
    add_token(memory_log, "atp_account-a", {A})
    api = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: NOW_MS), settings)
    path = f"/accounts/{A}/logs/audit/summary"
    span = {"since": "2026-01-23", "before": "2026-01-24", "source": "trends"}
    answer = await api.get(path, span, api.headers)
    assert [bucket["count"] for bucket in answer.json()["result"]] == [25]
    for wrong in (
        {"action_type": "view"},
        {"since": "2026-01-23T00:30:00Z"},
        {"source": "nothing"},
        {"bucket": "ten_minutes"},
        {"by": "raw_method"},
    ):
        refused = await api.get(path, {**span, **wrong}, api.headers)
        assert refused.status_code == 400
        assert "source" in refused.text
    await api.close()


async def test_hopping_windows_overlap(log: LogDatabase, settings: LogApiConfig) -> None:
    """Successive ten-minute windows hold 0, 1, 2, … 12 views; the seventh also holds 3 deletions."""
    bounds = tuple(range(DAY_MS, DAY_MS + 2 * HOUR_MS + 1, TEN_MINUTES_MS))
    query = SummaryQuery((A,), bounds, Field.ACTION_TYPE, from_trends=True, hops=6, trend_ms=TEN_MINUTES_MS)
    found = (await summarize(reads(log), query, 1)).buckets
    assert [(one["since"][11:16], one["before"][11:16]) for one in found][:2] == [
        ("00:00", "01:00"),
        ("00:10", "01:10"),
    ]
    views = [sum(range(first, first + 6)) for first in range(7)]
    deleted = [0, 3, 3, 3, 3, 3, 3]
    assert [one["count"] for one in found] == [sum(each) for each in zip(views, deleted, strict=True)]
    assert found[0]["values"] == [{"value": "view", "count": views[0]}]
    assert found[1]["values"] == [{"value": "view", "count": views[1]}, {"value": "delete", "count": 3}]


async def test_hopping_windows_need_trends(memory_log: MemoryLog, settings: LogApiConfig) -> None:
    memory_log.trends = TRENDS
    add_token(memory_log, "atp_account-a", {A})
    api = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: NOW_MS), settings)
    path = f"/accounts/{A}/logs/audit/summary"
    span = {
        "since": "2026-01-23T00:00:00Z",
        "before": "2026-01-23T02:00:00Z",
        "source": "trends",
        "bucket": "hour",
    }
    answer = await api.get(path, {**span, "hop": "30m"}, api.headers)
    assert [one["count"] for one in answer.json()["result"]] == [
        15,
        3 + sum(range(3, 9)),
        3 + sum(range(6, 12)),
    ]
    whole = {**span, "before": "2026-01-25", "bucket": "day", "hop": "1h"}
    assert len((await api.get(path, whole, api.headers)).json()["result"]) == 25
    none = {**span, "before": span["since"], "hop": "10m"}
    assert (await api.get(path, none, api.headers)).json()["result"] == []
    for name, wrong in (
        ("hop", {"source": "records"}),
        ("hop", {"hop": "1h"}),
        ("hop", {"hop": "7m"}),
        ("source", {"since": "2026-01-23T00:05:00Z"}),
        ("source", {"action_type": "view"}),
        ("bucket", {"since": "2020-01-01"}),
    ):
        refused = await api.get(path, {**span, "hop": "10m", **wrong}, api.headers)
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["message"].startswith(f"{name}: "), refused.text
    await api.close()
