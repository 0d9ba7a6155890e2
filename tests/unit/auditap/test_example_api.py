"""The example API does what its document says, and its document shows every way of marking."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import as_file
from itertools import islice
from random import Random
from typing import Any

import httpx
import jsonschema
import openapi_spec_validator
import pytest
import yaml

from auditap_example.app import BODY_BYTES_MAX, example_app
from auditap_example.cast import accounts, callers, tokens, users, zones
from auditap_example.directory import directory_app
from auditap_example.document import Operation, base_path, document, document_file, operations
from auditap_example.plan import MADE_MAX, Planned, Planner, planned
from auditap_example.state import ROWS_MAX, State
from auditap_example.traffic import SPAN_MS, capture_example, mixed_captures, trickle
from redactor.config import DocumentConfig, RedactionConfig
from redactor.pipeline.redactor import Redactor, redact_lines
from schemas.capture import decode_capture
from schemas.contracts import validator as contract_validator
from schemas.identity import id_ms, parse_id, parse_rfc3339_ms

NOW_MS = 1_769_192_714_000
BY_ID = {operation.operation_id: operation for operation in operations()}
ADA = users()[0]


@dataclass(frozen=True)
class Exchange:
    request: Planned
    response: httpx.Response


def client_of(app: Any, **transport: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, **transport), base_url="https://api.example.com"
    )


@pytest.fixture
async def api() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(example_app()) as client:
        yield client


@pytest.fixture(scope="module")
async def exchanges() -> list[Exchange]:
    """A few thousand exchanges, each request planned with what the answers before it taught."""
    planner = Planner(seed=7)
    seen = []
    async with client_of(example_app()) as client:
        for _ in range(4000):
            request = planner.next()
            response = await send(client, request)
            planner.learn(request, response.status_code, response.content)
            seen.append(Exchange(request, response))
    return seen


async def send(client: httpx.AsyncClient, request: Planned) -> httpx.Response:
    return await client.request(
        request.method, request.path, headers=dict(request.headers), content=request.content
    )


def drawing(seed: int) -> Random:
    return Random(seed)


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from nodes(child)
    elif isinstance(node, list):
        for child in node:
            yield from nodes(child)


def written() -> dict[str, Any]:
    """The document as its file has it, with its references and compositions."""
    root: dict[str, Any] = yaml.safe_load(document_file().read_bytes())
    return root


def marked(node: Mapping[str, Any]) -> bool:
    return node.get("x-auditable") is True


def json_validator(operation: Operation, status: int) -> jsonschema.Draft202012Validator | None:
    schema = operation.schema_of(status)
    return None if schema is None else jsonschema.Draft202012Validator(schema)


# ── the document ──


def test_the_document_is_valid_openapi() -> None:
    openapi_spec_validator.validate(written())
    openapi_spec_validator.validate(document())


def test_the_document_is_package_data_that_a_loader_can_open() -> None:
    with as_file(document_file()) as path:
        assert yaml.safe_load(path.read_text())["paths"].keys() == document()["paths"].keys()


def test_there_are_enough_operations_each_named_once_and_described_in_a_sentence() -> None:
    described = [
        item[method] for item in document()["paths"].values() for method in item if method != "parameters"
    ]
    assert len(operations()) == len(described) == len(BY_ID) >= 25
    assert all(node["summary"] for node in described)
    assert {operation.method for operation in operations()} == {
        *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    }


def is_map(node: dict[str, Any]) -> bool:
    return isinstance(node.get("additionalProperties"), dict)


def is_free_form(node: dict[str, Any]) -> bool:
    return node.get("type") == "object" and not {"properties", "additionalProperties"} & set(node)


STYLES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "a scalar": lambda n: marked(n) and n.get("type") == "integer",
    "a nullable scalar": lambda n: marked(n) and n.get("type") == ["string", "null"],
    "an enum": lambda n: marked(n) and "enum" in n,
    "an array of scalars, on the array": lambda n: (
        marked(n)
        and n.get("type") == "array"
        and n["items"].get("type") == "string"
        and not marked(n["items"])
    ),
    "an array of scalars, on its items": lambda n: (
        n.get("type") == "array" and not marked(n) and marked(n["items"]) and n["items"]["type"] == "string"
    ),
    "an array of objects": lambda n: (
        marked(n) and n.get("type") == "array" and n["items"].get("type") == "object"
    ),
    "an object with properties": lambda n: marked(n) and "properties" in n,
    "a free-form object": lambda n: marked(n) and is_free_form(n),
    "a map": lambda n: marked(n) and is_map(n) and marked(n["additionalProperties"]),
    "a map that is not marked": lambda n: is_map(n) and not marked(n),
    "a choice of branches": lambda n: len(n.get("oneOf", ())) > 1,
    "a query parameter": lambda n: marked(n) and n.get("in") == "query",
    "a query parameter's schema": lambda n: n.get("in") == "query" and marked(n["schema"]) and not marked(n),
    "an unmarked query parameter": lambda n: (
        n.get("in") == "query" and not marked(n) and not marked(n["schema"])
    ),
    "an operation that opts out": lambda n: n.get("x-auditable") is False and "operationId" in n,
    "a denied scalar": lambda n: n.get("x-auditable") is False and n.get("type") == "string",
    "a sensitive scalar": lambda n: n.get("x-sensitive") is True and n.get("type") == "string",
    "a password": lambda n: n.get("format") == "password",
    "free text": lambda n: n == {"type": "string", "maxLength": 500},
}


@pytest.mark.parametrize("style", STYLES)
def test_the_document_shows_every_way_of_marking(style: str) -> None:
    assert any(STYLES[style](node) for node in nodes(document()))


def test_the_document_shows_references_with_marks_beside_them_and_compositions() -> None:
    assert any(marked(node) and "$ref" in node for node in nodes(written()))
    assert any(len(node.get("allOf", ())) > 1 for node in nodes(written()))


def test_the_document_shows_bodies_of_several_media_types() -> None:
    assert {operation.media for operation in operations()} == {
        *("application/json", "multipart/form-data", "application/octet-stream", None)
    }


def test_no_secret_is_marked() -> None:
    found = {
        name: node
        for each in nodes(document())
        for name, node in each.get("properties", {}).items()
        if node.get("x-sensitive") or node.get("format") == "password"
    }
    assert set(found) == {"value", "assertion", "session_token", "new_password"}
    assert not any(marked(node) for node in found.values())


def test_errors_are_marked_in_every_form_of_status_key() -> None:
    failures = {
        key: schema
        for operation in operations()
        for key, schema in operation.responses.items()
        if not key.startswith("2")
    }
    assert set(failures) == {"404", "409", "4XX", "5XX", "default"}
    for schema in failures.values():
        assert schema is not None
        codes = schema["properties"]["errors"]["items"]["properties"]
        assert {name for name, node in codes.items() if marked(node)} == {"code"}
        # Its root declares no `result`: where an envelope is configured, that would leave only its null.
        assert "result" not in schema["properties"]


def test_the_notification_policy_keeps_what_the_golden_record_has() -> None:
    operation = BY_ID["notification-policies-update"]
    assert (operation.method, operation.template) == (
        "PUT",
        "/accounts/{account_id}/alerting/v3/policies/{policy_id}",
    )
    assert operation.body is not None
    body = operation.body["properties"]
    assert {name for name, node in body.items() if marked(node)} == {
        *("name", "enabled", "alert_type", "alert_interval")
    }
    assert marked(body["filters"]["properties"]["services"])
    assert marked(body["filters"]["properties"]["zones"]["items"])
    assert not any(marked(node) for node in nodes([body["description"], body["mechanisms"]]))


# ── the service ──


@pytest.mark.parametrize("operation", operations(), ids=lambda each: each.operation_id)
async def test_every_operation_is_routed_and_answers_as_declared(
    api: httpx.AsyncClient, operation: Operation
) -> None:
    response = await send(api, planned(operation, ADA, drawing(3)))
    check = json_validator(operation, response.status_code)
    if check is not None and operation.method != "HEAD":
        check.validate(response.json())
    assert response.headers["x-actor-id"] == ADA.user_id
    assert "No such route" not in response.text


async def test_every_answer_in_the_traffic_is_one_that_the_document_declares(
    exchanges: list[Exchange],
) -> None:
    checks: dict[tuple[str, int], jsonschema.Draft202012Validator | None] = {}
    for exchange in exchanges:
        operation, status = exchange.request.operation, exchange.response.status_code
        if operation is None:
            assert status in (404, 405)
            continue
        key = (operation.operation_id, status)
        if key not in checks:
            checks[key] = json_validator(operation, status)
        if (check := checks[key]) is None:
            assert exchange.response.content == b""
        elif operation.method != "HEAD":
            check.validate(exchange.response.json())


async def test_every_operation_succeeds_in_the_traffic(exchanges: list[Exchange]) -> None:
    succeeded = {
        exchange.request.operation.operation_id
        for exchange in exchanges
        if exchange.request.operation and exchange.response.is_success
    }
    assert succeeded == set(BY_ID)


async def test_the_traffic_is_varied(exchanges: list[Exchange]) -> None:
    assert {e.request.method for e in exchanges} == {
        *("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
    }
    assert {400, 403, 404, 405, 409} <= {e.response.status_code for e in exchanges}
    actors = {e.response.headers.get("x-actor-id") for e in exchanges}
    assert {caller.user_id for caller in callers()} <= actors
    assert {e.response.headers.get("x-actor-type") for e in exchanges} >= {"user", "account", "system"}
    failures = sum(e.response.is_error for e in exchanges)
    assert 0.1 < failures / len(exchanges) < 0.5


async def test_what_the_api_starts_with_cannot_be_deleted(api: httpx.AsyncClient) -> None:
    api.headers.update(bearer(ADA.credential))
    path = f"{base_path()}/zones/{zones()[0].id}"
    assert [(await api.delete(path)).status_code, (await api.get(path)).status_code] == [403, 200]


async def test_all_answers_carry_a_ray_and_recognised_callers_are_named(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        headers = exchange.response.headers
        assert len(headers["cf-ray"]) == 20
        if exchange.request.operation is None:
            continue
        caller = exchange.request.caller
        assert headers["x-actor-context"] == caller.context
        assert headers.get("x-actor-token-name") == caller.token_name
        path_tells = {"account_id", "zone_id"} & set(exchange.request.params)
        assert headers.get("x-account-id") == (None if path_tells else caller.account.id)


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


async def test_who_shows_no_credential_is_refused(api: httpx.AsyncClient) -> None:
    for headers in ({}, bearer("guessed")):
        response = await api.get(f"{base_path()}/user", headers=headers)
        assert response.status_code == 401
        assert response.json()["errors"][0]["code"] == 10000
        assert "x-actor-id" not in response.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/accounts/{ADA.account.id}", 200),
        (f"/accounts/{accounts()[1].id}", 403),
        (f"/zones/{zones()[-1].id}", 403),
        (f"/accounts/{'0' * 32}", 404),
        (f"/zones/{'0' * 32}", 404),
        ("/nowhere", 404),
    ],
)
async def test_callers_see_their_own_account_alone(api: httpx.AsyncClient, path: str, status: int) -> None:
    response = await api.get(base_path() + path, headers=bearer(ADA.credential))
    assert response.status_code == status
    assert response.json()["success"] is (status == 200)


async def test_what_was_made_can_be_shown_changed_and_deleted_once(api: httpx.AsyncClient) -> None:
    path = f"{base_path()}/zones/{zones()[0].id}/dns_records"
    api.headers.update(bearer(ADA.credential))
    record = {"type": "A", "name": "www", "content": "192.0.2.1", "comment": "for the fair"}
    made = (await api.post(path, json=record)).json()["result"]
    assert (await api.post(path, json=record)).status_code == 409
    item = f"{path}/{made['id']}"
    assert (await api.patch(item, json={"ttl": 60})).json()["result"]["ttl"] == 60
    assert (await api.get(item)).json()["result"] | {"modified_at": ""} == made | {
        "ttl": 60,
        "modified_at": "",
    }
    assert [(await api.delete(item)).status_code for _ in range(2)] == [200, 404]


async def test_a_secret_is_shown_once(api: httpx.AsyncClient) -> None:
    api.headers.update(bearer(ADA.credential))
    path = f"{base_path()}/accounts/{ADA.account.id}/tokens"
    policy = {"effect": "allow", "permissions": ["dns_read"]}
    token = (await api.post(path, json={"name": "sync", "policies": [policy]})).json()["result"]
    shown = await api.get(f"{path}/{token['id']}")
    assert shown.json()["result"] | {"value": token["value"]} == token
    assert token["value"] not in shown.text


async def test_a_response_shows_no_more_than_the_document_declares(api: httpx.AsyncClient) -> None:
    api.headers.update(bearer(ADA.credential))
    secret = {"newsletter": True, "new_password": "not-a-real-secret"}
    changed = (await api.patch(f"{base_path()}/user", json=secret)).json()["result"]
    assert changed == {"id": ADA.user_id, "email": ADA.email, "newsletter": True}


async def test_a_sign_in_is_denied_without_an_assertion(api: httpx.AsyncClient) -> None:
    path = f"{base_path()}/accounts/{ADA.account.id}/access/login"
    login = {"user_email": ADA.email, "app_uid": "a" * 32, "app_domain": "wiki.example.org"}
    api.headers.update(bearer(ADA.credential))
    denied = await api.post(path, json=login)
    allowed = await api.post(path, json=login | {"assertion": "signed"})
    assert (denied.status_code, denied.json()["success"]) == (403, False)
    assert allowed.status_code == 201
    assert allowed.json()["result"]["session_token"]


async def test_lists_are_filtered_by_the_query(api: httpx.AsyncClient) -> None:
    api.headers.update(bearer(ADA.credential))
    path = f"{base_path()}/zones"
    made = (await api.post(path, json={"name": "fair.example", "type": "partial"})).json()["result"]
    found = {
        query: [row["id"] for row in (await api.get(f"{path}?{query}")).json()["result"]]
        for query in ("", "status=pending", "type=partial,secondary", "type=full", "name=other.example")
    }
    own = [zone.id for zone in zones() if zone.account == ADA.account]
    assert list(found.values()) == [[*own, made["id"]], [made["id"]], [made["id"]], own, []]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"name": 7}', 400),
        (b'{"name": "ha', 400),
        (b"", 400),
        (b'"\xff"', 400),
        (b"[" * 100_000, 400),
        (b'"' + b"x" * BODY_BYTES_MAX + b'"', 413),
    ],
    ids=["type", "cut", "empty", "utf-8", "deep", "large"],
)
async def test_a_body_that_does_not_fit_is_refused(
    api: httpx.AsyncClient, content: bytes, status: int
) -> None:
    path = f"{base_path()}/accounts/{ADA.account.id}/tokens"
    response = await api.post(path, headers=bearer(ADA.credential), content=content)
    assert response.status_code == status
    check = json_validator(BY_ID["tokens-create"], status)
    assert check is not None
    check.validate(response.json())


async def test_other_methods_are_not_allowed(api: httpx.AsyncClient) -> None:
    refused = await api.delete(f"{base_path()}/user", headers=bearer(ADA.credential))
    assert (refused.status_code, refused.json()["success"]) == (405, False)


def test_the_state_is_bounded_and_keeps_its_cast() -> None:
    state = State()
    for n in range(ROWS_MAX + 100):
        state.put(f"/zones/{n}", {"id": str(n)})
    assert len(state.below("/zones")) == len(zones()) + ROWS_MAX
    assert all(state.get(f"/zones/{zone.id}") for zone in zones())
    assert state.get("/zones/99") is None
    assert state.get("/zones/100") == {"id": "100"}


def test_a_row_put_again_takes_the_place_of_the_first() -> None:
    state = State()
    for n in (1, 2):
        state.put("/things/a", {"n": n})
        state.put(f"/zones/{zones()[0].id}", {"n": n})
    assert state.below("/things") == [{"n": 2}]
    assert state.below("/zones")[0] == {"n": 2}
    state.remove("/things/a")
    assert state.below("/things") == []


async def test_each_service_has_a_state_of_its_own() -> None:
    async with client_of(example_app()) as one, client_of(example_app()) as other:
        one.headers.update(bearer(ADA.credential))
        other.headers.update(bearer(ADA.credential))
        assert (await one.post(f"{base_path()}/zones", json={"name": "fair.example"})).status_code == 201
        listed = [(await each.get(f"{base_path()}/zones")).json()["result"] for each in (one, other)]
    assert [len(rows) for rows in listed] == [3, 2]


# ── the directory ──


async def test_the_directory_knows_the_whole_cast() -> None:
    async with client_of(directory_app()) as client:
        for account in accounts():
            response = await client.get(f"/accounts/{account.id}")
            assert response.json() == {"result": {"name": account.name}}
        for zone in zones():
            found = (await client.get(f"/zones/{zone.id}")).json()["result"]
            assert found == {"name": zone.name, "account_id": zone.account.id}
        for user in users():
            assert (await client.get(f"/users/{user.user_id}")).json() == {"result": {"email": user.email}}
        for token in tokens():
            found = (await client.get(f"/tokens/{token.token_id}")).json()["result"]
            assert (found["name"], found["account_id"]) == (token.token_name, token.account.id)


@pytest.mark.parametrize("path", [f"/accounts/{'0' * 32}", f"/zones/{accounts()[0].id}", "/persons/1", "/"])
async def test_the_directory_says_so_where_it_knows_nothing(path: str) -> None:
    async with client_of(directory_app()) as client:
        assert (await client.get(path)).status_code == 404


def test_ids_of_the_cast_are_32_hex_digits_and_distinct() -> None:
    ids = [
        *(account.id for account in accounts()),
        *(zone.id for zone in zones()),
        *(user.user_id for user in users()),
        *(token.token_id or "" for token in tokens()),
    ]
    assert all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in ids)
    assert len(set(ids)) == len(ids) == 12 + 24 + 24 + 12
    assert len({caller.credential for caller in callers()}) == len(callers())


# ── the traffic ──


class Counted(httpx.AsyncBaseTransport):
    """Counts the methods that go through, and stops the sender after `requests_max`."""

    def __init__(
        self, inner: httpx.AsyncBaseTransport | None, stop: asyncio.Event, requests_max: int
    ) -> None:
        self.methods: Counter[str] = Counter()
        self._inner = inner
        self._stop = stop
        self._requests_max = requests_max

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.methods[request.method] += 1
        if self.methods.total() >= self._requests_max:
            self._stop.set()
        if self._inner is None:
            raise httpx.ConnectError("away")
        return await self._inner.handle_async_request(request)


@pytest.mark.parametrize("away", [False, True])
async def test_the_trickle_covers_all_methods_until_it_is_stopped_and_outlives_the_service(
    *, away: bool
) -> None:
    stop = asyncio.Event()
    transport = Counted(None if away else httpx.ASGITransport(example_app()), stop, 400)
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as client:
        await trickle(client, per_second=1e9, stop=stop, seed=11)
    assert set(transport.methods) == {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}
    assert transport.methods.total() == 400


async def test_a_stopped_trickle_does_not_sit_out_its_pause() -> None:
    stop = asyncio.Event()
    transport = Counted(httpx.ASGITransport(example_app()), stop, 1)
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as client:
        await asyncio.wait_for(trickle(client, per_second=1e-6, stop=stop, seed=1), 120)
    assert transport.methods.total() == 1


def test_plans_are_drawn_from_the_seed() -> None:
    def paths(seed: int) -> list[str]:
        planner = Planner(seed)
        return [planner.next().path for _ in range(50)]

    assert paths(1) == paths(1) != paths(2)


def test_a_planner_remembers_a_bounded_number_of_things() -> None:
    planner = Planner(1)
    create = BY_ID["dns-records-create"]
    for n in range(MADE_MAX + 10):
        answer = json.dumps({"result": {"id": f"{n:032x}"}}).encode()
        planner.learn(planned(create, ADA, drawing(n)), 200, answer)
    assert {template: len(known) for template, known in planner._made.items()} == {
        "/zones/{zone_id}/dns_records/{dns_record_id}": MADE_MAX
    }


def test_planned_requests_show_no_contents() -> None:
    shown = repr(planned(BY_ID["notification-policies-update"], ADA, drawing(1)))
    assert ADA.credential not in shown
    assert "headers" not in shown
    assert "content=" not in shown


# ── the captures ──


def drawn(count: int, seed: int = 1, **options: Any) -> list[dict[str, Any]]:
    return list(mixed_captures(count, seed, now_ms=NOW_MS, **options))


def test_captures_are_the_same_for_the_same_seed() -> None:
    assert drawn(200) == drawn(200)
    assert list(islice(mixed_captures(200, 1, now_ms=NOW_MS), 1)) != drawn(200, seed=2)[:1]


def test_captures_keep_the_contract() -> None:
    check = contract_validator("capture")
    for with_ids in (True, False):
        for capture in drawn(300, with_ids=with_ids):
            check.validate(capture)
            decoded = decode_capture(json.dumps(capture).encode())
            assert decoded.captured_at is not None
            at_ms = parse_rfc3339_ms(decoded.captured_at)
            assert at_ms is not None
            assert NOW_MS - SPAN_MS <= at_ms < NOW_MS
            assert (decoded.id is not None) is with_ids
            if decoded.id:
                assert parse_id(decoded.id) == decoded.id
                assert id_ms(decoded.id) == at_ms


def test_captures_are_numbered_by_their_tap() -> None:
    captures = drawn(50, seed=4)
    assert [c["tap"] for c in captures] == [{"id": "example-tap", "epoch": 4, "seq": n} for n in range(50)]


def test_no_two_captures_share_an_id() -> None:
    ids = [c["id"] for seed in (1, 2, 3) for c in drawn(1500, seed=seed)]
    assert len(set(ids)) == 4500


def test_captures_have_optional_fields_now_and_then() -> None:
    bodies = [
        json.loads(capture["request"]["body"])
        for capture in drawn(4000)
        if operation_of(capture) is BY_ID["notification-policies-update"]
    ]
    with_description = sum("description" in body for body in bodies)
    assert 0 < with_description < len(bodies)


def operation_of(capture: dict[str, Any]) -> Operation | None:
    """Find the operation by its template's segments, apart from the planner that knew it."""
    path = httpx.URL(capture["request"]["url"]).raw_path.decode().partition("?")[0].removeprefix(base_path())
    segments = path.split("/")
    fits = [
        operation
        for operation in operations()
        if operation.method == capture["request"]["method"]
        and len(segments) == operation.template.count("/") + 1
        and all(
            want.startswith("{") or want == got
            for want, got in zip(operation.template.split("/"), segments, strict=True)
        )
    ]
    assert len(fits) <= 1
    return fits[0] if fits else None


def test_captures_cover_all_operations_in_the_promised_shares() -> None:
    captures = drawn(3000)
    found = [operation_of(capture) for capture in captures]
    assert {operation.operation_id for operation in found if operation} == set(BY_ID)
    assert 0.01 < found.count(None) / 3000 < 0.04
    assert 0.27 < sum(c["request"]["method"] == "GET" for c in captures) / 3000 < 0.33
    assert 0.44 < sum("body" in c["request"] for c in captures) / 3000 < 0.5
    assert 0.07 < sum(c["response"]["status"] >= 400 for c in captures) / 3000 < 0.16
    assert 1200 < sum(len(json.dumps(c, separators=(",", ":"))) for c in captures) / 3000 < 1500


def test_bodies_of_captures_fit_the_document() -> None:
    for capture in drawn(600):
        operation = operation_of(capture)
        if operation is None:
            continue
        if operation.media == "application/json" and operation.body is not None:
            body = json.loads(capture["request"]["body"])
            jsonschema.Draft202012Validator(operation.body).validate(body)
        check = json_validator(operation, capture["response"]["status"])
        if check is not None and "body" in capture["response"]:
            check.validate(json.loads(capture["response"]["body"]))
        assert ("body" in capture["response"]) is (check is not None and operation.method != "HEAD")


@pytest.fixture(scope="module")
def events() -> dict[str, list[dict[str, Any]]]:
    """What is recorded of some thousand captures, by operation."""
    with as_file(document_file()) as path:
        redactor = Redactor.from_config(RedactionConfig(documents=(DocumentConfig(path, envelope="result"),)))
    found: dict[str, list[dict[str, Any]]] = {}
    for line in redact_lines(redactor, [json.dumps(capture).encode() for capture in drawn(3000)]):
        event = json.loads(line)
        found.setdefault(event["receipt"].get("operation", ""), []).append(event)
    return found


def test_no_secret_of_the_captures_is_recorded(events: dict[str, list[dict[str, Any]]]) -> None:
    assert "not-a-real-secret" in json.dumps(drawn(3000))
    assert "not-a-real-secret" not in json.dumps(events)
    assert all("value" not in event["resource"].get("response", {}) for event in events["tokens-create"])


def test_sign_ins_are_authentication_logs(events: dict[str, list[dict[str, Any]]]) -> None:
    resources = [event["resource"] for event in events["access-login"]]
    assert {(each["product"], each["type"]) for each in resources} == {("access", "login")}
    assert all(each["id"] == each["request"]["app_uid"] for each in resources)
    assert {event["action"]["result"] for event in events["access-login"]} == {"success", "failure"}


def test_a_log_query_is_recorded_as_having_happened_alone(events: dict[str, list[dict[str, Any]]]) -> None:
    for event in events["log-queries-run"]:
        assert set(event["receipt"]["request"].values()) == {"opted_out"}
        assert not {"request", "response"} & set(event["resource"])


def test_the_fields_of_an_upload_are_recorded_without_its_file(
    events: dict[str, list[dict[str, Any]]],
) -> None:
    assert all(set(event["resource"]["request"]) == {"main_module"} for event in events["scripts-upload"])


def test_paths_and_queries_are_recorded_as_they_are_marked(events: dict[str, list[dict[str, Any]]]) -> None:
    assert all(event["raw"]["uri"].endswith("/values/{key_name}") for event in events["values-put"])
    asked = {
        pair.partition("=")[0]
        for event in events["zones-list"]
        for pair in event["raw"]["uri"].partition("?")[2].split("&")
    }
    assert asked == {"", "status", "type"}


def test_the_capture_to_try_by_hand_is_a_policy_update_as_the_document_has_it() -> None:
    capture = capture_example()
    contract_validator("capture").validate(capture)
    operation = operation_of(capture)
    assert operation is BY_ID["notification-policies-update"]
    body = json.loads(capture["request"]["body"])
    assert operation.body is not None
    jsonschema.Draft202012Validator(operation.body).validate(body)
    assert set(body) == {*("name", "description", "enabled", "alert_type", "filters", "mechanisms")}
    check = json_validator(operation, 200)
    assert check is not None
    check.validate(json.loads(capture["response"]["body"]))
    headers = capture["response"]["headers"]
    assert (headers["x-actor-context"], headers["x-actor-type"]) == ("dash", "user")
    assert not any("token" in name for name in headers)
    # Without an id or a time it is about now, whenever it is sent.
    assert not {"id", "captured_at", "tap"} & set(capture)
