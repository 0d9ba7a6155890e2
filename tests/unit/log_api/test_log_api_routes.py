"""All routes except the list, on the memory log; the client validates every response against the document."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest

from log_api.app import log_api_app
from log_api.change_reads import RESOURCES_MAX
from log_api.completeness import Gap
from log_api.config import LogApiConfig, LogApiLimits
from log_api.ports import Permission
from log_api.records import Page
from log_api.resource_changes import ResourceChanges, WantedChanges
from log_api.sql_builder import ListQuery
from schemas.errors import RetryableError
from schemas.identity import new_id, rfc3339_ms
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.records import record
from tests.unit.log_api.api_client import NOW_MS, RANGE, TOKEN, WITH_CATEGORIES, A, ApiClient, B, add_token
from tests.unit.log_api.memory_log import MemoryLog

CANARY = "canary-7f3a"
C = "c" * 32
LIST = f"/accounts/{A}/logs/audit"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
TIMES = {**RANGE, "action_time": "2026-01-23T18:25:14.749Z"}


@pytest.fixture
def settings() -> LogApiConfig:
    return replace(
        WITH_CATEGORIES,
        organizations={"acme": (A, C), "other": (A, B)},
        limits=LogApiLimits(export_records=7, retry_after_s=1, tail_time_ms=1, numbered_records_max=2000),
    )


@pytest.fixture
async def api(memory_log: MemoryLog, settings: LogApiConfig) -> AsyncIterator[ApiClient]:
    add_token(memory_log, TOKEN, {A, C}, *Permission, email="one@example.com")
    client = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: NOW_MS), settings)
    yield client
    await client.close()


async def fill(log: MemoryLog, count: int, **columns: Any) -> list[Record]:
    columns.setdefault("account_id", A)
    records = [record(NOW_MS + number, **columns) for number in range(count)]
    await log.add(records)
    return records


def hexes(records: list[Record]) -> list[str]:
    return [one.id.hex for one in records]


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [one["id"] for one in response.json()["result"]]


# One record, and its resource's history


async def test_one_record_by_its_id(api: ApiClient, memory_log: MemoryLog) -> None:
    [one] = await fill(memory_log, 1)
    for spelling in (one.id.hex, str(one.id), one.id.hex.upper()):
        response = await api.get(f"{LIST}/{spelling}", headers=BEARER)
        assert response.json()["result"]["id"] == one.id.hex


@pytest.mark.parametrize("name", ["history", ""])
async def test_a_record_of_another_account_is_not_found(
    api: ApiClient, memory_log: MemoryLog, name: str
) -> None:
    theirs = record(NOW_MS, account_id=B, resource_id="p")
    await memory_log.add([theirs])
    for missing in (theirs.id.hex, new_id(NOW_MS)):
        response = await api.get(f"{LIST}/{missing}/{name}".rstrip("/"), TIMES, BEARER)
        assert response.status_code == 404


@pytest.mark.parametrize("audit_id", ["x", "a" * 31, "a" * 33, "a" * 32 + "%0A", "%20" + "a" * 32])
async def test_an_invalid_id_is_not_found(api: ApiClient, audit_id: str) -> None:
    assert (await api.get(f"{LIST}/{audit_id}", headers=BEARER)).status_code == 404
    assert (await api.get(f"{LIST}/{audit_id}/history", TIMES, BEARER)).status_code == 404


@pytest.mark.parametrize("account", ["a%0A", "a%0D", "a%C2%85"])
async def test_an_account_with_a_line_end_is_not_found(api: ApiClient, account: str) -> None:
    assert (await api.list({}, account=account)).status_code == 404


async def test_the_history_of_a_resource(api: ApiClient, memory_log: MemoryLog) -> None:
    of_policy = {"resource_id": "p1", "resource_product": "alerting", "resource_type": "policies"}
    records = await fill(memory_log, 5, **of_policy)
    await fill(memory_log, 3, **{**of_policy, "resource_id": "p2"})
    await fill(memory_log, 3, **{**of_policy, "resource_type": "rules"})
    await fill(memory_log, 3, **{**of_policy, "account_id": B})
    response = await api.get(f"{LIST}/{records[2].id.hex}/history", TIMES, BEARER)
    assert ids(response) == hexes(records)[::-1]
    assert response.json()["result_info"] == {"count": 5, "complete_before": None, "history_status": "exact"}
    paged = await api.get(f"{LIST}/{records[2].id.hex}/history", {**TIMES, "limit": "3"}, BEARER)
    cursor = paged.json()["result_info"]["cursor"]
    rest = await api.get(f"{LIST}/{records[0].id.hex}/history", {**TIMES, "cursor": cursor}, BEARER)
    assert ids(paged) + ids(rest) == hexes(records)[::-1]


@pytest.mark.parametrize(
    ("columns", "status", "count"),
    [
        ({"resource_id": "p1"}, "approximate", 1),
        ({"resource_id": "p1", "resource_type": "policies"}, "approximate", 1),
        ({"resource_type": "policies", "resource_product": "alerting"}, "unavailable", 0),
    ],
)
async def test_the_history_of_an_unidentified_resource_is_approximate_or_unavailable(
    api: ApiClient, memory_log: MemoryLog, columns: dict[str, str], status: str, count: int
) -> None:
    [one] = await fill(memory_log, 1, **columns)
    response = await api.get(f"{LIST}/{one.id.hex}/history", TIMES, BEARER)
    assert response.json()["result_info"] == {
        "count": count,
        "complete_before": None,
        "history_status": status,
    }


@pytest.mark.parametrize("missing", ["action_time", "since", "before"])
async def test_a_history_requires_its_times(api: ApiClient, memory_log: MemoryLog, missing: str) -> None:
    [one] = await fill(memory_log, 1, resource_id="p1")
    for query in (
        {name: value for name, value in TIMES.items() if name != missing},
        {**TIMES, missing: CANARY},
    ):
        response = await api.get(f"{LIST}/{one.id.hex}/history", query, BEARER)
        assert response.status_code == 400
        assert response.json()["errors"][0]["message"].startswith(f"{missing}: ")
        assert CANARY not in response.text


# What changed

POLICY: dict[str, Any] = {
    "account_id": A,
    "raw_method": "PUT",
    "raw_status_code": 200,
    "receipt": '{"document":"d1","operation":"putPolicy"}',
    "resource_id": "p1",
    "resource_product": "alerting",
    "resource_type": "policies",
}


async def puts(log: MemoryLog, *values: int, **columns: Any) -> list[Record]:
    """Add a PUT of a policy for each value."""
    records = [
        record(NOW_MS + number, **{**POLICY, "resource_request": f'{{"a":{value}}}', **columns})
        for number, value in enumerate(values)
    ]
    await log.add(records)
    return records


async def test_what_an_action_changed(api: ApiClient, memory_log: MemoryLog) -> None:
    await puts(memory_log, 7, account_id=B)
    await puts(memory_log, 8, resource_product="queues")
    first, second = await puts(memory_log, 1, 2)
    response = await api.get(f"{LIST}/{second.id.hex}/changes", headers=BEARER)
    assert response.json()["result"] == {
        "id": second.id.hex,
        "status": "exact",
        "previous_id": first.id.hex,
        "from_ids": [first.id.hex],
        "changes": [{"pointer": "/a", "before": 1, "after": 2}],
        "truncated": False,
    }
    response = await api.get(f"{LIST}/{first.id.hex}/changes", headers=BEARER)
    assert response.json()["result"]["status"] == "first_seen"


@pytest.mark.parametrize(
    "columns", [{"resource_id": None}, {"action_result": "failure"}, {"action_type": "view"}]
)
async def test_changes_are_unavailable(
    api: ApiClient, memory_log: MemoryLog, columns: dict[str, Any]
) -> None:
    _, second = await puts(memory_log, 1, 2, **columns)
    found = (await api.get(f"{LIST}/{second.id.hex}/changes", headers=BEARER)).json()["result"]
    assert (found["status"], found["changes"]) == ("unavailable", [])


async def test_changes_of_a_record_without_account_are_unavailable(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    add_token(memory_log, "all", None)
    _, second = await puts(memory_log, 1, 2, account_id=None)
    path = f"/accounts/-/logs/audit/{second.id.hex}/changes"
    found = (await api.get(path, headers={"Authorization": "Bearer all"})).json()["result"]
    assert (found["status"], found["changes"]) == ("unavailable", [])


async def test_changes_of_a_record_of_another_account_are_not_found(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    _, theirs = await puts(memory_log, 1, 2, account_id=B)
    for account in (A, "-"):
        path = f"/accounts/{account}/logs/audit/{theirs.id.hex}/changes"
        assert (await api.get(path, headers=BEARER)).status_code == 404


@pytest.mark.parametrize("root", [f"/accounts/{A}", "/organizations/acme"])
async def test_a_history_with_changes(api: ApiClient, memory_log: MemoryLog, root: str) -> None:
    records = await puts(memory_log, 1, 1, 3, 4)
    path = f"{root}/logs/audit/{records[0].id.hex}/history"
    query = {**TIMES, "changes": "true", "limit": "2"}
    page = (await api.get(path, query, BEARER)).json()
    rest = (await api.get(path, {**query, "cursor": page["result_info"]["cursor"]}, BEARER)).json()
    found = [one["auditap"]["changes"] for one in page["result"] + rest["result"]]
    assert [one["status"] for one in found] == ["exact", "exact", "exact", "first_seen"]
    assert [one["changes"] for one in found] == [
        [{"pointer": "/a", "before": 3, "after": 4}],
        [{"pointer": "/a", "before": 1, "after": 3}],
        [],
        [{"pointer": "/a", "after": 1}],
    ]
    plain = (await api.get(path, TIMES, BEARER)).json()
    assert "changes" not in plain["result"][0]["auditap"]


async def test_v1_has_the_values_before(api: ApiClient, memory_log: MemoryLog) -> None:
    await puts(memory_log, 9, account_id=B)
    await puts(memory_log, 1, 2)
    [made, changed] = (await api.get(f"/accounts/{A}/audit_logs", {"action.type": "update"}, BEARER)).json()[
        "result"
    ][::-1]
    assert (made["oldValue"], made["oldValueJson"]) == ("", {})
    assert (changed["oldValue"], changed["oldValueJson"], changed["newValue"]) == (
        '{"a":1}',
        {"a": 1},
        '{"a":2}',
    )


async def test_v1_has_the_values_after_where_the_request_is_not_recorded(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    [one] = await puts(memory_log, 1, resource_request=None, resource_response='{"a":{"b":1}}')
    [shown] = (await api.get(f"/accounts/{A}/audit_logs", {"id": one.id.hex}, BEARER)).json()["result"]
    assert (shown["newValue"], shown["newValueJson"]) == ('{"a":{"b":1}}', {"a": {"b": 1}})


async def test_v1_lists_records_whose_values_before_are_not_read_in_time(
    api: ApiClient, memory_log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_slow(*_arguments: object) -> None:
        raise RetryableError("the log is not read in time")

    await puts(memory_log, 1, 2)
    monkeypatch.setattr(memory_log, "resource_changes", too_slow)
    found = (await api.get(f"/accounts/{A}/audit_logs", "", BEARER)).json()["result"]
    assert [one["oldValue"] for one in found] == ["", ""]


async def test_a_page_of_v1_reads_its_resources_at_once_and_no_more_than_a_bound(
    api: ApiClient, memory_log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = memory_log.resource_changes

    async def counted(
        accounts: Sequence[str] | None, wanted: Sequence[WantedChanges]
    ) -> Sequence[ResourceChanges]:
        asked.append(len(wanted))
        return await read(accounts, wanted)

    for number in range(RESOURCES_MAX + 5):
        await puts(memory_log, 1, 2, resource_id=f"p{number}")
    monkeypatch.setattr(memory_log, "resource_changes", counted)
    found = (await api.get(f"/accounts/{A}/audit_logs", {"per_page": "1000"}, BEARER)).json()["result"]
    assert asked == [RESOURCES_MAX]
    assert sum(one["oldValue"] == '{"a":1}' for one in found) == RESOURCES_MAX


async def test_product_categories(api: ApiClient) -> None:
    response = await api.get(f"{LIST}/product_categories", headers=BEARER)
    products = [{"label": "Alerts", "value": "alerting"}, {"label": "Queues", "value": "queues"}]
    assert response.json()["result"] == [{"label": "Messaging", "value": "messaging", "products": products}]


# Organizations


async def test_an_organization_lists_the_records_of_its_accounts(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    mine = await fill(memory_log, 3, actor_type="delegated_service")
    also = await fill(memory_log, 3, account_id=C, actor_type="user", resource_id="p1")
    await fill(memory_log, 3, account_id=B)
    response = await api.get("/organizations/acme/logs/audit", RANGE, BEARER)
    assert ids(response) == sorted(hexes(mine) + hexes(also), reverse=True)
    found = response.json()["result"]
    assert {one["organization"]["id"] for one in found} == {"acme"}
    assert {one["actor"].get("type") for one in found} == {None, "user"}
    one = also[0].id.hex
    history = await api.get(f"/organizations/acme/logs/audit/{one}/history", TIMES, BEARER)
    assert ids(history) == hexes(also)[::-1]


async def test_an_organization_needs_a_token_for_all_its_accounts(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    add_token(memory_log, "all", None)
    outcomes = [
        (name, token, (await api.get(f"/organizations/{name}/logs/audit", RANGE, bearer(token))).status_code)
        for name in ("acme", "other", "none")
        for token in (TOKEN, "all")
    ]
    assert outcomes == [
        ("acme", TOKEN, 200),
        ("acme", "all", 200),
        ("other", TOKEN, 403),
        ("other", "all", 200),
        ("none", TOKEN, 403),
        ("none", "all", 404),
    ]


async def test_a_dash_stands_for_all_accounts_of_the_token(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, "atp_two", {A, "c"}, *Permission)
    add_token(memory_log, "atp_every", None)
    mine, theirs, nobodys = (
        record(NOW_MS + number, account_id=account) for number, account in enumerate((A, B, None))
    )
    await memory_log.add([mine, theirs, nobodys])
    assert ids(await api.list({}, "-", "atp_two")) == hexes([mine])
    assert ids(await api.list({}, "-", "atp_every")) == hexes([nobodys, theirs, mine])


@pytest.mark.parametrize("accounts", [{A}, {A, "c"}, None], ids=["one", "two", "all"])
async def test_alerts_are_for_one_account(
    api: ApiClient, memory_log: MemoryLog, accounts: set[str] | None
) -> None:
    add_token(memory_log, "atp_other", accounts, *Permission)
    statuses = [
        (await api.get(f"/accounts/{account}/logs/audit/alerts", RANGE, bearer("atp_other"))).status_code
        for account in (A, "-")
    ]
    assert statuses == [200, 404]


@pytest.mark.parametrize(
    ("accounts", "expected"), [({A}, 1), ({A, "c"}, 3), (None, 7)], ids=["one", "two", "all"]
)
async def test_a_summary_counts_the_accounts_that_a_token_may_read(
    api: ApiClient, memory_log: MemoryLog, accounts: set[str] | None, expected: int
) -> None:
    for account, count in ((A, 1), ("c", 2), (None, 4)):
        await fill(memory_log, count, account_id=account)
    add_token(memory_log, "atp_other", accounts, *Permission)
    path = "/accounts/-/logs/audit/summary"
    found = (await api.get(path, RANGE, bearer("atp_other"))).json()
    assert sum(one["count"] for one in found["result"]) == expected
    trends = await api.get(path, {**RANGE, "source": "trends"}, bearer("atp_other"))
    assert trends.status_code == (400 if accounts is None else 200)


async def test_the_accounts_that_a_token_may_read(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, "atp_two", {A, "c"})
    add_token(memory_log, "atp_every", None)
    await memory_log.add([record(NOW_MS, account_id=account) for account in (B, A, None, B)])
    accounts = {
        (token, query): ids(await api.get("/accounts", query, bearer(token)))
        for token in ("atp_two", "atp_every")
        for query in ("", "per_page=1&page=2", "page=3")
    }
    assert accounts == {
        ("atp_two", ""): [A, "c"],
        ("atp_two", "per_page=1&page=2"): ["c"],
        ("atp_two", "page=3"): [],
        ("atp_every", ""): [A, B],
        ("atp_every", "per_page=1&page=2"): [B],
        ("atp_every", "page=3"): [],
    }


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# v1


async def test_v1_by_page_numbers(api: ApiClient, memory_log: MemoryLog) -> None:
    records = await fill(memory_log, 25)
    found: list[str] = []
    for page in range(1, 10):
        query = {"page": f"{page}.0", "per_page": "10"}
        response = await api.get(f"/accounts/{A}/audit_logs", query, BEARER)
        if not ids(response):
            break
        found += ids(response)
    assert found == hexes(records)[::-1]
    assert page == 4


async def test_a_page_beyond_the_last_record_is_empty_and_never_hides_records(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    await fill(memory_log, 2001)
    path = f"/accounts/{A}/audit_logs"
    for per_page, page, status in (("100", "21", 400), ("1000", "3", 400), ("100", "999999999", 400)):
        response = await api.get(path, {"per_page": per_page, "page": page}, BEARER)
        assert response.status_code == status
    memory_log.rows.popitem()
    for page in ("21", "999999999"):
        response = await api.get(path, {"per_page": "100", "page": page}, BEARER)
        assert ids(response) == []
    assert len(ids(await api.get(path, {"per_page": "100", "page": "20"}, BEARER))) == 100


async def test_reading_v1_page_by_page_with_an_end_is_stable_while_records_arrive(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    records = await fill(memory_log, 25)
    query = {"per_page": "10", "before": rfc3339_ms(NOW_MS + 25)}
    found: list[str] = []
    for page in ("1", "2", "3"):
        found += ids(await api.get(f"/accounts/{A}/audit_logs", {**query, "page": page}, BEARER))
        await memory_log.add([record(NOW_MS + 25 + int(page), account_id=A)])
    assert found == hexes(records)[::-1]


async def test_probes_are_answered_from_the_tokens_own_scope(api: ApiClient, memory_log: MemoryLog) -> None:
    one = add_token(memory_log, "one", {A}, "something:else", email="one@example.com")
    nobody = add_token(memory_log, "nobody", None, "something:else")
    for token, email in ((one, "one@example.com"), (nobody, "")):
        response = await api.get("/user", {}, bearer(token.name))
        assert response.json()["result"] == {"id": token.id.hex, "email": email}
    statuses = {
        (token, account): (await api.get(f"/accounts/{account}/tokens/verify", {}, bearer(token))).status_code
        for token in ("one", "nobody", "unknown")
        for account in (A, B)
    }
    assert statuses == {
        ("one", A): 200,
        ("one", B): 403,
        ("nobody", A): 200,
        ("nobody", B): 200,
        ("unknown", A): 401,
        ("unknown", B): 401,
    }


async def test_a_record_of_v1(api: ApiClient, memory_log: MemoryLog) -> None:
    await fill(
        memory_log,
        1,
        action_description="Update a policy",
        actor_id="u1",
        actor_email="one@example.com",
        actor_ip_address="203.0.113.9",
        actor_type="cloudflare_admin",
        actor_context="dash",
        raw_method="PUT",
        raw_status_code=200,
        resource_id="p1",
        resource_type="policies",
        resource_request='{"price":1.10}',
        zone_name="example.com",
    )
    [one] = (await api.get(f"/accounts/{A}/audit_logs", {"id": ""}, BEARER)).json().get("result") or [None]
    assert one == {
        "id": one["id"],
        "action": {"result": True, "type": "update"},
        "actor": {"id": "u1", "email": "one@example.com", "ip": "203.0.113.9", "type": "admin"},
        "interface": "UI",
        "metadata": {
            "description": "Update a policy",
            "method": "PUT",
            "status_code": 200,
            "zone_name": "example.com",
        },
        "newValue": '{"price":1.10}',
        "newValueJson": {"price": 1.1},
        "oldValue": "",
        "oldValueJson": {},
        "owner": {"id": A},
        "resource": {"id": "p1", "type": "policies"},
        "when": "2026-01-23T18:25:14.749Z",
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"action.type": "delete"}, [1]),
        ({"actor.email": "one@example.com"}, [2]),
        ({"actor.ip": "203.0.113.0/24"}, [3]),
        ({"zone.name": "example.com"}, [4]),
        ({"hide_user_logs": "true"}, [0, 1, 2, 3, 4]),
        ({"since": "2026-01-23T18:25:14.753Z"}, [4, 5]),
        ({"before": "2026-01-23T18:25:14.750Z", "direction": "asc"}, [0]),
        ({}, [0, 1, 2, 3, 4, 5]),
    ],
)
async def test_the_filters_of_v1(
    api: ApiClient, memory_log: MemoryLog, query: dict[str, str], expected: list[int]
) -> None:
    columns: list[dict[str, Any]] = [
        {},
        {"action_type": "delete"},
        {"actor_email": "one@example.com"},
        {"actor_ip_address": "203.0.113.9"},
        {"zone_name": "example.com"},
        {"resource_scope": "user"},
    ]
    records = [record(NOW_MS + at, account_id=A, **each) for at, each in enumerate(columns)]
    await memory_log.add(records)
    found = ids(await api.get(f"/accounts/{A}/audit_logs", query, BEARER))
    assert sorted(found) == [records[at].id.hex for at in expected]


async def test_v1_finds_a_record_by_its_id(api: ApiClient, memory_log: MemoryLog) -> None:
    records = await fill(memory_log, 3)
    found = ids(await api.get(f"/accounts/{A}/audit_logs", {"id": records[1].id.hex}, BEARER))
    assert found == [records[1].id.hex]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page", "0"),
        ("page", "x"),
        ("per_page", "1001"),
        ("export", CANARY),
        ("hide_user_logs", CANARY),
        ("actor.ip", CANARY),
        ("id", CANARY),
        ("since", CANARY),
        ("actor.email", f"{CANARY}\0"),
    ],
)
async def test_v1_rejects_invalid_parameters(api: ApiClient, name: str, value: str) -> None:
    response = await api.get(f"/accounts/{A}/audit_logs", {name: value}, BEARER)
    assert response.status_code == 400
    assert response.json()["errors"][0]["message"].startswith(f"{name}: ")
    assert CANARY not in response.text


async def test_v1_as_csv(api: ApiClient, memory_log: MemoryLog) -> None:
    records = await fill(memory_log, 20, actor_email="=cmd|' /C calc'!A0", resource_request='{"a":"x\\ny"}')
    query = {"export": "true", "per_page": "5", "page": "2", "direction": "asc"}
    response = await api.get(f"/accounts/{A}/audit_logs", query, BEARER)
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["id"] for row in rows] == hexes(records)
    assert rows[0]["actor.email"] == "'=cmd|' /C calc'!A0"
    assert rows[0]["newValue"] == '{"a":"x\\ny"}'
    assert rows[0]["action.result"] == "true"


async def test_the_log_of_the_tokens_user(api: ApiClient, memory_log: MemoryLog) -> None:
    mine = await fill(memory_log, 2, actor_email="one@example.com")
    also = await fill(memory_log, 2, actor_email="one@example.com", account_id=C)
    theirs = await fill(memory_log, 2, actor_email="one@example.com", account_id=B)
    await fill(memory_log, 2, actor_email="two@example.com")
    found = ids(await api.get("/user/audit_logs", {}, BEARER))
    assert sorted(found) == sorted(hexes(mine) + hexes(also))
    add_token(memory_log, "all", None, email="one@example.com")
    add_token(memory_log, "nobody", None)
    assert len(ids(await api.get("/user/audit_logs", {}, bearer("all")))) == 4 + len(theirs)
    assert ids(await api.get("/user/audit_logs", {}, bearer("nobody"))) == []


# Authentication logs


def login(at_ms: int, **columns: Any) -> Record:
    return record(
        at_ms,
        **{
            "account_id": A,
            "resource_product": "access",
            "resource_type": "login",
            "actor_email": "one@example.com",
            **columns,
        },
    )


ACCESS = f"/accounts/{A}/access/logs/access_requests"


async def test_a_login_entry(api: ApiClient, memory_log: MemoryLog) -> None:
    await memory_log.add(
        [
            login(
                NOW_MS,
                action_result="failure",
                actor_ip_address="203.0.113.9",
                raw_cf_ray_id="ray1",
                resource_id="app1",
                resource_request='{"app_domain":"wiki.example.com","app_type":"self_hosted","other":1}',
                resource_response='{"connection":"okta","country":"pt"}',
            ),
            record(NOW_MS, account_id=A, resource_product="access", resource_type="policies"),
            record(NOW_MS, account_id=A, resource_product="dns", resource_type="login"),
        ]
    )
    body = (await api.get(ACCESS, {}, BEARER)).json()
    assert body["result_info"] == {"page": 1, "per_page": 25, "count": 1, "total_count": 1}
    [one] = body["result"]
    assert body["result"] == [
        {
            "id": one["id"],
            "user_email": "one@example.com",
            "ip_address": "203.0.113.9",
            "app_uid": "app1",
            "app_domain": "wiki.example.com",
            "app_type": "self_hosted",
            "action": "login",
            "connection": "okta",
            "allowed": False,
            "created_at": "2026-01-23T18:25:14.749Z",
            "country": "pt",
            "ray_id": "ray1",
        }
    ]
    some = (await api.get(ACCESS, {"fields": "allowed, ray_id"}, BEARER)).json()["result"]
    assert some == [{"allowed": False, "ray_id": "ray1"}]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        # Denied with status 200.
        ({"resource_response": '{"allowed":false}'}, {"allowed": False}),
        ({"resource_response": '{"allowed":true}', "action_result": "failure"}, {"allowed": True}),
        # A client says what it likes.
        (
            {"resource_response": '{"allowed":false}', "resource_request": '{"allowed":true}'},
            {"allowed": False},
        ),
        ({"resource_response": '{"allowed":"no"}', "action_result": "failure"}, {"allowed": False}),
        (
            {
                "resource_response": "{}",
                "resource_request": '{"allowed":true}',
                "action_result": "failure",
            },
            {"allowed": False},
        ),
        ({"resource_request": '{"allowed":false}'}, {"allowed": True}),
        # A number that is no float of 64 bits, as redaction keeps it.
        (
            {"resource_response": '{"allowed" : false ,"n":1e400,"app_type":"saas"}'},
            {"allowed": False, "app_type": "saas"},
        ),
        (
            {"resource_response": r'{"app_domain":"\ud83d\ude00 shop\ud83d"}'},
            {"app_domain": "\U0001f600 shop"},
        ),
        (
            {
                "actor_ip_address": "192.0.2.1",
                "resource_request": '{"user_email":"ana@example.com","ip_address":"203.0.113.9"}',
            },
            {"user_email": "ana@example.com", "ip_address": "203.0.113.9", "allowed": True},
        ),
    ],
)
async def test_a_login_entry_shows_what_the_recorded_bodies_say(
    api: ApiClient, memory_log: MemoryLog, columns: dict[str, Any], expected: dict[str, Any]
) -> None:
    one = login(NOW_MS, **columns)
    await memory_log.add([one])
    for path in (ACCESS, ACCESS.replace("access_requests", "access-requests")):
        [entry] = (await api.get(path, {}, BEARER)).json()["result"]
        assert {name: entry[name] for name in expected} == expected
        assert entry["id"] == entry["ray_id"] == one.id.hex


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"allowed": "false"}, [1]),
        ({"allowed": "false", "allowedOp": "neq"}, [0, 2]),
        ({"app_type": "saas"}, [1]),
        ({"app_uid": "app2", "app_uidOp": "eq"}, [2]),
        ({"country_code": "pt", "country_codeOp": "neq"}, [0, 2]),
        ({"idp": "okta"}, [1]),
        ({"non_identity": "true"}, [2]),
        ({"non_identity": "true", "non_identityOp": "neq"}, [0, 1]),
        ({"ray_id": "ray0"}, [0]),
        ({"ray_id": "ray0", "ray_idOp": "neq", "email": "ONE@", "emailOp": "neq"}, [1, 2]),
    ],
)
async def test_the_operators_of_authentication_logs(
    api: ApiClient, memory_log: MemoryLog, query: dict[str, str], expected: list[int]
) -> None:
    denied = '{"allowed":false,"app_type":"saas","country":"pt","connection":"okta"}'
    logins = [
        login(NOW_MS, raw_cf_ray_id="ray0"),
        login(NOW_MS + 1, resource_response=denied),
        login(NOW_MS + 2, actor_email=None, resource_id="app2"),
    ]
    await memory_log.add(logins)
    found = {one["id"] for one in (await api.get(ACCESS, query, BEARER)).json()["result"]}
    assert found == {logins[at].id.hex for at in expected}


async def test_pages_of_authentication_logs_are_numbered(api: ApiClient, memory_log: MemoryLog) -> None:
    await memory_log.add([login(NOW_MS + at) for at in range(7)])
    infos = [
        (await api.get(ACCESS, {"per_page": "3", "page": page}, BEARER)).json()["result_info"]
        for page in ("1", "2", "3", "4")
    ]
    assert [(one["page"], one["count"], one["total_count"]) for one in infos] == [
        (1, 3, 7),
        (2, 3, 7),
        (3, 1, 7),
        (4, 0, 7),
    ]


@pytest.mark.parametrize("counted", [None, 2, 6])
async def test_counting_authentication_logs_fails_no_page(
    api: ApiClient, memory_log: MemoryLog, monkeypatch: pytest.MonkeyPatch, counted: int | None
) -> None:
    await memory_log.add([login(NOW_MS + at) for at in range(7)])
    counts: list[ListQuery] = []
    read_ids = memory_log.ids

    async def ids_until_the_time_limit(query: ListQuery) -> Sequence[UUID]:
        counts.append(query)
        if query.whole or counted is None:
            raise RetryableError("the log is not read in time")
        return (await read_ids(query))[:counted]

    monkeypatch.setattr(memory_log, "ids", ids_until_the_time_limit)
    totals = []
    for page in ("1", "2", "3", "4"):
        response = await api.get(ACCESS, {"per_page": "3", "page": page}, BEARER)
        totals.append(response.json()["result_info"]["total_count"])
    known = counted or 0
    # A pager goes on while there are more entries than it has read, and the last page knows the number.
    assert totals == [max(4, known), max(7, known), 7, known]
    assert [query.limit for query in counts] == [10_000] * 3


@pytest.mark.parametrize("body", ['["x"]', '"x"', "null", '{"country":7}', '{"country":"\\ud800"}'])
async def test_a_login_entry_with_any_body(api: ApiClient, memory_log: MemoryLog, body: str) -> None:
    await memory_log.add([login(NOW_MS, resource_request=body)])
    [entry] = (await api.get(ACCESS, {}, BEARER)).json()["result"]
    assert not entry["country"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"email": "@example.com"}, [0, 1]),
        ({"email": "one@example.com", "email_exact": "true"}, [0]),
        ({"email": "one@example.com", "emailOp": "eq"}, [0]),
        ({"email": "one@example.com", "emailOp": "neq"}, [1, 2, 3]),
        ({"email": "example", "emailOp": "neq"}, [2, 3]),
        ({"email": "1%_"}, [2]),
        ({"email": "\\"}, []),
        ({"since": "2026-01-23T18:25:14.750Z", "until": "2026-01-23T18:25:14.751Z"}, [1, 2]),
        ({"limit": "2", "direction": "asc"}, [0, 1]),
        ({"per_page": "3", "page": "2"}, [0]),
    ],
)
async def test_the_filters_of_authentication_logs(
    api: ApiClient, memory_log: MemoryLog, query: dict[str, str], expected: list[int]
) -> None:
    emails = ["one@example.com", "two@example.com", "1%_2@elsewhere", None]
    await memory_log.add(
        [login(NOW_MS + at, actor_email=email, raw_cf_ray_id=str(at)) for at, email in enumerate(emails)]
    )
    found = (await api.get(ACCESS, query, BEARER)).json()["result"]
    assert sorted(int(one["ray_id"]) for one in found) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fields", CANARY),
        ("emailOp", CANARY),
        ("allowedOp", CANARY),
        ("allowed", CANARY),
        ("until", CANARY),
        ("limit", "0"),
        ("page", "0"),
    ],
)
async def test_authentication_logs_reject_invalid_parameters(api: ApiClient, name: str, value: str) -> None:
    response = await api.get(ACCESS, {name: value, "per_page": "100"}, BEARER)
    assert response.status_code == 400
    assert CANARY not in response.text


async def test_authentication_logs_need_their_own_permission(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, "audit", {A}, Permission.AUDIT_LOGS)
    add_token(memory_log, "access", {A}, Permission.ACCESS_LOGS)
    assert (await api.get(ACCESS, {}, bearer("audit"))).status_code == 403
    assert (await api.get(ACCESS, {}, bearer("access"))).status_code == 200
    assert (await api.list({}, token="access")).status_code == 403


# Exports


async def test_an_export_holds_every_record_once_oldest_first(api: ApiClient, memory_log: MemoryLog) -> None:
    records = await fill(memory_log, 30, resource_request='{"a":\n1.10}')
    response = await api.get(f"{LIST}/export", RANGE, BEARER)
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = response.content.splitlines()
    assert [json.loads(line)["id"] for line in lines] == hexes(records)
    assert b'"request":{"a": 1.10}' in lines[0]
    resumed = await api.get(f"{LIST}/export", {**RANGE, "after": records[11].id.hex}, BEARER)
    assert [json.loads(line)["id"] for line in resumed.content.splitlines()] == hexes(records[12:])


async def test_an_export_as_csv(api: ApiClient, memory_log: MemoryLog) -> None:
    records = await fill(memory_log, 10, actor_email="@SUM(1)", resource_response='{"a":1.10}')
    await fill(memory_log, 5, action_result="failure")
    response = await api.get(f"{LIST}/export", {**RANGE, "format": "csv", "action_result": "success"}, BEARER)
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["id"] for row in rows] == hexes(records)
    assert rows[0]["resource.response"] == '{"a":1.10}'
    assert rows[0]["actor.email"] == "'@SUM(1)"


class Flickering(MemoryLog):
    """Unavailable for every other page or, with `for_good`, for all pages from the second."""

    pages = 0
    for_good = False

    async def page(self, query: ListQuery) -> Page:
        self.pages += 1
        if (self.pages > 1) if self.for_good else self.pages % 2:
            raise RetryableError("unavailable")
        return await super().page(query)


async def test_an_export_waits_for_an_unavailable_database(settings: LogApiConfig) -> None:
    log = Flickering()
    add_token(log, TOKEN, {A})
    records = await fill(log, 16)
    client = ApiClient(log_api_app(log, settings, Metrics(), lambda: NOW_MS), settings)
    lines = (await client.get(f"{LIST}/export", RANGE, BEARER)).content.splitlines()
    await client.close()
    assert [json.loads(line)["id"] for line in lines] == hexes(records)


async def test_an_export_that_loses_its_database_ends_with_an_error(settings: LogApiConfig) -> None:
    log = Flickering()
    log.for_good = True
    add_token(log, TOKEN, {A})
    await fill(log, 16)
    short = replace(settings, limits=settings.limits._replace(export_retries=1))
    client = ApiClient(log_api_app(log, short, Metrics(), lambda: NOW_MS), short)
    # The server would turn this into a connection that is closed before the end of the body.
    with pytest.raises(AssertionError):
        await client.get(f"{LIST}/export", RANGE, BEARER)
    await client.close()


async def test_open_streams_are_bounded(memory_log: MemoryLog, settings: LogApiConfig) -> None:
    add_token(memory_log, TOKEN, {A})
    none_left = replace(settings, streams_max=1, limits=settings.limits._replace(tail_time_ms=60_000))
    now_ms = NOW_MS

    def clock_ms() -> int:
        return now_ms

    client = ApiClient(log_api_app(memory_log, none_left, Metrics(), clock_ms), none_left)
    tail = asyncio.create_task(client.get(f"{LIST}/tail", {}, BEARER))
    await memory_log.tailed.wait()
    refused = await client.get(f"{LIST}/export", RANGE, BEARER)
    assert refused.status_code == 429
    assert refused.json()["errors"][0]["code"] == 10429
    tail.cancel()
    await asyncio.gather(tail, return_exceptions=True)
    assert (await client.get(f"{LIST}/export", RANGE, BEARER)).status_code == 200
    await client.close()


# Summaries


async def test_a_summary_by_hour(api: ApiClient, memory_log: MemoryLog) -> None:
    hour = 3_600_000
    for at, kinds in enumerate((["update", "update", "view"], [], ["delete"])):
        await memory_log.add(
            [record(NOW_MS - 2 * hour + at * hour, account_id=A, action_type=kind) for kind in kinds]
        )
    await fill(memory_log, 3, account_id=B)
    query = {"since": "2026-01-23T16:10:00Z", "before": "2026-01-23T19:00:00Z", "bucket": "hour"}
    body = (await api.get(f"{LIST}/summary", query, BEARER)).json()
    assert [(one["since"], one["before"], one["count"]) for one in body["result"]] == [
        ("2026-01-23T16:10:00.000Z", "2026-01-23T17:00:00.000Z", 3),
        ("2026-01-23T17:00:00.000Z", "2026-01-23T18:00:00.000Z", 0),
        ("2026-01-23T18:00:00.000Z", "2026-01-23T19:00:00.000Z", 1),
    ]
    assert body["result"][0]["values"] == [{"value": "update", "count": 2}, {"value": "view", "count": 1}]
    assert body["result_info"] == {
        "count": 3,
        "complete": True,
        "counted_since": "2026-01-23T16:10:00.000Z",
        "source": "records",
    }


@pytest.mark.parametrize("field", ["action_type", "action_result", "resource_product", "actor_id"])
async def test_a_summary_by_each_field(api: ApiClient, memory_log: MemoryLog, field: str) -> None:
    value = "success" if field == "action_result" else "update"
    await fill(memory_log, 2, **{field: value})
    [one] = (await api.get(f"{LIST}/summary", {**RANGE, "by": field}, BEARER)).json()["result"]
    assert (one["count"], one["values"], one["others"]) == (2, [{"value": value, "count": 2}], 0)


async def test_a_summary_lists_the_most_frequent_values_and_counts_the_rest(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    await memory_log.add([record(NOW_MS, account_id=A, actor_id=f"u{number}") for number in range(150)])
    await fill(memory_log, 2, actor_id=None)
    [one] = (await api.get(f"{LIST}/summary", {**RANGE, "by": "actor_id"}, BEARER)).json()["result"]
    assert one["values"][0] == {"value": None, "count": 2}
    assert (len(one["values"]), one["others"], one["count"]) == (100, 51, 152)


async def test_a_summary_of_too_many_buckets_is_rejected(api: ApiClient) -> None:
    query = {"since": "2020-01-01", "before": "2026-01-01", "bucket": "hour"}
    response = await api.get(f"{LIST}/summary", query, BEARER)
    assert response.json()["errors"][0]["message"].startswith("bucket: ")


async def test_a_summary_of_an_empty_range(api: ApiClient) -> None:
    body = (await api.get(f"{LIST}/summary", {"since": "2026-01-24", "before": "2026-01-23"}, BEARER)).json()
    assert (body["result"], body["result_info"]["complete"]) == ([], True)


# Time limits


async def test_a_page_at_its_time_limit_can_be_empty_with_a_cursor(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    records = await fill(memory_log, 2)
    memory_log.page_times_out = True
    query = {"since": "2026-01-23T18:25:14.749Z", "before": "2026-01-23T18:25:14.800Z"}
    body = (await api.list(str(httpx.QueryParams(query)))).json()
    assert (body["result"], body["result_info"]["count"]) == ([], 0)
    memory_log.page_times_out = False
    rest = await api.list(str(httpx.QueryParams({**query, "cursor": body["result_info"]["cursor"]})))
    assert ids(rest) == hexes(records)[::-1]


# Documentation


async def test_the_document_and_its_page_are_public(api: ApiClient) -> None:
    document = (await api.get("/openapi.json")).json()
    assert document == api.document
    page = await api.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    for methods in document["paths"].values():
        for operation in methods.values():
            assert f"id='{operation['operationId']}'" in page.text
    assert "http://" not in page.text.replace("http://127.0.0.1", "")
    assert "<script" not in page.text


async def test_a_public_route_allows_only_its_method(api: ApiClient) -> None:
    assert (await api.get("/docs", method="POST")).status_code == 405


COMPLETE_MS = NOW_MS - 20_000


async def test_all_pages_of_a_list_have_the_watermark_of_the_first(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    await memory_log.add([record(NOW_MS - number, account_id=A) for number in range(5)])
    memory_log.complete_ms = COMPLETE_MS
    infos = [(await api.list({**RANGE, "limit": "2"})).json()["result_info"]]
    # A later watermark says nothing about the pages read before it.
    memory_log.complete_ms = NOW_MS
    while "cursor" in infos[-1]:
        page = await api.list({**RANGE, "limit": "2", "cursor": infos[-1]["cursor"]})
        infos.append(page.json()["result_info"])
    assert [info["complete_before"] for info in infos] == ["2026-01-23T18:24:54.749Z"] * 3


async def test_the_watermark_is_read_before_the_page(api: ApiClient, memory_log: MemoryLog) -> None:
    memory_log.complete_ms = COMPLETE_MS
    read = memory_log.page

    async def later(query: ListQuery) -> Page:
        memory_log.complete_ms = NOW_MS
        return await read(query)

    memory_log.page = later  # type: ignore[method-assign]
    assert (await api.list(RANGE)).json()["result_info"]["complete_before"] == "2026-01-23T18:24:54.749Z"


async def test_gaps_of_a_range(api: ApiClient, memory_log: MemoryLog) -> None:
    memory_log.complete_ms = COMPLETE_MS
    memory_log.gap_list = [
        Gap("gw-1", 7, None, None, 11, 147, 137, NOW_MS - 5_000, NOW_MS - 4_000, "dropped:buffer_full"),
        Gap("gw-1", 7, None, None, 148, None, None, NOW_MS - 3_000, None, "unknown"),
        Gap(None, None, "events", 3, 100, 149, 50, 0, NOW_MS, "offsets_expired"),
        Gap("gw-1", 6, None, None, 1, 1, 1, NOW_MS - 10, NOW_MS - 5, "missing"),
    ]
    until = rfc3339_ms(NOW_MS - 3_000)
    body = (await api.get(f"{LIST}/completeness", f"since=2026-01-23&before={until}", BEARER)).json()
    assert body["result_info"] == {
        "count": 2,
        "complete": True,
        "gaps": 2,
        "missing": 137,
        "complete_before": "2026-01-23T18:24:54.749Z",
        "taps": {"alive": 1, "expired": 2, "unnumbered": 3, "surplus": 4, "retired": 5},
    }
    assert body["result"] == [
        {
            "cause": "offsets_expired",
            "tap": None,
            "log": {"name": "events", "partition": 3},
            "first": 100,
            "last": 149,
            "count": 50,
            "from": None,
            "to": "2026-01-23T18:25:14.749Z",
        },
        {
            "cause": "dropped:buffer_full",
            "tap": {"id": "gw-1", "epoch": 7},
            "log": None,
            "first": 11,
            "last": 147,
            "count": 137,
            "from": "2026-01-23T18:25:09.749Z",
            "to": "2026-01-23T18:25:10.749Z",
        },
    ]
    whole = (await api.get(f"{LIST}/completeness", "since=2026-01-24&before=2026-01-25", BEARER)).json()
    assert [
        (each["cause"], each["first"], each["last"], each["count"], each["to"]) for each in whole["result"]
    ] == [("unknown", 148, None, None, None)]


async def test_more_gaps_than_a_response_holds(api: ApiClient, memory_log: MemoryLog) -> None:
    memory_log.gap_list = [
        Gap("t", 1, None, None, 2 * n + 1, 2 * n + 1, 1, NOW_MS, NOW_MS, "missing") for n in range(1001)
    ]
    body = (await api.get(f"{LIST}/completeness", "since=2026-01-23&before=2026-01-25", BEARER)).json()
    info = body["result_info"]
    assert (info["count"], info["complete"], info["gaps"], info["missing"]) == (1000, False, 1001, 1001)
    assert info["complete_before"] is None


async def test_gaps_need_a_token_for_the_account(api: ApiClient, memory_log: MemoryLog) -> None:
    path = f"/accounts/{B}/logs/audit/completeness"
    assert (await api.get(path, RANGE, BEARER)).status_code == 403
    assert (await api.get(f"{LIST}/completeness", RANGE)).status_code == 401
