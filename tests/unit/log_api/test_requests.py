"""Request logs: the records again, one line a pair."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from log_api.app import log_api_app
from log_api.config import LogApiConfig
from schemas.identity import new_id
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.records import record
from tests.unit.log_api.api_client import NOW_MS, RANGE, TOKEN, WITH_CATEGORIES, A, ApiClient, B, add_token
from tests.unit.log_api.memory_log import MemoryLog

EVERY = "atp_every-account"
READS: Mapping[str, Any] = {
    "account_id": A,
    "actor_email": "ana@example.com",
    "actor_id": "u-1",
    "actor_ip_address": "203.0.113.9",
    "raw_method": "GET",
    "raw_status_code": 200,
    "raw_uri": "/things/{name}?q=kept",
    "raw_cf_ray_id": "ray-1",
    "exchange_host": "api.example.com",
    "exchange_duration_ms": 12,
    "exchange_response_bytes": 812,
}


@pytest.fixture
def settings() -> LogApiConfig:
    return WITH_CATEGORIES


@pytest.fixture
async def api(memory_log: MemoryLog, settings: LogApiConfig) -> AsyncIterator[ApiClient]:
    add_token(memory_log, TOKEN, {A})
    add_token(memory_log, EVERY, None)
    client = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: NOW_MS), settings)
    yield client
    await client.close()


async def lines(
    api: ApiClient, query: Mapping[str, str] | None = None, account: str = A, token: str = TOKEN
) -> list[dict[str, Any]]:
    path = f"/accounts/{account}/logs/requests"
    response = await api.get(path, {**RANGE, **(query or {})}, {"Authorization": f"Bearer {token}"})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["result"]
    return found


def shown_ids(found: list[dict[str, Any]]) -> list[str]:
    return [each["auditap"]["id"] for each in found]


def hexes(*records: Record) -> list[str]:
    return [each.id.hex for each in records]


async def test_a_line_is_made_of_the_record(api: ApiClient, memory_log: MemoryLog) -> None:
    one = record(NOW_MS, **READS)
    await memory_log.add([one])
    [line] = await lines(api)
    assert (line["ClientRequestHost"], line["EdgeResponseBytes"]) == ("api.example.com", 812)
    assert line["EdgeEndTimestamp"] - line["EdgeStartTimestamp"] == 12_000_000
    assert (line["ClientIP"], line["ClientRequestURI"]) == ("203.0.113.9", "/things/{name}?q=kept")
    assert line["RequestHeaders"] == {"cf-access-user": "ana@example.com"}
    assert line["auditap"] == {"id": one.id.hex}


@pytest.mark.parametrize(
    ("columns", "user"),
    [
        ({"actor_email": None}, {"cf-access-user": "u-1"}),
        # No address that strict clients accept.
        ({"actor_email": "CORP\\ana"}, {"cf-access-user": "CORP\\ana"}),
        ({"actor_email": None, "actor_id": None}, {}),
    ],
)
async def test_the_user_is_an_address_or_an_id(
    api: ApiClient, memory_log: MemoryLog, columns: dict[str, Any], user: dict[str, str]
) -> None:
    await memory_log.add([record(NOW_MS, **{**READS, **columns})])
    [line] = await lines(api)
    assert line["RequestHeaders"] == user


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("actor_email", "ana@example.com", "ben@example.com"),
        ("actor_id", "u-1", "u-2"),
        ("exchange_host", "api.example.com", "other.example"),
        ("raw_status_code", "200", 404),
        ("raw_method", "GET", "HEAD"),
    ],
)
async def test_filters_and_their_negations(
    api: ApiClient, memory_log: MemoryLog, name: str, value: str, other: Any
) -> None:
    hit, miss = record(NOW_MS, **READS), record(NOW_MS + 1, **{**READS, name: other})
    lacking = record(NOW_MS + 2, **{**READS, name: None})
    await memory_log.add([hit, miss, lacking])
    assert shown_ids(await lines(api, {name: value})) == hexes(hit)
    assert shown_ids(await lines(api, {f"{name}.not": value})) == hexes(lacking, miss)
    # The list of records takes the same.
    listed = await api.list({name: value})
    assert [each["id"] for each in listed.json()["result"]] == hexes(hit)


@pytest.mark.parametrize("direction", ["asc", "desc"])
async def test_its_pages_are_those_of_the_records(
    api: ApiClient, memory_log: MemoryLog, direction: str
) -> None:
    unmatched = '{"unmatched":"no_path"}'
    records = [record(NOW_MS + number, **READS) for number in range(12)]
    records += [
        record(NOW_MS + 20 + number, account_id=A, raw_method="GET", receipt=unmatched) for number in range(3)
    ]
    await memory_log.add([*records, record(NOW_MS, **{**READS, "account_id": B})])
    memory_log.complete_ms = NOW_MS
    query = {"limit": "4", "direction": direction}
    walked: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        path = f"/accounts/{A}/logs/requests"
        page = (await api.get(path, {**RANGE, **query, **cursor}, api.headers)).json()
        of_list = (await api.list({**query, **cursor})).json()
        assert page["result_info"] == of_list["result_info"]
        assert shown_ids(page["result"]) == [each["id"] for each in of_list["result"]]
        walked += shown_ids(page["result"])
        if "cursor" not in page["result_info"]:
            break
        cursor = {"cursor": page["result_info"]["cursor"]}
    assert walked == (hexes(*records) if direction == "asc" else hexes(*records)[::-1])


async def test_a_time_range_is_half_open(api: ApiClient, memory_log: MemoryLog) -> None:
    records = [record(NOW_MS + number, **READS) for number in range(3)]
    await memory_log.add(records)
    times = {"since": "2026-01-23T18:25:14.749Z", "before": "2026-01-23T18:25:14.751Z"}
    assert shown_ids(await lines(api, times)) == hexes(records[1], records[0])


async def test_a_token_sees_its_accounts_alone(api: ApiClient, memory_log: MemoryLog) -> None:
    mine, theirs = record(NOW_MS, **READS), record(NOW_MS + 1, **{**READS, "account_id": B})
    nobodys = record(NOW_MS + 2, **{**READS, "account_id": None})
    await memory_log.add([mine, theirs, nobodys])
    assert shown_ids(await lines(api)) == shown_ids(await lines(api, account="-")) == hexes(mine)
    assert shown_ids(await lines(api, account="-", token=EVERY)) == hexes(nobodys, theirs, mine)
    denied = await api.get(f"/accounts/{B}/logs/requests", RANGE, api.headers)
    assert (denied.status_code, denied.json()["result"]) == (403, None)


async def test_a_record_without_a_request_id_is_identified_by_its_own(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    one = record(NOW_MS, account_id=A)
    await memory_log.add([one])
    [line] = await lines(api)
    assert line["RayID"] == one.id.hex
    assert line["EdgeEndTimestamp"] is None


@pytest.mark.parametrize(
    "query", [{"since": "x"}, {"limit": "1001"}, {"exchange_host": "a" * 8193}, {"cursor": "x"}]
)
async def test_what_the_list_refuses_is_refused(api: ApiClient, query: dict[str, str]) -> None:
    path = f"/accounts/{A}/logs/requests"
    assert (await api.get(path, {**RANGE, **query}, api.headers)).status_code == 400
    assert (await api.get(path, {}, api.headers)).status_code == 400
    assert (
        await api.get(f"/accounts/{A}/logs/requests/{new_id(NOW_MS)}", RANGE, api.headers)
    ).status_code == 404
