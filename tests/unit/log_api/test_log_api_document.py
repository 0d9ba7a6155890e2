"""The OpenAPI document is valid, and the code agrees with it."""

from __future__ import annotations

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from log_api.app import contract_routes, log_api_app
from log_api.config import LogApiConfig, LogApiLimits
from log_api.contract import Contract, Operation, contract_document
from log_api.ports import Permission
from log_api.records import ACTOR_CONTEXTS, ACTOR_TYPES
from log_api.sql_builder import FILTERS, Direction, Field
from redactor.decode import headers
from schemas.contracts import contract
from schemas.errors import StartupError
from schemas.metric_defs import Metrics
from tests.unit.log_api.memory_log import MemoryLog

LIST = "/accounts/{account_id}/logs/audit"
# They show the token itself, and no account.
OF_THE_TOKEN = {"getUser", "verifyToken", "verifyAccountToken", "showSession", "beginSession", "endSession"}


@pytest.fixture
def settings() -> LogApiConfig:
    return LogApiConfig(cursor_key=b"k" * 32)


def parameters_of(settings: LogApiConfig, path: str) -> set[str]:
    held = Contract(settings)
    operation = next(one for one in held.operations if one.path == path)
    return {name for name, _ in held._parameters[operation.id]}


def test_the_document_is_valid_openapi(settings: LogApiConfig) -> None:
    assert list(OpenAPIV31SpecValidator(contract_document(settings)).iter_errors()) == []


def test_the_record_schema_is_the_same_in_both_contracts(settings: LogApiConfig) -> None:
    stored = contract("audit_record")
    actual = contract_document(settings)["components"]["schemas"]["AuditRecord"]
    assert actual == {name: value for name, value in stored.items() if name not in {"$schema", "$id"}}


def test_the_application_has_exactly_the_documents_routes(settings: LogApiConfig) -> None:
    app = log_api_app(MemoryLog(), settings, Metrics(), lambda: 0)
    document = contract_document(settings)
    (server,) = document["servers"]
    documented = {
        (server["url"] + path, method.upper())
        for path, methods in document["paths"].items()
        for method in methods
    }
    actual = {
        (route.path, method)
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    # The explorer's page and its files.
    pages = {(path, method) for path in ("/", "/assets/{name}") for method in ("GET", "HEAD")}
    assert actual == documented | pages
    assert len(app.routes) == len(documented) + 2


async def nothing(_operation: Operation, _request: Request) -> Response:
    return Response()


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_difference_between_document_and_handlers_fails_at_start(
    settings: LogApiConfig, change: str
) -> None:
    held = Contract(settings)
    handlers = {operation.id: nothing for operation in held.operations}
    assert len(contract_routes(held, settings.prefix, handlers)) == len(held.operations)
    if change == "missing":
        handlers.popitem()
    else:
        handlers["listNothing"] = nothing
    with pytest.raises(StartupError):
        contract_routes(held, settings.prefix, handlers)


def test_exactly_the_filters_and_their_negations_are_documented(settings: LogApiConfig) -> None:
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
def test_exports_tails_and_summaries_have_the_filters_of_the_list(
    settings: LogApiConfig, path: str, others: set[str]
) -> None:
    filters = parameters_of(settings, LIST) - {"since", "before", "direction", "limit", "cursor"}
    assert parameters_of(settings, path) == filters | others


def test_request_logs_take_the_parameters_of_the_list(settings: LogApiConfig) -> None:
    assert parameters_of(settings, "/accounts/{account_id}/logs/requests") == parameters_of(settings, LIST)


def test_organizations_lack_the_filters_that_their_clients_do_not_know(settings: LogApiConfig) -> None:
    lacking = {"account_id", "account_name", "zone_id", "zone_name", "audit_log_id", "product_category"}
    lacking |= {f"{name}.not" for name in lacking}
    found = parameters_of(settings, "/organizations/{organization_id}/logs/audit")
    assert found == parameters_of(settings, LIST) - lacking | {"organization_id"}


def test_every_parameter_describes_the_allowed_values(settings: LogApiConfig) -> None:
    held = Contract(settings)
    for by_name in held._parameters.values():
        assert all(parameter.allowed for parameter in by_name.values())


@pytest.mark.parametrize(
    ("schema", "recorded", "shown"),
    [
        ("ActorContextValues", headers.ACTOR_CONTEXTS, ACTOR_CONTEXTS),
        ("ActorTypeValues", headers.ACTOR_TYPES, ACTOR_TYPES),
    ],
)
def test_filters_accept_all_that_can_be_recorded_and_more_than_is_shown(
    settings: LogApiConfig, schema: str, recorded: frozenset[str], shown: frozenset[str]
) -> None:
    found = contract_document(settings)["components"]["schemas"][schema]
    assert set(found["items"]["enum"]) == recorded
    assert shown < recorded
    assert found["x-allowed"] == f"each one of {', '.join(found['items']['enum'])}"


def test_directions_are_the_same_in_document_and_code(settings: LogApiConfig) -> None:
    parameters = contract_document(settings)["components"]["parameters"]
    assert set(parameters["Direction"]["schema"]["enum"]) == set(Direction)
    assert set(parameters["By"]["schema"]["enum"]) == set(Field)


def test_every_route_that_names_accounts_needs_a_permission(settings: LogApiConfig) -> None:
    for operation in Contract(settings).operations:
        if operation.public or operation.id in OF_THE_TOKEN:
            assert operation.permission is None
        else:
            assert operation.permission in set(Permission)


def test_a_smaller_page_limit_is_documented_and_enforced() -> None:
    small = LogApiConfig(cursor_key=b"k" * 32, limits=LogApiLimits(page_records_max=20))
    held = Contract(small)
    limit = held.document["components"]["schemas"]["PageLimit"]
    assert (limit["maximum"], limit["default"]) == (20, 20)
    operation = next(one for one in held.operations if one.id == "listAuditLogs")
    query = [("since", "2026-01-01"), ("before", "2026-01-02"), ("limit", "21")]
    checked = held.check(operation, {"account_id": "a"}, query, Headers({"authorization": "Bearer x"}))
    assert [fault.message for fault in checked.errors] == ["limit: a whole number from 1 to 20"]


def test_the_document_requires_a_token(settings: LogApiConfig) -> None:
    held = Contract(settings)
    path = {"account_id": "a", "organization_id": "a", "audit_id": "a" * 32}
    for operation in held.operations:
        checked = held.check(operation, path, [], Headers())
        assert [fault.status for fault in checked.errors] == ([] if operation.public else [401])
        for sent in ({"authorization": "Bearer x"}, {"x-auth-email": "a@example.com", "x-auth-key": "x"}):
            assert 401 not in [
                fault.status for fault in held.check(operation, path, [], Headers(sent)).errors
            ]


def test_valid_values_are_validated_once_and_invalid_ones_always(
    settings: LogApiConfig,
) -> None:
    held = Contract(settings)
    operation = next(one for one in held.operations if one.id == "listAuditLogs")
    headers = Headers({"authorization": "Bearer x"})

    def faults(**query: str) -> list[str]:
        pairs = [("since", "2026-01-01"), ("before", "2026-01-02"), *query.items()]
        return [fault.message for fault in held.check(operation, {"account_id": "a"}, pairs, headers).errors]

    for _ in range(2):
        assert faults(limit="5", actor_type="user") == []
        assert faults(limit="5000", actor_type="user") == ["limit: a whole number from 1 to 1000"]
        assert [fault.split(":")[0] for fault in faults(actor_type="robot", limit="0")] == [
            "limit",
            "actor_type",
        ]
    cached = {(given.name, given.values) for given in held._validator._valid}
    assert ("limit", ("5",)) in cached
    assert not {("limit", ("5000",)), ("limit", ("0",)), ("actor_type", ("robot",))} & cached
    assert faults(actor_id="x" * 200) == []
    assert not [given for given in held._validator._valid if given.name == "actor_id"]
    held.check(operation, {"account_id": "a"}, [], headers)
    assert [
        fault.message[:17] for fault in held.check(operation, {"account_id": "a"}, [], headers).errors
    ] == [
        "since: is require",
        "before: is requir",
    ]
