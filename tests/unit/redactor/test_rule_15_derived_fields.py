from __future__ import annotations

import pytest

from schemas.event import AuditEvent
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import a_pair, a_redactor, event_of
from tests.unit.redactor.schemas import MARKED, TEXT, Node, an_object


def recorded(
    template: str, url: str, method: str = "POST", operation: Node | None = None, **pair: object
) -> AuditEvent:
    document = a_document({template: {method.lower(): operation or an_operation()}})
    return event_of(a_redactor(loaded(document, envelope="result")), a_pair(method=method, url=url, **pair))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "scope", "product", "kind"),
    [
        ("/accounts/{account_id}/alerting/v3/policies/{policy_id}", "accounts", "alerting", "policies"),
        ("/zones/{zone_id}/dns_records/{id}", "zones", "dns_records", "dns_records"),
        ("/user/tokens/{token_id}", "user", "tokens", "tokens"),
        ("/user", "user", "user", "user"),
        ("/accounts/{account_id}", "accounts", "accounts", "accounts"),
        ("/v4/accounts/{account_id}/lists", "accounts", "lists", "lists"),
        ("/accounts/{account_id}/v1", "accounts", "accounts", "accounts"),
        ("/accounts/{account_id}/dlp/v2beta1/shots/{id}.png", "accounts", "dlp", "shots"),
        ("/{tenant}/lists/{id}", None, "lists", "lists"),
        ("/{tenant}", None, None, None),
    ],
)
def test_scope_product_and_type_follow_from_the_template(
    template: str, scope: str | None, product: str | None, kind: str | None
) -> None:
    event = recorded(template, template.replace("{", "").replace("}", ""))
    assert (event.resource.scope, event.resource.product, event.resource.type) == (scope, product, kind)


@pytest.mark.parametrize(
    ("template", "url", "account", "zone", "resource"),
    [
        ("/accounts/{account_id}/rules/{rule_id}", "/accounts/a1/rules/r1", "a1", None, "r1"),
        ("/zones/{zone_id}/dns_records/{id}", "/zones/z1/dns_records/d1", None, "z1", "d1"),
        ("/accounts/{id}/zones/{zone_id}", "/accounts/a1/zones/z1", "a1", "z1", None),
        ("/accounts/{account_id}", "/accounts/a1", "a1", None, None),
        (
            "/a/accounts/{account_id}/x/accounts/{account_id}",
            "/a/accounts/a1/x/accounts/a2",
            "a1",
            None,
            "a2",
        ),
        ("/accounts/{account_name}/x", "/accounts/s3cret/x", None, None, None),
        ("/accounts/{id}/keys/{key_name}", "/accounts/a1/keys/s3cret", "a1", None, None),
        ("/accounts/{id}/rules/{rule_id}/keys/{name}", "/accounts/a1/rules/r1/keys/s", "a1", None, None),
        ("/shots/{scan_id}.png", "/shots/7.png", None, None, "7"),
        ("/accounts/{account_id}/x", "/accounts/a%20b%20/x", "a b", None, None),
        ("/accounts/{account_id}/x", "/accounts/" + "x" * 257 + "/x", None, None, None),
        ("/things/{id}", "/things/" + "x" * 513, None, None, None),
    ],
)
def test_ids_stand_in_the_recorded_path(
    template: str, url: str, account: str | None, zone: str | None, resource: str | None
) -> None:
    event = recorded(template, url)
    assert (event.account.id, event.zone.id, event.resource.id) == (account, zone, resource)


LONG = "x" * 257


@pytest.mark.parametrize(
    ("template", "url", "refused"),
    [
        ("/accounts/{account_id}/x", f"/accounts/{LONG}/x", ("account.id",)),
        ("/accounts/{account_id}/x", f"/accounts//../accounts/{LONG}/x", ("account.id",)),
        ("/accounts/{account_id}/x", "/accounts/-/x", ("account.id",)),
        ("/accounts/{account_id}/x", "/accounts/a%0Ab/x", ("account.id",)),
        ("/zones/{zone_id}/x", f"/zones/{LONG}/x", ("zone.id",)),
        ("/things/{id}", "/things/" + "x" * 513, ("resource.id",)),
        ("/accounts/{account_id}/x/{id}", f"/accounts/{LONG}/x/a%0Ab", ("account.id", "resource.id")),
        ("/accounts/{account_id}/x", "/accounts/a1/x", ()),
        ("/accounts/{account_name}/x", f"/accounts/{LONG}/x", ()),
    ],
)
def test_what_is_no_id_in_a_path_leaves_its_fields_name(
    template: str, url: str, refused: tuple[str, ...]
) -> None:
    assert recorded(template, url).receipt.refused == refused


@pytest.mark.parametrize("path", ["/accounts/{}/x", "/accounts//../accounts/{}/x"])
@pytest.mark.parametrize(("in_path", "in_header"), [(LONG, "a1"), ("a1", LONG)])
def test_a_refused_account_is_named_although_another_source_fills_the_field(
    path: str, in_path: str, in_header: str
) -> None:
    event = recorded(
        "/accounts/{account_id}/x", path.format(in_path), response_headers={"x-account-id": in_header}
    )
    assert (event.account.id, event.receipt.refused) == ("a1", ("account.id",))


def test_a_refused_account_is_named_once_and_stays_in_the_recorded_path() -> None:
    event = recorded(
        "/accounts/{account_id}/x", f"/accounts/{LONG}/x", response_headers={"x-account-id": LONG}
    )
    assert (event.account.id, event.receipt.refused) == (None, ("account.id",))
    assert event.raw.uri == f"/accounts/{LONG}/x"


def test_the_account_header_counts_where_the_path_names_none() -> None:
    headers = {"x-account-id": "a2"}
    assert recorded("/x", "/x", response_headers=headers).account.id == "a2"
    assert recorded("/accounts/{id}", "/accounts/a1", response_headers=headers).account.id == "a1"


RESULT = an_object(result=an_object(id=MARKED, key=TEXT), id=MARKED)
ANSWER = {"result": {"id": "r1", "key": "s"}, "id": "outer"}


def test_a_create_takes_the_kept_id_of_its_response() -> None:
    creating = an_operation(None, RESULT)
    assert recorded("/accounts/{id}/x", "/accounts/a/x", "POST", creating, answer=ANSWER).resource.id == "r1"
    assert recorded("/x", "/x", "PUT", creating, answer=ANSWER).resource.id is None
    unmarked = an_operation(None, an_object(result=an_object(id=TEXT, name=MARKED)))
    assert recorded("/x", "/x", "POST", unmarked, answer=ANSWER).resource.id is None
    number = an_operation(None, an_object(result=an_object(id={"type": "integer", "x-auditable": True})))
    assert recorded("/x", "/x", "POST", number, answer={"result": {"id": 7}}).resource.id == "7"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "number"]},
        {"type": ["string", "number", "boolean", "null"]},
        {"anyOf": [{"type": "string", "x-auditable": True}, {"type": "number", "x-auditable": True}]},
        {"oneOf": [{"type": "string", "x-auditable": True}, an_object(name=MARKED)]},
    ],
)
@pytest.mark.parametrize(("value", "expected"), [("r1", "r1"), ('\u00fc"', '\u00fc"'), ({"name": "n"}, None)])
def test_a_created_id_may_be_of_several_types(schema: Node, value: object, expected: str | None) -> None:
    creating = an_operation(
        None, an_object(result=an_object(id=MARKED | schema if "type" in schema else schema))
    )
    document = a_document({"/x": {"post": creating}}, "3.1.0")
    event = event_of(
        a_redactor(loaded(document, envelope="result")), a_pair(url="/x", answer={"result": {"id": value}})
    )
    assert event.resource.id == expected


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("$request.path.a_id", "a1"),
        ("$request.path.name", None),
        ("$request.body#/tag", "t1"),
        ("$request.body#/secret", None),
        ("$request.body#/list/1", "l2"),
        ("$response.body#/result/id", "r1"),
        ("$response.body#/result/key", None),
        ("$response.body#", None),
        ("$request.header.authorization", None),
        ("nonsense", None),
    ],
)
def test_an_operation_may_say_where_its_id_stands_but_only_kept_values_are_found(
    pointer: str, expected: str | None
) -> None:
    lists = {"type": "array", "items": MARKED}
    operation = an_operation(an_object(tag=MARKED, secret=TEXT, list=lists), RESULT)
    event = recorded(
        "/x/{a_id}/{name}/{b_id}",
        "/x/a1/s/b1",
        "POST",
        operation | {"x-audit-resource-id": pointer},
        body={"tag": "t1", "secret": "s", "list": ["l1", "l2"]},
        answer=ANSWER,
        request_headers={"authorization": "s"},
    )
    assert event.resource.id == expected


@pytest.mark.parametrize("value", [["create"], {}, 5, True, None, "", "created", "\ud800", "x\ude00\ud800y"])
@pytest.mark.parametrize(
    "name",
    ["x-audit-action-type", "x-audit-description", "x-audit-scope", "x-audit-product",
     "x-audit-resource-type", "x-audit-resource-id", "summary", "operationId"],
)  # fmt: skip
def test_whatever_stands_in_an_operation_its_pairs_are_recorded(name: str, value: object) -> None:
    operation = an_operation(an_object(name=MARKED)) | {name: value}
    document = loaded(a_document({"/accounts/{account_id}/items": {"post": operation}}))
    redactor = a_redactor(document)
    redactor.prepare()
    event = event_of(redactor, a_pair(url="/accounts/a1/items", body={"name": "n"}))
    assert (event.account.id, event.action.type) == ("a1", "create")
    assert event.receipt.request.kept == 1


def test_an_operation_may_override_what_its_path_says() -> None:
    operation = an_operation(
        summary="The summary",
        **{
            "x-audit-action-type": "delete",
            "x-audit-description": "Described",
            "x-audit-scope": "user",
            "x-audit-product": "p",
            "x-audit-resource-type": "t",
        },
    )
    event = recorded("/accounts/{id}/x", "/accounts/a/x", "POST", operation)
    assert (event.action.type, event.action.description) == ("delete", "Described")
    assert (event.resource.scope, event.resource.product, event.resource.type) == ("user", "p", "t")
    plain = recorded(
        "/x", "/x", "POST", an_operation(summary="The summary") | {"x-audit-action-type": "login"}
    )
    assert (plain.action.type, plain.action.description) == ("create", "The summary")


@pytest.mark.parametrize(
    ("method", "recorded_method", "kind"),
    [
        ("POST", "POST", "create"),
        ("PUT", "PUT", "update"),
        ("PATCH", "PATCH", "update"),
        ("DELETE", "DELETE", "delete"),
        ("GET", "GET", "view"),
        ("OPTIONS", "OPTIONS", "view"),
        ("S3CRET", "OTHER", "view"),
        ("post", "OTHER", "view"),
    ],
)
def test_action_type_and_method(method: str, recorded_method: str, kind: str) -> None:
    event = event_of(a_redactor(), a_pair(method=method))
    assert (event.raw.method, event.action.type) == (recorded_method, kind)


@pytest.mark.parametrize(
    ("status", "result"), [(200, "success"), (399, "success"), (400, "failure"), (999, "failure")]
)
def test_the_result_comes_from_the_status_alone(status: int, result: str) -> None:
    event = event_of(a_redactor(), a_pair(status=status, answer={"success": status >= 400}))
    assert event.action.result == result
    assert event.action.time == "2026-01-23T18:25:14.749Z"
