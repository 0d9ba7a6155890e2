"""Requests to the list, on the memory log; the client validates every response against the document."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import pytest
import structlog.testing

from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.records import Page
from log_api.sql_builder import FILTERS, ListQuery
from schemas.contracts import contract
from schemas.identity import first_id_at
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.records import POLICY_UPDATE, record
from tests.unit.log_api.api_client import NOW_MS, RANGE, TOKEN, WITH_CATEGORIES, A, ApiClient, B, add_token
from tests.unit.log_api.memory_log import MemoryLog

CANARY = "canary-7f3a"
AUDIT, V1 = f"/accounts/{A}/logs/audit", f"/accounts/{A}/audit_logs"


@pytest.fixture
def settings() -> LogApiConfig:
    return WITH_CATEGORIES


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


# Authentication


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
async def test_a_request_without_a_valid_token_is_rejected(
    api: ApiClient, path: str, headers: list[tuple[str, str]]
) -> None:
    assert the_error(await api.get(path, RANGE, headers)) == (401, 10000, "Authentication error")


async def test_an_expired_token_is_rejected(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, "expired", None, for_ms=0)
    add_token(memory_log, "about-to", None, for_ms=1)
    assert (await api.list({}, token="expired")).status_code == 401
    assert (await api.list({}, token="about-to")).status_code == 200


async def test_a_token_for_another_account_is_denied(api: ApiClient, memory_log: MemoryLog) -> None:
    await memory_log.add([record(NOW_MS, account_id=B)])
    assert the_error(await api.list({}, account=B)) == (403, 10000, "The token is not for this account")


async def test_a_token_without_the_permission_is_denied(api: ApiClient, memory_log: MemoryLog) -> None:
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


# Routes


@pytest.mark.parametrize(
    "path",
    ["/", "", "/accounts/", f"/accounts/{A}/logs/audit/", "/accounts//logs/audit", "/user/tokens/verify/x"],
)
async def test_an_unknown_route_is_not_found(api: ApiClient, path: str) -> None:
    response = await api.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
    assert the_error(response)[:2] == (404, 7003)


@pytest.mark.parametrize(
    "account", ["%20", "a%00b", "x" * 257, "a%0A", "%20a", "a%C2%85", "%ED%A0%80%0D", "a/b", "a%1Fb%00"]
)
async def test_an_invalid_account_is_not_found(api: ApiClient, account: str) -> None:
    assert the_error(await api.list({}, account=account))[:2] == (404, 7003)


@pytest.mark.parametrize(
    "account",
    [
        "arn:aws:iam::1:user/ana",
        "spiffe://td/ns/a",
        "CORP\\alice",
        "cn=ana,ou=a b",
        "did:web:x#k",
        "a%2Fb",
        "田中",
        "a?b",
    ],
)
async def test_an_account_may_be_any_printable_text(
    api: ApiClient, memory_log: MemoryLog, account: str
) -> None:
    add_token(memory_log, "all", None)
    one = record(NOW_MS, account_id=account)
    await memory_log.add([one, record(NOW_MS + 1, account_id=A)])
    response = await api.list({}, account=quote(account, safe=""), token="all")
    assert [each["id"] for each in response.json()["result"]] == [one.id.hex]
    response = await api.list({}, account=quote(account, safe=""))
    assert response.status_code == 403


async def test_a_route_below_another_prefix(memory_log: MemoryLog, settings: LogApiConfig) -> None:
    add_token(memory_log, TOKEN, {A})
    for prefix in ("", "/api/v9"):
        moved = replace(settings, prefix=prefix)
        client = ApiClient(log_api_app(memory_log, moved, Metrics(), lambda: NOW_MS), moved)
        assert (await client.list({})).status_code == 200
        await client.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"])
@pytest.mark.parametrize("path", [f"/accounts/{A}/logs/audit", "/user/tokens/verify"])
async def test_a_method_that_the_route_lacks_is_rejected(api: ApiClient, path: str, method: str) -> None:
    response = await api.get(path, RANGE, {"Authorization": f"Bearer {TOKEN}"}, method)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET"
    if method != "HEAD":
        assert the_error(response)[1] == 7001


# Parameters


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
    ("actor_email", f"{CANARY}\0"),
    ("resource_id", "x" * 8193),
    ("product_category", CANARY),
    ("product_category", "queues"),
]


@pytest.mark.parametrize(
    ("name", "value", "negated"),
    [(*one, False) for one in UNFIT + UNFIT_FILTERS] + [(*one, True) for one in UNFIT_FILTERS],
)
async def test_an_invalid_parameter_is_rejected(api: ApiClient, name: str, value: str, negated: bool) -> None:
    name += ".not" if negated else ""
    status, code, message = the_error(await api.list({name: value}))
    assert (status, code) == (400, 10400)
    assert message.startswith(f"{name}: ")
    assert CANARY not in message


@pytest.mark.parametrize("missing", ["since", "before"])
async def test_a_missing_bound_is_rejected(api: ApiClient, missing: str) -> None:
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
async def test_an_unknown_suffix_of_a_filter_is_rejected(
    api: ApiClient, query: list[tuple[str, str]], name: str
) -> None:
    status, _, message = the_error(await api.list(query))
    assert status == 400
    assert message.startswith(f"{name}: ")


async def test_too_many_values_of_a_filter_are_rejected(api: ApiClient) -> None:
    response = await api.list([("actor_id", "x")] * 101)
    assert the_error(response)[2].startswith("actor_id: at most 100 values")


async def test_a_query_string_that_is_too_long_is_rejected(api: ApiClient) -> None:
    assert the_error(await api.list({"unknown": "x" * 20_000}))[2] == "query: at most 16384 bytes"


@pytest.mark.parametrize(
    ("path", "sent", "nearest"),
    [
        (AUDIT, "acton_type", "action_type"),
        (AUDIT, "acton_type.not", "action_type.not"),
        (AUDIT, "Action_Type", "action_type"),
        (AUDIT, "actor.email", "actor_email"),
        (AUDIT, "LIMIT", "limit"),
        (V1, "actor_email", "actor.email"),
        (V1, "action[type]", "action.type"),
    ],
)
async def test_a_misspelt_parameter_is_rejected_with_the_nearest_name(
    api: ApiClient, path: str, sent: str, nearest: str
) -> None:
    response = await api.get(path, {**RANGE, sent: CANARY}, api.headers)
    assert the_error(response) == (400, 10400, f"query: an unknown parameter; did you mean {nearest}?")


async def test_too_many_unknown_parameters_are_rejected(api: ApiClient) -> None:
    assert (await api.list({f"{CANARY}{at}": "" for at in range(16)})).status_code == 200
    response = await api.list({f"{CANARY}{at}": "" for at in range(17)})
    assert the_error(response)[2] == "query: at most 16 unknown parameters"


async def test_a_filter_without_a_value_is_ignored(api: ApiClient, memory_log: MemoryLog) -> None:
    await fill(memory_log, 1)
    for path, names in (
        (AUDIT, [*FILTERS, "product_category"]),
        (V1, ["action.type", "actor.ip", "zone.name"]),
    ):
        for name in names:
            negated = [(f"{name}.not", "")] if path == AUDIT else []
            response = await api.get(path, [*RANGE.items(), (name, ""), *negated], api.headers)
            assert len(response.json()["result"]) == 1


@pytest.mark.parametrize(("name", "value"), [("action_type", "login"), ("resource_scope", "organizations")])
async def test_values_that_only_clients_know_are_accepted(
    api: ApiClient, memory_log: MemoryLog, name: str, value: str
) -> None:
    await fill(memory_log, 1)
    assert (await api.list({name: value})).json()["result"] == []
    assert len((await api.list({f"{name}.not": value})).json()["result"]) == 1


async def test_unknown_parameters_are_ignored(api: ApiClient, memory_log: MemoryLog) -> None:
    await fill(memory_log, 1)
    response = await api.list({"per_page": "5", "export": "true", CANARY: CANARY})
    assert len(response.json()["result"]) == 1


@pytest.mark.parametrize(
    ("since", "before", "found"),
    [
        ("2026-01-23T18:25:14.749Z", "2026-01-23T18:25:14.750Z", 1),
        ("2026-01-23T18:25:14.748001Z", "2026-01-23T18:25:14.7491Z", 1),
        ("2026-01-23T19:25:14.749+01:00", "2026-01-23T19:25:14.75+01:00", 1),
        ("2026-01-23", "2026-01-24", 1),
        ("0001-01-01", "9999-12-31T23:59:59.999999999-12:00", 1),
        ("2026-01-23T18:25:14.750Z", "2026-01-24", 0),
        ("2026-01-23T18:25:14.7490001Z", "2026-01-24", 0),
        ("2026-01-23", "2026-01-23T18:25:14.749Z", 0),
        ("2026-01-24", "2026-01-23", 0),
        ("2026-01-23", "2026-01-23", 0),
    ],
)
async def test_a_range_in_any_format_includes_its_start_and_not_its_end(
    api: ApiClient, memory_log: MemoryLog, since: str, before: str, found: int
) -> None:
    await memory_log.add([record(NOW_MS, account_id=A)])
    for query in (
        f"since={since}&before={before}",
        str(httpx.QueryParams({"since": since, "before": before})),
    ):
        body = (await api.list(query)).json()
        assert (len(body["result"]), body["result_info"]) == (
            found,
            {"count": found, "complete_before": None},
        )


# Responses


async def test_a_record_matches_its_contract(api: ApiClient, memory_log: MemoryLog) -> None:
    one = record(
        NOW_MS,
        account_id=A,
        **{**POLICY_UPDATE, "raw_uri": "/accounts/x?dry=1", "resource_request": '{"price":1.10}'},
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
    (entry,) = response.json()["result"]
    jsonschema.Draft202012Validator(contract("audit_record")).validate(entry)
    assert entry == {
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


async def test_a_record_without_optional_values(api: ApiClient, memory_log: MemoryLog) -> None:
    await memory_log.add([record(NOW_MS, account_id=A, actor_context="teapot", actor_type="robot")])
    (entry,) = (await api.list({})).json()["result"]
    assert (entry["actor"], entry["zone"], entry["resource"]) == ({}, {}, {})
    assert entry["auditap"]["tap"] == {}


@pytest.mark.parametrize("direction", ["desc", "asc"])
async def test_pages_follow_either_cursor(api: ApiClient, memory_log: MemoryLog, direction: str) -> None:
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


async def test_the_default_is_newest_first_and_100_records(api: ApiClient, memory_log: MemoryLog) -> None:
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
async def test_a_cursor_of_another_query_is_rejected(
    api: ApiClient, memory_log: MemoryLog, changed: dict[str, str]
) -> None:
    await fill(memory_log, 3)
    cursor = (await api.list({"limit": "1"})).json()["result_info"]["cursor"]
    assert (await api.list({"limit": "2", "cursor": cursor})).status_code == 200
    assert the_error(await api.list({"cursor": cursor, **changed}))[2].startswith("cursor: ")


async def test_a_cursor_of_another_account_is_rejected(api: ApiClient, memory_log: MemoryLog) -> None:
    add_token(memory_log, "both", {A, B})
    await fill(memory_log, 3)
    cursor = (await api.list({"limit": "1"})).json()["result_info"]["cursor"]
    response = await api.list({"cursor": cursor}, account=B, token="both")
    assert the_error(response)[2].startswith("cursor: ")


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("actor_id", ["u3", "u1"]),
        ("actor_id[]", ["u3", "u1"]),
        ("actor_id.not", ["u2", "u0"]),
        ("actor_id.not[]", ["u2", "u0"]),
        ("actor_id[not]", ["u2", "u0"]),
    ],
)
async def test_every_spelling_of_a_filter_and_its_negation_is_accepted(
    api: ApiClient, memory_log: MemoryLog, spelling: str, expected: list[str]
) -> None:
    records = [record(NOW_MS + number, account_id=A, actor_id=f"u{number}") for number in range(4)]
    await memory_log.add(records)
    body = (await api.list([(spelling, "u1"), (spelling, "u3")])).json()
    assert [one["actor"]["id"] for one in body["result"]] == expected


async def test_the_deprecated_name_of_the_id_and_hyphens_are_accepted(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    records = await fill(memory_log, 3)
    query = [("audit_log_id", str(records[0].id)), ("id", records[1].id.hex.upper())]
    body = (await api.list(query)).json()
    assert [one["id"] for one in body["result"]] == [records[1].id.hex, records[0].id.hex]


async def test_a_category_is_ored_with_products(api: ApiClient, memory_log: MemoryLog) -> None:
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
    ("spelling", "count"),
    [
        ("203.0.113.9", 1),
        ("203.0.113.0/24", 2),
        ("10.0.0.0/8", 0),
        ("::ffff:203.0.113.9", 1),
        ("::ffff:203.0.113.0/120", 2),
        ("::/0", 0),
    ],
)
async def test_filters_accept_addresses_and_networks(
    api: ApiClient, memory_log: MemoryLog, spelling: str, count: int
) -> None:
    await memory_log.add(
        [
            record(NOW_MS + at, account_id=A, actor_ip_address=address)
            for at, address in enumerate(["203.0.113.9", "203.0.113.10", "198.51.100.1"])
        ]
    )
    assert len((await api.list({"actor_ip_address": spelling})).json()["result"]) == count


# Errors


async def test_an_unavailable_database_is_retryable(api: ApiClient, memory_log: MemoryLog) -> None:
    await api.list({})
    memory_log.unavailable = True
    response = await api.list({})
    assert the_error(response)[:2] == (503, 10503)
    assert response.headers["retry-after"] == "2"


class BrokenLog(MemoryLog):
    async def page(self, query: ListQuery) -> Page:
        raise LookupError(f"{CANARY} {query.accounts}")


async def test_an_internal_error_reveals_nothing(settings: LogApiConfig) -> None:
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


# Log and metrics


async def test_the_log_line_and_metrics_of_a_request(
    api: ApiClient, memory_log: MemoryLog, metrics: Metrics
) -> None:
    token = memory_log.tokens[next(iter(memory_log.tokens))]
    with structlog.testing.capture_logs() as lines:
        response = await api.list({"actor_email": CANARY})
        await api.get(f"/{CANARY}", {CANARY: CANARY}, {"Authorization": f"Bearer {CANARY}"})
        await api.get("/user/tokens/verify", {}, {"Authorization": f"Bearer {CANARY}"}, CANARY.upper())
    route = "/client/v4/accounts/{account_id}/logs/audit"
    assert [(one["method"], one["route"], one["status"], one["token_id"]) for one in lines] == [
        ("GET", route, 200, str(token.id)),
        ("GET", "unmatched", 404, None),
        ("other", "/client/v4/user/tokens/verify", 405, None),
    ]
    assert all(one["event"] == "request" and one["ms"] >= 0 for one in lines)
    assert lines[0]["request_id"] == response.headers["cf-ray"]
    assert len({one["request_id"] for one in lines}) == 3
    noted = json.dumps(lines).lower()
    assert CANARY not in noted
    assert A not in noted
    registry = metrics.registry
    assert registry.get_sample_value("auditap_log_api_requests_total", {"route": route, "status": "200"}) == 1
    assert (
        registry.get_sample_value("auditap_log_api_requests_total", {"route": "unmatched", "status": "404"})
        == 1
    )
    assert registry.get_sample_value("auditap_log_api_request_duration_seconds_count", {"route": route}) == 1


async def test_a_range_of_one_millisecond_holds_its_records(api: ApiClient, memory_log: MemoryLog) -> None:
    low = record(NOW_MS, account_id=A)
    assert low.id.int > first_id_at(NOW_MS).int
    await memory_log.add([low])
    body = (await api.list("since=2026-01-23T18:25:14.749Z&before=2026-01-23T18:25:14.75Z")).json()
    assert [one["id"] for one in body["result"]] == [low.id.hex]
