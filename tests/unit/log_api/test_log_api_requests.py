"""The application's answers, on a log in memory; each is held to the document by the client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import jsonschema
import pytest
import structlog.testing

from log_api.app import log_api_app
from log_api.config import LogApiConfig, ProductCategory
from log_api.listing import ListQuery
from log_api.records import Page
from schemas.explain import contract
from schemas.identity import first_id_at
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.records import record
from tests.unit.log_api.api_client import NOW_MS, RANGE, TOKEN, A, ApiClient, B, add_token
from tests.unit.log_api.memory_log import MemoryLog

CANARY = "canary-7f3a"


@pytest.fixture
def settings() -> LogApiConfig:
    return LogApiConfig(
        cursor_key=b"k" * 32,
        product_categories={
            "messaging": ProductCategory("Messaging", {"alerting": "Alerts", "queues": "Queues"})
        },
    )


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def api(memory_log: MemoryLog, settings: LogApiConfig, metrics: Metrics) -> AsyncIterator[ApiClient]:
    add_token(memory_log, TOKEN, {A})
    client = ApiClient(log_api_app(memory_log, settings, metrics, lambda: NOW_MS), settings)
    yield client
    await client.close()


async def fill(log: MemoryLog, count: int, **columns: Any) -> list[Record]:
    records = [record(NOW_MS + number, account_id=A, **columns) for number in range(count)]
    await log.add(records)
    return records


def the_error(response: httpx.Response) -> tuple[int, int, str]:
    (error,) = response.json()["errors"]
    return response.status_code, error["code"], error["message"]


# Who asks


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", f"Basic {TOKEN}")],
        [("Authorization", f"Bearer {TOKEN}x")],
        [("Authorization", f"Bearer  {TOKEN}")],
        [("Authorization", "Bearer " + "x" * 100_000)],
        [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")],
        [("X-Auth-Key", TOKEN)],
    ],
)
@pytest.mark.parametrize("path", [f"/accounts/{A}/logs/audit", "/user/tokens/verify"])
async def test_without_a_token_that_works(api: ApiClient, path: str, headers: list[tuple[str, str]]) -> None:
    assert the_error(await api.get(path, RANGE, headers)) == (401, 10000, "Authentication error")


async def test_an_expired_token(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, "expired", None, for_ms=0)
    add_token(memory_log, "about-to", None, for_ms=1)
    assert (await api.list({}, token="expired")).status_code == 401
    assert (await api.list({}, token="about-to")).status_code == 200


async def test_a_token_without_this_account(api: ApiClient, memory_log: MemoryLog) -> None:
    await memory_log.add([record(NOW_MS, account_id=B)])
    assert the_error(await api.list({}, account=B)) == (403, 10000, "The token is not for this account")


async def test_a_token_without_the_permission(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, "writer", {A}, "something:else")
    lacking = "The token lacks the permission audit_logs:read"
    assert the_error(await api.list({}, token="writer")) == (403, 10000, lacking)


async def test_a_token_for_every_account(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, "all", None)
    await memory_log.add([record(NOW_MS, account_id=B)])
    assert len((await api.list({}, account=B, token="all")).json()["result"]) == 1


async def test_a_token_verifies_itself(api: ApiClient, memory_log: MemoryLog) -> None:
    token = add_token(memory_log, "verified", {A}, "something:else")
    response = await api.get("/user/tokens/verify", headers={"Authorization": "bearer verified"})
    assert response.json()["result"] == {
        "id": token.id.hex,
        "status": "active",
        "expires_on": "2026-01-23T18:26:14.749Z",
    }


# Where to


@pytest.mark.parametrize(
    "path",
    ["/", "", "/accounts", f"/accounts/{A}/logs/audit/", "/accounts//logs/audit", "/user/tokens/verify/x"],
)
async def test_an_unknown_route(api: ApiClient, path: str) -> None:
    response = await api.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
    assert the_error(response)[:2] == (404, 7003)


@pytest.mark.parametrize("account", ["%20", "a%00b", "x" * 129, "%F0%9F%92%A9", "a%2Fb", "*"])
async def test_what_cannot_be_an_account(api: ApiClient, account: str) -> None:
    assert the_error(await api.list({}, account=account))[:2] == (404, 7003)


async def test_a_route_below_another_prefix(memory_log: MemoryLog, settings: LogApiConfig) -> None:
    add_token(memory_log, TOKEN, {A})
    for prefix in ("", "/api/v9"):
        moved = replace(settings, prefix=prefix)
        client = ApiClient(log_api_app(memory_log, moved, Metrics(), lambda: NOW_MS), moved)
        assert (await client.list({})).status_code == 200
        await client.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"])
@pytest.mark.parametrize("path", [f"/accounts/{A}/logs/audit", "/user/tokens/verify"])
async def test_a_method_that_the_route_does_not_know(api: ApiClient, path: str, method: str) -> None:
    response = await api.get(path, RANGE, {"Authorization": f"Bearer {TOKEN}"}, method)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET"
    if method != "HEAD":
        assert the_error(response)[1] == 7001


# What is asked


UNFIT = [
    ("limit", "0"),
    ("limit", "1001"),
    ("limit", "-1"),
    ("limit", "2.5"),
    ("limit", "nan"),
    ("limit", "inf"),
    ("limit", "1e2"),
    ("limit", "1_0"),
    ("limit", "٣"),
    ("limit", ""),
    ("limit", CANARY),
    ("direction", CANARY),
    ("direction", "DESC"),
    ("since", CANARY),
    ("since", "2026-02-30"),
    ("since", "2026-01-23T18:25:14"),
    ("since", "20260123"),
    ("before", "2026-W04-5"),
    ("before", "1769192714"),
    ("before", "2026-01-23T24:00:00Z"),
    ("cursor", CANARY),
    ("cursor", "A" * 44),
    ("cursor", "A" * 300),
]
UNFIT_FILTERS = [
    ("action_result", CANARY),
    ("action_type", "Create"),
    ("actor_context", CANARY),
    ("actor_type", CANARY),
    ("resource_scope", CANARY),
    ("raw_status_code", CANARY),
    ("raw_status_code", "1000"),
    ("raw_status_code", "-1"),
    ("raw_status_code", "9" * 5000),
    ("id", CANARY),
    ("id", "a" * 33),
    ("audit_log_id", CANARY),
    ("actor_ip_address", CANARY),
    ("actor_ip_address", "10.0.0.0/33"),
    ("actor_ip_address", "fe80::1%eth0"),
    ("actor_email", ""),
    ("actor_email", f"{CANARY}\0"),
    ("resource_id", "x" * 8193),
    ("product_category", CANARY),
    ("product_category", "queues"),
]


@pytest.mark.parametrize(
    ("name", "value", "negated"),
    [(*one, False) for one in UNFIT + UNFIT_FILTERS] + [(*one, True) for one in UNFIT_FILTERS],
)
async def test_a_parameter_that_is_not_allowed(api: ApiClient, name: str, value: str, negated: bool) -> None:
    name += ".not" if negated else ""
    status, code, message = the_error(await api.list({name: value}))
    assert (status, code) == (400, 10400)
    assert message.startswith(f"{name}: ")
    assert CANARY not in message


@pytest.mark.parametrize("missing", ["since", "before"])
async def test_a_range_without_an_end(api: ApiClient, missing: str) -> None:
    given = {name: value for name, value in RANGE.items() if name != missing}
    response = await api.list(str(httpx.QueryParams(given)))
    assert the_error(response)[0] == 400
    assert the_error(response)[2].startswith(f"{missing}: is required")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ([("limit", "5"), ("limit", "6")], "limit"),
        ([("since", "2026-01-22")], "since"),
        ([("direction[]", "asc")], "direction"),
        ([("since.not", "2026-01-22")], "since"),
        ([("action_result.nto", "success")], "action_result"),
        ([("action_result[0]", "success")], "action_result"),
        ([("actor_email[contains]", "x")], "actor_email"),
    ],
)
async def test_a_spelling_that_would_be_misread(
    api: ApiClient, query: list[tuple[str, str]], name: str
) -> None:
    status, _, message = the_error(await api.list(query))
    assert status == 400
    assert message.startswith(f"{name}: ")


async def test_more_values_than_a_filter_takes(api: ApiClient) -> None:
    response = await api.list([("actor_id", "x")] * 101)
    assert the_error(response)[2].startswith("actor_id: at most 100 values")


async def test_a_query_that_is_too_long(api: ApiClient) -> None:
    assert the_error(await api.list({"unknown": "x" * 20_000}))[2] == "query: at most 16384 bytes"


async def test_names_that_are_no_parameters_are_passed_over(api: ApiClient, memory_log: MemoryLog) -> None:
    await fill(memory_log, 1)
    response = await api.list({"per_page": "5", "export": "true", CANARY: CANARY})
    assert len(response.json()["result"]) == 1


@pytest.mark.parametrize(
    ("since", "before"),
    [
        ("2026-01-23T18:25:14.749Z", "2026-01-23T18:25:14.750Z"),
        ("2026-01-23T18:25:14.748001Z", "2026-01-23T18:25:14.7491Z"),
        ("2026-01-23T19:25:14.749+01:00", "2026-01-23T19:25:14.75+01:00"),
        ("2026-01-23", "2026-01-24"),
        ("0001-01-01", "9999-12-31T23:59:59.999999999-12:00"),
    ],
)
async def test_the_range_in_every_spelling(
    api: ApiClient, memory_log: MemoryLog, since: str, before: str
) -> None:
    await memory_log.add([record(NOW_MS, account_id=A)])
    for query in (
        f"since={since}&before={before}",
        str(httpx.QueryParams({"since": since, "before": before})),
    ):
        assert len((await api.list(query)).json()["result"]) == 1


@pytest.mark.parametrize(
    ("since", "before"),
    [
        ("2026-01-23T18:25:14.750Z", "2026-01-24"),
        ("2026-01-23T18:25:14.7490001Z", "2026-01-24"),
        ("2026-01-23", "2026-01-23T18:25:14.749Z"),
        ("2026-01-24", "2026-01-23"),
        ("2026-01-23", "2026-01-23"),
    ],
)
async def test_outside_the_range(api: ApiClient, memory_log: MemoryLog, since: str, before: str) -> None:
    await memory_log.add([record(NOW_MS, account_id=A)])
    body = (await api.list(f"since={since}&before={before}")).json()
    assert (body["result"], body["result_info"]) == ([], {"count": 0, "complete_before": None})


# What is answered


async def test_a_record_is_served_as_its_contract_has_it(api: ApiClient, memory_log: MemoryLog) -> None:
    one = record(
        NOW_MS,
        account_id=A,
        account_name="Acme",
        action_description="Update a policy",
        actor_id="u1",
        actor_context="dash",
        actor_email="one@example.com",
        actor_ip_address="203.0.113.9",
        actor_type="user",
        raw_cf_ray_id="ray1",
        raw_method="PUT",
        raw_status_code=200,
        raw_uri="/accounts/x?dry=1",
        raw_user_agent="curl",
        resource_id="p1",
        resource_product="alerting",
        resource_request='{"price":1.10}',
        resource_response='{"id":"p1"}',
        resource_scope="accounts",
        resource_type="policies",
        receipt='{"operation":"op","request":{"kept":1},"response":{}}',
        operation_id="op",
        tap_id="gw",
        tap_epoch=1,
        tap_seq=2,
        enrichment="complete",
    )
    await memory_log.add([one])
    response = await api.list({})
    assert b'"request":{"price":1.10}' in response.content
    (served,) = response.json()["result"]
    jsonschema.Draft202012Validator(contract("audit_record")).validate(served)
    assert served == {
        "id": one.id.hex,
        "account": {"id": A, "name": "Acme"},
        "action": {
            "description": "Update a policy",
            "result": "success",
            "time": "2026-01-23T18:25:14.749Z",
            "type": "update",
        },
        "actor": {
            "id": "u1",
            "context": "dash",
            "email": "one@example.com",
            "ip_address": "203.0.113.9",
            "type": "user",
        },
        "raw": {
            "cf_ray_id": "ray1",
            "method": "PUT",
            "status_code": 200,
            "uri": "/accounts/x?dry=1",
            "user_agent": "curl",
        },
        "resource": {
            "id": "p1",
            "product": "alerting",
            "request": {"price": 1.1},
            "response": {"id": "p1"},
            "scope": "accounts",
            "type": "policies",
        },
        "zone": {},
        "auditap": {
            "receipt": {"operation": "op", "request": {"kept": 1}, "response": {}},
            "enrichment": "complete",
            "tap": {"id": "gw", "epoch": 1, "seq": 2},
            "operation_id": "op",
            "received_at": "2026-01-23T18:25:14.749Z",
        },
    }


async def test_a_bare_record(api: ApiClient, memory_log: MemoryLog) -> None:
    await memory_log.add([record(NOW_MS, account_id=A, actor_context="teapot", actor_type="robot")])
    (served,) = (await api.list({})).json()["result"]
    assert (served["actor"], served["zone"], served["resource"]) == ({}, {}, {})
    assert served["auditap"]["tap"] == {}


@pytest.mark.parametrize("direction", ["desc", "asc"])
async def test_pages_by_either_cursor(api: ApiClient, memory_log: MemoryLog, direction: str) -> None:
    expected = [one.id.hex for one in await fill(memory_log, 60)]
    query = {"limit": "25.0", "direction": direction}
    found, counts = [], []
    while True:
        body = (await api.list(query)).json()
        found += [one["id"] for one in body["result"]]
        info = body["result_info"]
        counts.append(info["count"])
        if "cursor" not in info:
            assert info == {"count": 10, "complete_before": None}
            break
        assert info["cursors"] == {"after": info["cursor"]}
        query["cursor"] = info["cursor"]
    assert counts == [25, 25, 10]
    assert found == (expected if direction == "asc" else expected[::-1])


async def test_newest_first_and_a_hundred_without_being_asked(api: ApiClient, memory_log: MemoryLog) -> None:
    records = await fill(memory_log, 101)
    body = (await api.list({"cursor": ""})).json()
    assert body["result_info"]["count"] == 100
    assert body["result"][0]["id"] == records[-1].id.hex


@pytest.mark.parametrize(
    "changed",
    [
        {"direction": "asc"},
        {"since": "2026-01-22"},
        {"before": "2026-01-25"},
        {"action_result": "success"},
        {"actor_id.not": "x"},
    ],
)
async def test_a_cursor_of_another_query(
    api: ApiClient, memory_log: MemoryLog, changed: dict[str, str]
) -> None:
    await fill(memory_log, 3)
    cursor = (await api.list({"limit": "1"})).json()["result_info"]["cursor"]
    assert (await api.list({"limit": "2", "cursor": cursor})).status_code == 200
    assert the_error(await api.list({"cursor": cursor, **changed}))[2].startswith("cursor: ")


async def test_a_cursor_of_another_account(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, "both", {A, B})
    await fill(memory_log, 3)
    cursor = (await api.list({"limit": "1"})).json()["result_info"]["cursor"]
    response = await api.list({"cursor": cursor}, account=B, token="both")
    assert the_error(response)[2].startswith("cursor: ")


@pytest.mark.parametrize("spelling", ["actor_id", "actor_id[]"])
async def test_a_filter_in_every_spelling(api: ApiClient, memory_log: MemoryLog, spelling: str) -> None:
    records = [record(NOW_MS + number, account_id=A, actor_id=f"u{number}") for number in range(4)]
    await memory_log.add(records)
    body = (await api.list([(spelling, "u1"), (spelling, "u3")])).json()
    assert [one["actor"]["id"] for one in body["result"]] == ["u3", "u1"]


@pytest.mark.parametrize("spelling", ["actor_id.not", "actor_id.not[]", "actor_id[not]"])
async def test_an_exclusion_in_every_spelling(api: ApiClient, memory_log: MemoryLog, spelling: str) -> None:
    records = [record(NOW_MS + number, account_id=A, actor_id=f"u{number}") for number in range(4)]
    await memory_log.add(records)
    body = (await api.list([(spelling, "u1"), (spelling, "u3")])).json()
    assert [one["actor"]["id"] for one in body["result"]] == ["u2", "u0"]


async def test_the_old_name_of_the_id_and_hyphens(api: ApiClient, memory_log: MemoryLog) -> None:
    records = await fill(memory_log, 3)
    query = [("audit_log_id", str(records[0].id)), ("id", records[1].id.hex.upper())]
    body = (await api.list(query)).json()
    assert [one["id"] for one in body["result"]] == [records[1].id.hex, records[0].id.hex]


async def test_a_category_is_united_with_products(api: ApiClient, memory_log: MemoryLog) -> None:
    products = ["alerting", "queues", "dns", "workers"]
    records = [record(NOW_MS + at, account_id=A, resource_product=name) for at, name in enumerate(products)]
    await memory_log.add(records)
    found = (await api.list([("product_category", "Messaging"), ("resource_product", "dns")])).json()[
        "result"
    ]
    assert [one["resource"]["product"] for one in found] == ["dns", "queues", "alerting"]
    rest = (await api.list({"product_category.not": "MESSAGING"})).json()["result"]
    assert [one["resource"]["product"] for one in rest] == ["workers", "dns"]


@pytest.mark.parametrize(
    ("spelling", "count"), [("203.0.113.9", 1), ("203.0.113.0/24", 2), ("10.0.0.0/8", 0)]
)
async def test_addresses_and_networks(
    api: ApiClient, memory_log: MemoryLog, spelling: str, count: int
) -> None:
    await memory_log.add(
        [
            record(NOW_MS + at, account_id=A, actor_ip_address=address)
            for at, address in enumerate(["203.0.113.9", "203.0.113.10", "198.51.100.1"])
        ]
    )
    assert len((await api.list({"actor_ip_address": spelling})).json()["result"]) == count


# When something fails


async def test_while_the_database_is_away(api: ApiClient, memory_log: MemoryLog) -> None:
    await api.list({})
    memory_log.away = True
    response = await api.list({})
    assert the_error(response)[:2] == (503, 10503)
    assert response.headers["retry-after"] == "2"


class BrokenLog(MemoryLog):
    async def page(self, query: ListQuery) -> Page:
        raise LookupError(f"{CANARY} {query.accounts}")


async def test_a_fault_of_ours_says_nothing(settings: LogApiConfig) -> None:
    broken = BrokenLog()
    add_token(broken, TOKEN, {A})
    client = ApiClient(log_api_app(broken, settings, Metrics(), lambda: NOW_MS), settings)
    with structlog.testing.capture_logs() as lines:
        response = await client.list({})
    await client.close()
    assert the_error(response) == (500, 10500, "Internal error")
    assert [line["event"] for line in lines] == ["request_failed", "request"]
    assert lines[0]["error"] == "LookupError"
    assert CANARY not in json.dumps(lines)


# What is noted


async def test_the_log_line_and_the_figures_of_a_request(
    api: ApiClient, memory_log: MemoryLog, metrics: Metrics
) -> None:
    token = memory_log.tokens[next(iter(memory_log.tokens))]
    with structlog.testing.capture_logs() as lines:
        await api.list({"actor_email": CANARY})
        await api.get(f"/{CANARY}", {CANARY: CANARY}, {"Authorization": f"Bearer {CANARY}"})
        await api.get("/user/tokens/verify", {}, {"Authorization": f"Bearer {CANARY}"}, CANARY.upper())
    route = "/client/v4/accounts/{account_id}/logs/audit"
    assert [(one["method"], one["route"], one["status"], one["token_id"]) for one in lines] == [
        ("GET", route, 200, str(token.id)),
        ("GET", "unmatched", 404, None),
        ("other", "/client/v4/user/tokens/verify", 405, None),
    ]
    assert all(one["event"] == "request" and one["ms"] >= 0 for one in lines)
    noted = json.dumps(lines).lower()
    assert CANARY not in noted
    assert A not in noted
    registry = metrics.registry
    assert registry.get_sample_value("auditap_queries_total", {"route": route, "status": "200"}) == 1
    assert registry.get_sample_value("auditap_queries_total", {"route": "unmatched", "status": "404"}) == 1
    assert registry.get_sample_value("auditap_query_seconds_count", {"route": route}) == 1


async def test_a_range_of_one_millisecond_holds_its_records(api: ApiClient, memory_log: MemoryLog) -> None:
    low = record(NOW_MS, account_id=A)
    assert low.id.int > first_id_at(NOW_MS).int
    await memory_log.add([low])
    body = (await api.list("since=2026-01-23T18:25:14.749Z&before=2026-01-23T18:25:14.75Z")).json()
    assert [one["id"] for one in body["result"]] == [low.id.hex]
