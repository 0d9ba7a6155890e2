"""The document is right in itself, and the code and it say the same."""

from __future__ import annotations

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from log_api.app import contract_routes, log_api_app
from log_api.config import LogApiConfig
from log_api.contract import Contract, Operation, contract_document
from log_api.listing import FILTERS, Direction, Field
from log_api.ports import Permission
from log_api.records import ACTOR_CONTEXTS, ACTOR_TYPES
from schemas.errors import StartupError
from schemas.explain import contract
from schemas.metric_defs import Metrics
from tests.unit.log_api.memory_log import MemoryLog

LIST = "/accounts/{account_id}/logs/audit"


@pytest.fixture
def settings() -> LogApiConfig:
    return LogApiConfig(cursor_key=b"k" * 32)


def parameters_of(settings: LogApiConfig, path: str) -> set[str]:
    held = Contract(settings)
    operation = next(one for one in held.operations if one.path == path)
    return {name for name, _ in held._parameters[operation.id]}


def test_the_document_is_an_openapi_document(settings: LogApiConfig) -> None:
    assert list(OpenAPIV31SpecValidator(contract_document(settings)).iter_errors()) == []


def test_a_record_is_the_same_in_both_contracts(settings: LogApiConfig) -> None:
    stored = contract("audit_record")
    served = contract_document(settings)["components"]["schemas"]["AuditRecord"]
    assert served == {name: value for name, value in stored.items() if name not in {"$schema", "$id"}}


def test_the_application_has_the_document_s_routes_and_no_others(settings: LogApiConfig) -> None:
    app = log_api_app(MemoryLog(), settings, Metrics(), lambda: 0)
    document = contract_document(settings)
    (server,) = document["servers"]
    documented = {
        (server["url"] + path, method.upper())
        for path, methods in document["paths"].items()
        for method in methods
    }
    served = {
        (route.path, method)
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    assert served == documented
    assert len(app.routes) == len(documented)


async def nothing(_operation: Operation, _request: Request) -> Response:
    return Response()


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_difference_ends_the_start(settings: LogApiConfig, change: str) -> None:
    held = Contract(settings)
    answers = {operation.id: nothing for operation in held.operations}
    assert len(contract_routes(held, settings.prefix, answers)) == len(held.operations)
    if change == "missing":
        answers.popitem()
    else:
        answers["listNothing"] = nothing
    with pytest.raises(StartupError):
        contract_routes(held, settings.prefix, answers)


def test_every_filter_is_documented_with_its_negation_and_no_other(settings: LogApiConfig) -> None:
    others = {"account_id", "since", "before", "direction", "limit", "cursor"}
    known = set(FILTERS) | {"audit_log_id", "product_category"}
    assert parameters_of(settings, LIST) == others | known | {f"{name}.not" for name in known}


@pytest.mark.parametrize(
    ("path", "others"),
    [
        (f"{LIST}/export", {"account_id", "since", "before", "format", "after"}),
        (f"{LIST}/tail", {"account_id", "since", "Last-Event-ID"}),
        (f"{LIST}/summary", {"account_id", "since", "before", "bucket", "hop", "by", "source"}),
    ],
)
def test_what_lists_filters_filters_what_streams_and_counts(
    settings: LogApiConfig, path: str, others: set[str]
) -> None:
    filters = parameters_of(settings, LIST) - {"since", "before", "direction", "limit", "cursor"}
    assert parameters_of(settings, path) == filters | others


def test_an_organization_lacks_the_filters_that_its_clients_do_not_know(settings: LogApiConfig) -> None:
    lacking = {"account_id", "account_name", "zone_id", "zone_name", "audit_log_id", "product_category"}
    lacking |= {f"{name}.not" for name in lacking}
    found = parameters_of(settings, "/organizations/{organization_id}/logs/audit")
    assert found == parameters_of(settings, LIST) - lacking | {"organization_id"}


def test_every_parameter_says_what_is_allowed(settings: LogApiConfig) -> None:
    held = Contract(settings)
    for by_name in held._parameters.values():
        assert all(parameter.allowed for parameter in by_name.values())


@pytest.mark.parametrize(
    ("schema", "values"),
    [("ActorContextValues", ACTOR_CONTEXTS), ("ActorTypeValues", ACTOR_TYPES)],
)
def test_the_closed_lists_are_the_same(settings: LogApiConfig, schema: str, values: frozenset[str]) -> None:
    found = contract_document(settings)["components"]["schemas"][schema]
    assert set(found["items"]["enum"]) == values
    assert found["x-allowed"] == f"each one of {', '.join(found['items']['enum'])}"


def test_directions_are_the_same(settings: LogApiConfig) -> None:
    parameters = contract_document(settings)["components"]["parameters"]
    assert set(parameters["Direction"]["schema"]["enum"]) == set(Direction)
    assert set(parameters["By"]["schema"]["enum"]) == set(Field)


def test_every_route_that_names_accounts_needs_a_permission(settings: LogApiConfig) -> None:
    for operation in Contract(settings).operations:
        if operation.public or operation.id == "verifyToken":
            assert operation.permission is None
        else:
            assert operation.permission in set(Permission)


def test_smaller_pages_are_documented_and_held() -> None:
    small = LogApiConfig(cursor_key=b"k" * 32, page_records_max=20)
    held = Contract(small)
    limit = held.document["components"]["schemas"]["PageLimit"]
    assert (limit["maximum"], limit["default"]) == (20, 20)
    operation = next(one for one in held.operations if one.id == "listAuditLogs")
    query = [("since", "2026-01-01"), ("before", "2026-01-02"), ("limit", "21")]
    checked = held.check(operation, {"account_id": "a"}, query, Headers({"authorization": "Bearer x"}))
    assert [fault.message for fault in checked.faults] == ["limit: a whole number from 1 to 20"]


def test_the_document_asks_for_the_token(settings: LogApiConfig) -> None:
    held = Contract(settings)
    path = {"account_id": "a", "organization_id": "a", "audit_id": "a" * 32}
    for operation in held.operations:
        checked = held.check(operation, path, [], Headers())
        assert [fault.status for fault in checked.faults] == ([] if operation.public else [401])
        for sent in ({"authorization": "Bearer x"}, {"x-auth-email": "a@example.com", "x-auth-key": "x"}):
            assert 401 not in [
                fault.status for fault in held.check(operation, path, [], Headers(sent)).faults
            ]


def test_a_value_that_was_right_is_not_checked_again_and_a_wrong_one_always_is(
    settings: LogApiConfig,
) -> None:
    held = Contract(settings)
    operation = next(one for one in held.operations if one.id == "listAuditLogs")
    headers = Headers({"authorization": "Bearer x"})

    def faults(**query: str) -> list[str]:
        pairs = [("since", "2026-01-01"), ("before", "2026-01-02"), *query.items()]
        return [fault.message for fault in held.check(operation, {"account_id": "a"}, pairs, headers).faults]

    for _ in range(2):
        assert faults(limit="5", actor_type="user") == []
        assert faults(limit="5000", actor_type="user") == ["limit: a whole number from 1 to 1000"]
        assert [fault.split(":")[0] for fault in faults(actor_type="robot", limit="0")] == [
            "limit",
            "actor_type",
        ]
    kept = {(given.name, given.values) for given in held._validator._accepted}
    assert ("limit", ("5",)) in kept
    assert not {("limit", ("5000",)), ("limit", ("0",)), ("actor_type", ("robot",))} & kept
    assert faults(actor_id="x" * 200) == []
    assert not [given for given in held._validator._accepted if given.name == "actor_id"]
    held.check(operation, {"account_id": "a"}, [], headers)
    assert [
        fault.message[:17] for fault in held.check(operation, {"account_id": "a"}, [], headers).faults
    ] == [
        "since: is require",
        "before: is requir",
    ]
