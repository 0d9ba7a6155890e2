"""Explain agrees with the event, and shows nothing of the traffic."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import OpenApiDocument, load_document
from redactor.report.decisions import ExplainedPart, Outcome
from redactor.report.explain import (
    Explanation,
    explain_capture,
    explain_operation,
    find_operation,
)
from redactor.report.explain_tree import Node as Shown
from redactor.report.operation_fields import DocumentFields, OperationFields, Side
from redactor.report.schema_tree import Position
from schemas.capture import Capture
from schemas.event import AuditEvent, BodyReason, UnmatchedReason, decode_event
from tests.agreeing import AgreeingRedactor as Redactor
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import EVENT_ID, a_pair, fail, text_of
from tests.unit.redactor.report.instances import LINES, Tokens, fields_in, instance, pair_for
from tests.unit.redactor.report.test_coverage import a_wide_document, is_written
from tests.unit.redactor.schemas import MARKED, TEXT, Node, a_marked_object, an_object

CANARY = "CANARY"


class Explainer:
    def __init__(self, document: OpenApiDocument, **settings: Any) -> None:
        config = RedactionConfig(**settings)
        self.document_fields = DocumentFields(document, config)
        self.redactor = Redactor([document], config, on_failure=fail)

    def explain(self, pair: Capture) -> Explanation:
        return explain_capture(self.document_fields, self.redactor, pair, EVENT_ID)

    def event(self, pair: Capture) -> AuditEvent:
        return decode_event(self.redactor.redact(pair, EVENT_ID) or b"")


def as_text(explanation: Explanation) -> str:
    return json.dumps(asdict(explanation), default=str)


def tree_of(explanation: Explanation, side: Side) -> Shown | None:
    (tree,) = [each.tree for each in explanation.bodies if each.side is side]
    return tree


def by_path(node: Shown, above: str = "") -> Iterator[tuple[str, Shown]]:
    """Every node with its path, written as coverage writes it."""
    for child in node.children:
        joint = "" if not above or child.label.startswith("[") else "."
        path = above + joint + child.label
        yield path, child
        yield from by_path(child, path)


def nodes(tree: Shown | None) -> dict[str, Shown]:
    assert tree is not None
    return {"(body)": tree} | dict(by_path(tree))


def kept_fields(tree: Shown) -> set[str]:
    """The paths of the fields that the event holds; a null that replaces a dropped slot is none."""
    return {
        path
        for path, node in nodes(tree).items()
        if node.kept
        and node.decision.outcome is Outcome.KEPT
        and not any(part.kept for part in node.children)
    }


def explained(schema: Node, body: Any, **keywords: Any) -> dict[str, Shown]:
    document = a_document({"/things": {"post": an_operation(schema)}}, keywords.pop("version", "3.0.3"))
    explainer = Explainer(loaded(document))
    return nodes(tree_of(explainer.explain(a_pair(body=body, **keywords)), Side.REQUEST))


def outcome(node: Shown) -> tuple[str, int, int | None]:
    return node.decision.outcome.value, node.decision.rule, node.kept


def test_each_part_of_a_body_has_an_outcome_and_a_rule() -> None:
    schema = an_object(
        name=MARKED,
        note=TEXT,
        tags={"type": "array", "items": TEXT, "x-auditable": True},
        owner=a_marked_object(key=TEXT),
        labels={"type": "object", "additionalProperties": MARKED, "x-auditable": True},
    )
    body = {
        "name": "a",
        "note": "b",
        "tags": ["c", "d"],
        "owner": {"key": "e"},
        "labels": {"f": "g"},
        "other": 1,
    }
    assert {path: outcome(node) for path, node in explained(schema, body).items()} == {
        "(body)": ("kept", 11, 4),
        "name": ("kept", 2, 1),
        "note": ("dropped", 1, 0),
        "tags": ("kept", 3, 2),
        "tags[]": ("kept", 2, 2),
        "owner": ("presence", 3, 0),
        "owner.key": ("dropped", 1, 0),
        "labels": ("kept", 3, 1),
        "labels.{key}": ("kept", 2, 1),
        "(not declared)": ("dropped", 1, 0),
    }


@pytest.mark.parametrize(
    ("schema", "body", "status", "path", "expected"),
    [
        (an_object(a=MARKED), {"a": {"b": 1}}, 200, "a", ("dropped", 6, 0)),
        (an_object(a=MARKED | {"enum": ["x"]}), {"a": "y"}, 400, "a", ("dropped", 6, 0)),
        (an_object(a=MARKED | {"enum": ["x"]}), {"a": "y"}, 200, "a", ("kept", 2, 1)),
        (an_object(a=an_object(b=MARKED)), {"a": []}, 200, "a", ("dropped", 6, 0)),
        (an_object(a=an_object(b=MARKED)), {"a": {"b": 1}}, 200, "a", ("dropped", 11, 0)),
        (an_object(a=MARKED | {"x-sensitive": True}), {"a": "y"}, 200, "a", ("dropped", 5, 0)),
        (an_object(a=an_object(b=MARKED) | {"enum": [{}]}), {"a": {"b": "x"}}, 400, "a.b", ("dropped", 6, 0)),
        ({"type": "array", "items": MARKED}, ["x", 1, "y"], 200, "[]", ("kept", 2, 2)),
        (an_object(a=MARKED), {"a": None}, 200, "a", ("kept", 2, 1)),
    ],
)
def test_a_value_that_does_not_fit_is_dropped_by_its_rule(
    schema: Node, body: Any, status: int, path: str, expected: tuple[str, int, int]
) -> None:
    assert outcome(explained(schema, body, status=status)[path]) == expected


def test_a_null_that_replaces_a_slot_is_shown() -> None:
    schema = {"type": "array", "prefixItems": [TEXT, MARKED]}
    found = explained(schema, ["a", "b"], version="3.1.0")
    assert outcome(found["[0]"]) == ("presence", 11, 1)
    assert outcome(found["[1]"]) == ("kept", 2, 1)


def test_pointers_lead_to_the_schema_that_decides() -> None:
    schemas = {"Name": MARKED, "Secret": {"type": "string", "x-sensitive": True}}
    schema = an_object(a={"$ref": "#/components/schemas/Name"}, b={"$ref": "#/components/schemas/Secret"})
    document = a_document({"/things": {"post": an_operation(schema)}}, components={"schemas": schemas})
    explainer = Explainer(loaded(document))
    found = nodes(tree_of(explainer.explain(a_pair(body={"a": "x", "b": "y"})), Side.REQUEST))
    assert found["a"].decision.pointer == "/components/schemas/Name"
    assert found["b"].decision.pointer == "/components/schemas/Secret"


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (a_pair(body=b"{"), BodyReason.MALFORMED),
        (a_pair(body={"a": "x"}, request_headers={"content-encoding": "gzip"}), BodyReason.ENCODING),
        (a_pair(body="x", request_headers={"Content-Type": "text/plain"}), BodyReason.MEDIA_TYPE),
    ],
)
def test_an_unusable_body_has_a_reason_and_no_tree(pair: Capture, reason: BodyReason) -> None:
    document = a_document({"/things": {"post": an_operation(an_object(a=MARKED))}})
    explanation = Explainer(loaded(document)).explain(pair)
    (request,) = [each for each in explanation.bodies if each.side is Side.REQUEST]
    assert request.receipt is not None
    assert request.receipt.reason is reason
    assert request.tree is None


@pytest.mark.parametrize(
    ("pair", "reason", "known_path"),
    [
        (a_pair(url=f"/things/{CANARY}/x"), UnmatchedReason.NO_PATH, "/things/…"),
        (a_pair(url="/things", method="DELETE"), UnmatchedReason.NO_METHOD, "/things"),
        (a_pair(url=f"/things?_method={CANARY}"), UnmatchedReason.METHOD_OVERRIDE, "/things"),
        (a_pair(url=f"/things/../{CANARY}"), UnmatchedReason.INVALID_PATH, "/things/…"),
        (a_pair(url=f"//things?a={CANARY}"), UnmatchedReason.INVALID_PATH, "/things"),
    ],
)
def test_a_pair_without_an_operation_has_a_reason(
    pair: Capture, reason: UnmatchedReason, known_path: str
) -> None:
    document = a_document({"/things": {"post": an_operation(an_object(a=MARKED))}})
    explanation = Explainer(loaded(document)).explain(pair)
    assert (explanation.match.unmatched, explanation.match.known_path) == (reason, known_path)
    assert explanation.match.operations == ()
    assert CANARY not in as_text(explanation)


def test_all_operations_that_match_are_named_and_keep_what_both_keep() -> None:
    document = a_document(
        {
            "/things/{one}": {"post": an_operation(an_object(a=MARKED, b=MARKED), operationId="first")},
            "/things/{other}": {"post": an_operation(an_object(a=MARKED, b=TEXT), operationId="second")},
        }
    )
    explanation = Explainer(loaded(document)).explain(a_pair(url="/things/1", body={"a": "x", "b": "y"}))
    assert explanation.match.operations == ("first", "second")
    found = nodes(tree_of(explanation, Side.REQUEST))
    assert outcome(found["a"]) == ("kept", 2, 1)
    assert found["b"].decision.outcome is Outcome.DROPPED


def parts(found: tuple[ExplainedPart, ...]) -> dict[str, tuple[str, int, bool | None]]:
    return {each.label: (each.decision.outcome.value, each.decision.rule, each.present) for each in found}


def a_document_with_parameters() -> Node:
    def query(name: str, schema: Node, **keywords: Any) -> Node:
        return {"name": name, "in": "query", "schema": schema} | keywords

    listed = {"type": "array", "items": MARKED}
    parameters = [
        {"name": "thing_id", "in": "path", "required": True, "schema": TEXT},
        {"name": "name", "in": "path", "required": True, "schema": TEXT},
        {"name": "colour", "in": "path", "required": True, "schema": MARKED},
        query("page", {"type": "integer", "x-auditable": True}),
        query("search", TEXT),
        query("tags", listed),
        query("codes", listed, explode=False),
        query("filter", an_object(kind=MARKED, text=TEXT), style="deepObject", explode=True),
        query("pair", an_object(left=MARKED, right=TEXT), explode=False),
        query("open", an_object(width=MARKED)),
        query("again", an_object(width=MARKED)),
        query("secret", DENIED_BY_OWNER, **{"x-auditable": True}),
    ]
    return a_document(
        {"/things/{thing_id}/{name}/{colour}": {"post": an_operation(TEXT, parameters=parameters)}}
    )


DENIED_BY_OWNER: Node = {"type": "string", "x-sensitive": True}
URL = (
    "/things/7/CANARY-name/red?page=3&search=CANARY-s&tags=a&codes=b,c&filter[kind]=d&filter[text]=CANARY-t"
    "&pair=left,e,right,CANARY-r&width=f&secret=CANARY-x&CANARY-other=1"
)


def test_each_path_and_query_parameter_is_explained() -> None:
    explainer = Explainer(loaded(a_document_with_parameters()))
    pair = a_pair(url=URL)
    explanation = explainer.explain(pair)
    assert parts(explanation.path) == {
        "{thing_id}": ("kept", 13, True),
        "{name}": ("dropped", 13, True),
        "{colour}": ("kept", 13, True),
    }
    assert parts(explanation.query) == {
        "page": ("kept", 2, True),
        "search": ("dropped", 1, True),
        "tags[]": ("kept", 2, True),
        "codes[]": ("kept", 2, True),
        "filter.kind": ("kept", 2, True),
        "filter.text": ("dropped", 1, True),
        "pair.left": ("kept", 2, True),
        "pair.right": ("dropped", 1, True),
        "open.width": ("dropped", 13, True),
        "again.width": ("dropped", 13, True),
        "secret": ("dropped", 5, True),
        "(not declared)": ("dropped", 13, True),
    }
    uri = explainer.event(pair).raw.uri
    assert uri == "/things/7/{name}/red?page=3&tags=a&codes=b%2Cc&filter%5Bkind%5D=d&pair=left,e"
    assert CANARY not in as_text(explanation)


def test_a_value_that_does_not_fit_its_parameter_is_dropped_by_rule_13() -> None:
    explainer = Explainer(loaded(a_document_with_parameters()))
    explanation = explainer.explain(a_pair(url="/things/7/x/red?page=many&tags=a%3Bb"))
    found = parts(explanation.query)
    assert found["page"] == found["tags[]"] == ("dropped", 13, True)
    assert found["codes[]"] == ("kept", 2, False)


def test_an_operation_is_explained_like_a_pair() -> None:
    explainer = Explainer(loaded(a_document_with_parameters()))
    operation = find_operation(explainer.document_fields, "POST /things/{thing_id}/{name}/{colour}")
    assert operation is not None
    assert find_operation(explainer.document_fields, "op") is operation
    assert find_operation(explainer.document_fields, "none") is None
    explanation = explain_operation(explainer.document_fields, operation)
    of_pair = parts(explainer.explain(a_pair(url=URL)).query)
    of_pair.pop("(not declared)")
    assert {label: found[:2] for label, found in parts(explanation.query).items()} == {
        label: found[:2] for label, found in of_pair.items()
    }
    assert explanation.receipt is None
    assert [(each.side, each.status) for each in explanation.bodies] == [(Side.REQUEST, None)]


def test_bodies_that_are_never_read_are_dropped_by_rule_8() -> None:
    document = a_document({"/things": {"get": an_operation(an_object(a=MARKED), an_object(a=MARKED))}})
    explainer = Explainer(loaded(document))
    explanation = explain_operation(explainer.document_fields, explainer.document_fields.operations[0])
    assert [each.closed.rule for each in explanation.bodies if each.closed is not None] == [8, 8]
    assert not [
        node for each in explanation.bodies if each.tree is not None for node in kept_nodes(each.tree)
    ]
    shown = explainer.explain(a_pair(method="GET", body={"a": "x"}, answer={"a": "x"}))
    assert [each.tree for each in shown.bodies] == [None, None]


def kept_nodes(tree: Shown) -> list[Shown]:
    return [node for node in tree.walk() if node.decision.outcome is not Outcome.DROPPED]


def test_an_encoded_body_is_decoded_and_explained() -> None:
    document = a_document({"/things": {"post": an_operation(an_object(a=MARKED, b=TEXT))}})
    pair = a_pair(body=b"", request_headers={"content-encoding": "gzip"})
    encoded = base64.b64encode(gzip.compress(b'{"a": "x", "b": "y"}')).decode()
    request = msgspec.structs.replace(pair.request, body=None, body_base64=encoded)
    explanation = Explainer(loaded(document)).explain(msgspec.structs.replace(pair, request=request))
    found = nodes(tree_of(explanation, Side.REQUEST))
    assert outcome(found["a"]) == ("kept", 2, 1)
    assert outcome(found["b"]) == ("dropped", 1, 0)


def test_headers_are_named_only_if_they_are_configured() -> None:
    document = a_document({"/accounts/{account_id}/things": {"post": an_operation(TEXT)}})
    pair = a_pair(
        url="/accounts/1/things",
        request_headers={"user-agent": "CANARY-agent", "x-request-id": "not one", f"x-{CANARY}": "CANARY-h"},
        response_headers={"x-actor-id": ["CANARY-1", "CANARY-2"], "x-account-id": "CANARY-account"},
    )
    explanation = Explainer(loaded(document)).explain(pair)
    found = parts(explanation.headers)
    assert found["request: user-agent"] == ("kept", 14, True)
    assert found["request: x-request-id"] == ("dropped", 14, True)
    assert found["request: cf-ray"] == ("kept", 14, False)
    assert found["response: x-actor-id"] == ("dropped", 14, True)
    assert found["response: x-actor-email"] == ("kept", 14, False)
    assert found["response: x-account-id"] == ("dropped", 15, True)
    assert found["any other header"] == ("dropped", 14, None)
    assert CANARY not in as_text(explanation)


def test_a_header_that_the_document_denies_is_named_as_denied() -> None:
    denied = {"headers": {"X-Actor-Id": {"x-sensitive": True}}}
    operation = an_operation(
        responses={"200": denied, "404": {}},
        parameters=[{"name": "User-Agent", "in": "header", "x-sensitive": True}],
    )
    explainer = Explainer(loaded(a_document({"/things": {"post": operation}})))
    sent = a_pair(request_headers={"user-agent": CANARY}, response_headers={"x-actor-id": CANARY})
    found = parts(explainer.explain(sent).headers)
    assert found["request: user-agent"] == ("dropped", 5, True)
    assert found["response: x-actor-id"] == ("dropped", 5, True)
    explained = explain_operation(explainer.document_fields, explainer.document_fields.operations[0])
    of_operation = {each.label: each.decision for each in explained.headers}
    assert of_operation["request: user-agent"].rule == 5
    assert "some statuses" in of_operation["response: x-actor-id"].reason
    assert of_operation["response: x-actor-email"].reason == "configured"


def assert_explained_exactly(explainer: Explainer, *, every: int = 1) -> int:
    """Explain a pair full of canaries for every operation; return how many bodies had something kept."""
    bodies = 0
    for operation in explainer.document_fields.operations[::every]:
        found = explainer.document_fields.of(operation)
        assert found is not None
        for body in found.bodies():
            if not is_written(body.media_type) or not (body.status or "200").isdecimal():
                continue
            if body.root is None:
                continue
            tokens = Tokens(f"{CANARY}-")
            value = instance(body.root, tokens, bodies)
            if isinstance(value, dict):
                value = {**value, f"{CANARY}-key": f"{CANARY}-undeclared"}
            pair = _pair(found, body.side, int(body.status or 200), body.media_type, value)
            bodies += _assert_exact(explainer, found, pair, body.side, tokens)
    return bodies


def _pair(found: OperationFields, side: Side, status: int, media_type: str, value: Any) -> Capture:
    side_of_value = {"body": value} if side is Side.REQUEST else {"answer": value}
    pair = pair_for(found, media_type=media_type, status=status, value=f"{CANARY}-path", **side_of_value)
    headers = {**pair.request.headers, f"x-{CANARY}": f"{CANARY}-h", "user-agent": f"{CANARY}-agent"}
    url = f"{pair.request.url}?{CANARY}-name={CANARY}-value"
    request = msgspec.structs.replace(pair.request, headers=headers, url=url)
    return msgspec.structs.replace(pair, request=request)


def _assert_exact(
    explainer: Explainer, found: OperationFields, pair: Capture, side: Side, tokens: Tokens
) -> bool:
    explanation = explainer.explain(pair)
    text = as_text(explanation)
    assert CANARY not in text
    assert not [token for token in tokens.used if token in text]
    event = explainer.event(pair)
    request = side is Side.REQUEST
    receipt = event.receipt.request if request else event.receipt.response
    recorded = text_of(event.resource.request if request else event.resource.response)
    (shown,) = [each for each in explanation.bodies if (each.side is Side.REQUEST) == request]
    assert shown.receipt == receipt
    if shown.tree is None:
        assert receipt.kept is None
        assert recorded is None
        return False
    assert shown.tree.kept == receipt.kept
    if recorded is None:
        assert not kept_fields(shown.tree)
        return False
    root, envelope = _root(found, pair, request=request)
    contents = json.loads(recorded) if shown.media_type == LINES else [json.loads(recorded)]
    whole = [each if envelope is None else {envelope: each} for each in contents]
    assert kept_fields(shown.tree) == {field for each in whole for field in fields_in(root, each)}
    return True


def _root(found: OperationFields, pair: Capture, *, request: bool) -> tuple[Position, str | None]:
    status = pair.response.status
    bodies = found.request_bodies(strict=status >= 400) if request else found.response_bodies(status)
    (body,) = [
        each
        for each in bodies
        if pair.request.headers["Content-Type"] in (each.media_type, f"{each.media_type}; boundary=edge")
    ]
    assert body.root is not None
    return body.root, body.envelope


@pytest.mark.parametrize("envelope", [None, "result"])
def test_explain_agrees_with_the_event_and_shows_no_value(envelope: str | None) -> None:
    explainer = Explainer(loaded(a_wide_document("3.1.0"), envelope=envelope))
    assert assert_explained_exactly(explainer) > 15


@pytest.mark.parametrize("name", ["cloudflare-auditable.openapi.json"])
def test_explain_agrees_with_the_event_on_a_real_document(real_specs: Path, name: str) -> None:
    config = DocumentConfig(real_specs / name, envelope="result")
    assert assert_explained_exactly(Explainer(load_document(config)), every=10) > 80
