"""Coverage and the redactor agree field by field: what one calls kept is what the other keeps."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import OpenApiDocument, load_document
from redactor.report.coverage import (
    FIELDS_MAX,
    FieldCounter,
    Tally,
    coverage_of,
    fields_of,
    kept_fields_of,
    total,
)
from redactor.report.decisions import Outcome
from redactor.report.operation_fields import Body, DocumentFields, OperationFields, Side
from schemas.event import BodyReason
from tests.agreeing import AgreeingRedactor as Redactor
from tests.unit.redactor.documents import a_document, an_operation, body_of, loaded
from tests.unit.redactor.pairs import event_of, fail, text_of
from tests.unit.redactor.report.instances import (
    FORM,
    LINES,
    MULTIPART,
    Tokens,
    fields_in,
    instance,
    pair_for,
    values_listed,
)
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, a_marked_object, an_object

TURNS, TURNS_MAX = 4, 32
ENUM = {"type": "string", "enum": ["a", "b"], "x-auditable": True}

SCHEMAS: dict[str, Node] = {
    "scalars": an_object(kept=MARKED, dropped=TEXT, denied=DENIED, secret=MARKED | {"format": "password"}),
    "containers": an_object(
        marked=a_marked_object(kept=MARKED, dropped=TEXT),
        empty=a_marked_object(dropped=TEXT),
        unmarked=an_object(dropped=TEXT),
        denied=an_object(kept=MARKED) | {"x-sensitive": True},
    ),
    "arrays": an_object(
        on_array={"type": "array", "items": TEXT, "x-auditable": True},
        on_items={"type": "array", "items": MARKED},
        on_both={"type": "array", "items": MARKED, "x-auditable": True},
        of_objects={"type": "array", "items": an_object(kept=MARKED, dropped=TEXT), "x-auditable": True},
        of_arrays={"type": "array", "items": {"type": "array", "items": MARKED}},
        of_nothing={"type": "array", "x-auditable": True},
    ),
    "free_form": an_object(
        kept={"type": "object", "x-auditable": True},
        dropped={"type": "object"},
        closed={"type": "object", "additionalProperties": False, "x-auditable": True},
        untyped={"x-auditable": True},
    ),
    "maps": an_object(
        marked={"type": "object", "additionalProperties": MARKED, "x-auditable": True},
        unmarked={"type": "object", "additionalProperties": MARKED},
        keys={"type": "object", "additionalProperties": MARKED, "propertyNames": MARKED},
        dropped={"type": "object", "additionalProperties": TEXT, "x-auditable": True},
        patterns={"type": "object", "patternProperties": {"^x-": MARKED}, "x-auditable": True},
        mixed=an_object(kept=MARKED) | {"additionalProperties": an_object(kept=MARKED), "x-auditable": True},
        any={"type": "object", "additionalProperties": {}, "x-auditable": True},
    ),
    "types": an_object(
        several={"type": ["string", "integer"], "x-auditable": True},
        mixed={"type": ["string", "object"], "properties": {"kept": MARKED}, "x-auditable": True},
        either={
            "type": ["array", "object"],
            "properties": {"kept": MARKED},
            "items": MARKED,
            "x-auditable": True,
        },
        untyped={"properties": {"kept": MARKED, "dropped": TEXT}},
        numbers=an_object(one={"type": "integer", "x-auditable": True}, two={"type": "number"}),
    ),
    "composed": an_object(
        united={"allOf": [an_object(kept=MARKED), an_object(dropped=TEXT, kept=TEXT)]},
        denying={"allOf": [an_object(kept=MARKED), {"x-sensitive": True}]},
        one_of={"oneOf": [an_object(kept=MARKED), an_object(kept=MARKED, dropped=TEXT)]},
        any_of={"anyOf": [an_object(kept=MARKED), an_object(kept=TEXT)]},
        scalars={"oneOf": [MARKED, {"type": "integer", "x-auditable": True}]},
        negated={"type": "string", "not": {"x-auditable": True, "enum": ["z"]}},
        conditional=an_object(kept=MARKED) | {"then": {"properties": {"kept": DENIED}}},
    ),
    "tagged_unions": an_object(
        by_const={
            "oneOf": [
                an_object(kind=MARKED | {"const": "a"}, both=MARKED, first=MARKED),
                an_object(
                    kind=MARKED | {"const": "b"}, both=TEXT, second=MARKED, inner=an_object(kept=MARKED)
                ),
            ]
        },
        by_name={
            "oneOf": [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Dog"}],
            "discriminator": {"propertyName": "pet"},
        },
        by_nothing={
            "anyOf": [an_object(kind=TEXT, first=MARKED), an_object(kind=TEXT, first=MARKED, second=TEXT)]
        },
        in_array={
            "type": "array",
            "items": {"anyOf": [an_object(kind=MARKED | {"enum": ["a"]}), {"type": "string"}]},
        },
        several={"oneOf": [MARKED, an_object(kept=MARKED), {"type": "array", "items": MARKED}]},
        nullable={"oneOf": [{"type": "null"}, an_object(kept=MARKED, dropped=TEXT)]},
    ),
    "tuples": an_object(
        slots={"type": "array", "prefixItems": [TEXT, MARKED, DENIED], "items": MARKED},
    ),
    "enumerated": an_object(kept=ENUM, container=an_object(kept=MARKED) | {"enum": [{"kept": "a"}]}),
    "references": an_object(
        through={"$ref": "#/components/schemas/Named"},
        beside={"$ref": "#/components/schemas/Plain", "x-auditable": True},
        broken={"$ref": "#/components/schemas/Missing"},
    ),
    "recursive": {"$ref": "#/components/schemas/Tree"},
    "mutual": {"$ref": "#/components/schemas/Left"},
    "barren": {"$ref": "#/components/schemas/Barren"},
    "result": an_object(result=an_object(kept=MARKED, dropped=TEXT), success=MARKED) | {"x-auditable": True},
}
FORMS: dict[str, Node] = {
    "fields": an_object(
        text=MARKED,
        dropped=TEXT,
        number={"type": "integer", "x-auditable": True},
        list={"type": "array", "items": MARKED},
        object=an_object(kept=MARKED, dropped=TEXT),
        coded=an_object(kept=MARKED),
        objects={"type": "array", "items": an_object(kept=MARKED)},
        file={"type": "string", "format": "binary", "x-auditable": True},
        denied=DENIED,
    ),
    "marked_form": a_marked_object(text=MARKED) | {"additionalProperties": MARKED},
    "free_form": {"type": "object", "x-auditable": True},
}
NAMED = {
    "Named": an_object(kept=MARKED, dropped=TEXT),
    "Plain": TEXT,
    "Tree": an_object(
        kept=MARKED, dropped=TEXT, below={"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}
    ),
    "Cat": an_object(
        pet=MARKED | {"enum": ["Cat"]}, lives={"type": "integer", "x-auditable": True}, name=TEXT
    ),
    "Dog": an_object(pet=MARKED | {"enum": ["Dog"]}, name=MARKED),
    "Chain": an_object(kept=MARKED, next={"$ref": "#/components/schemas/Chain"}),
    "Left": an_object(kept=MARKED, right={"$ref": "#/components/schemas/Right"}),
    "Right": an_object(dropped=TEXT, left={"$ref": "#/components/schemas/Left"}),
    "Barren": an_object(dropped=TEXT, below={"$ref": "#/components/schemas/Barren"}),
}


def a_wide_document(version: str) -> Node:
    operations = {
        f"/{name}/{{thing}}": {
            "post": an_operation(schema, schema, operationId=name)
            | {
                "responses": {
                    "200": body_of(schema),
                    "4XX": body_of(schema),
                    "default": body_of(schema),
                }
            },
        }
        for name, schema in SCHEMAS.items()
    }
    both, one = an_object(kept=MARKED, lone=MARKED), an_object(kept=MARKED, lone=TEXT)
    operations["/twins/{one}"] = {"post": an_operation(both, both, operationId="twin-1")}
    operations["/twins/{other}"] = {"post": an_operation(one, one, operationId="twin-2")}
    operations["/denied"] = {"post": an_operation(both, both, operationId="denied", **{"x-auditable": False})}
    operations["/media"] = {
        "put": an_operation(both, operationId="media")
        | {"requestBody": {"content": {"application/*": {"schema": both}, "text/plain": {"schema": MARKED}}}}
    }
    for name, schema in FORMS.items():
        body = {"content": {each: {"schema": schema} for each in (FORM, MULTIPART, LINES)}}
        body["content"][MULTIPART]["encoding"] = {"coded": {"contentType": "application/json"}}
        operations[f"/forms/{name}"] = {"post": an_operation(TEXT, operationId=name) | {"requestBody": body}}
    return a_document(operations, version, components={"schemas": NAMED})


def assert_agreement(document: OpenApiDocument, config: RedactionConfig, every: int = 1) -> Tally:
    """Compare every field of every body with the redactor's events; return the tally of what was compared."""
    document_fields = DocumentFields(document, config)
    redactor = Redactor([document], config, on_failure=fail)
    compared = Tally()
    for operation in document_fields.operations[::every]:
        found = document_fields.of(operation)
        assert found is not None
        for body in found.bodies():
            if body.root is not None and found.reads_responses and is_written(body.media_type):
                compared = total([compared, _compare(redactor, found, body)])
    return compared


def is_written(media_type: str) -> bool:
    """Whether the tests can write a body of this media type."""
    return media_type.endswith(("json", "*", "text/plain", "form-data", "urlencoded"))


def _compare(redactor: Redactor, operation_fields: OperationFields, body: Body) -> Tally:
    assert body.root is not None
    fields = list(fields_of(body.root))
    claimed = {each.path for each in fields if each.position.decision.outcome is Outcome.KEPT}
    seen: set[str] = set()
    # The value of a property may select the alternative, so each of its listed values has a turn.
    listed = max((len(values_listed(each.position)) for each in fields), default=0)
    for turn in range(min(max(TURNS, listed), TURNS_MAX) if len(fields) < 200 else 1):
        value = instance(body.root, Tokens("token-"), turn)
        recorded = _recorded(redactor, operation_fields, body, value)
        if recorded is not None:
            for each in recorded[0] if body.media_type == LINES else recorded:
                seen |= set(fields_in(body.root, each if body.envelope is None else {body.envelope: each}))
    assert seen == claimed, (
        f"{operation_fields.operation.method} {operation_fields.operation.template} {body.side} {body.status}"
    )
    return Tally(len(fields), len(claimed))


def _recorded(
    redactor: Redactor, operation_fields: OperationFields, body: Body, value: Any
) -> list[Any] | None:
    if body.side is Side.REQUEST:
        media_type = body.media_type.replace("*", "json")
        event = event_of(redactor, pair_for(operation_fields, body=value, media_type=media_type))
        receipt, text = event.receipt.request, text_of(event.resource.request)
    else:
        status = _STATUSES.get(body.status or "") or int(body.status or 0)
        pair = pair_for(operation_fields, answer=value, media_type=body.media_type, status=status)
        event = event_of(redactor, pair)
        receipt, text = event.receipt.response, text_of(event.resource.response)
    assert receipt.reason in (None, *_EXPECTED_REASONS)
    assert event.receipt.operation is not None
    return None if text is None else [json.loads(text)]


_STATUSES = {"default": 599, "2XX": 250, "4XX": 450, "4xx": 450, "5XX": 550, "5xx": 550}
_EXPECTED_REASONS = (BodyReason.OPTED_OUT, BodyReason.MEDIA_TYPE, BodyReason.GET, BodyReason.NO_SCHEMA)


@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
@pytest.mark.parametrize("envelope", [None, "result"])
@pytest.mark.parametrize("container_marks", ["presence", "inherit"])
def test_the_redactor_keeps_exactly_the_fields_called_kept(
    version: str, envelope: str | None, container_marks: str
) -> None:
    document = loaded(a_wide_document(version), envelope=envelope, container_marks=container_marks)
    compared = assert_agreement(document, RedactionConfig())
    assert compared.fields > 200
    assert 50 < compared.kept < compared.fields - 50


def mark_at_random(document: OpenApiDocument, seed: int) -> None:
    """Mark three scalar schemas of four, and one container of four."""
    random = Random(seed)
    waiting: list[Any] = [document.root["components"]["schemas"], document.root["paths"]]
    while waiting:
        node = waiting.pop()
        kind = node.get("type") if isinstance(node, dict) else None
        chance = {"object": 0.25, "array": 0.25}.get(kind, 0.75) if isinstance(kind, str) else 0
        if random.random() < chance:
            node["x-auditable"] = True
        waiting.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())


def test_the_redactor_keeps_exactly_the_fields_called_kept_of_a_composed_document(
    real_specs: Path,
) -> None:
    document = load_document(DocumentConfig(real_specs / "cloudflare-2024.openapi.json", envelope="result"))
    mark_at_random(document, seed=7)
    compared = assert_agreement(document, RedactionConfig(), every=5)
    assert compared.kept > 1_000


@pytest.mark.parametrize("name", ["cloudflare-auditable.openapi.json"])
def test_the_redactor_keeps_exactly_the_fields_called_kept_of_a_real_document(
    real_specs: Path, name: str
) -> None:
    config = DocumentConfig(real_specs / name, envelope="result")
    compared = assert_agreement(load_document(config), RedactionConfig(), every=5)
    assert compared.fields > 2_000


def the_operation(schema: Node, **keywords: Any) -> tuple[DocumentFields, OperationFields]:
    document = a_document(
        {"/things": {"post": an_operation(schema, **keywords)}}, "3.1.0", components={"schemas": NAMED}
    )
    document_fields = DocumentFields(loaded(document), RedactionConfig())
    found = document_fields.of(document_fields.operations[0])
    assert found is not None
    return document_fields, found


def the_fields(schema: Node) -> dict[str, tuple[Outcome, int]]:
    _, found = the_operation(schema)
    (body,) = found.request_bodies()
    assert body.root is not None
    decisions = {each.path: each.position.decision for each in fields_of(body.root)}
    return {path: (decision.outcome, decision.rule) for path, decision in decisions.items()}


KEPT, PRESENCE, DROPPED = Outcome


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (MARKED, {"(body)": (KEPT, 2)}),
        (an_object(a=TEXT), {"a": (DROPPED, 1)}),
        (an_object(a=DENIED | {"x-auditable": True}), {"a": (DROPPED, 5)}),
        (an_object(a=MARKED) | {"x-auditable": False}, {"a": (DROPPED, 5)}),
        (an_object(a={"x-auditable": True}), {"a": (DROPPED, 4)}),
        (an_object(a={"type": "object", "x-auditable": True}), {"a": (KEPT, 4)}),
        (
            {"type": "object", "additionalProperties": False, "x-auditable": True},
            {"(body)": (PRESENCE, 3)},
        ),
        ({"type": "object", "additionalProperties": MARKED}, {"{key}": (DROPPED, 4)}),
        ({"type": "array", "items": TEXT, "x-auditable": True}, {"[]": (KEPT, 2)}),
        ({"type": "array", "prefixItems": [TEXT], "items": MARKED}, {"[0]": (DROPPED, 1), "[]": (KEPT, 2)}),
        (an_object(**{"a.b": MARKED, "{key}": TEXT}), {"'a.b'": (KEPT, 2), "'{key}'": (DROPPED, 1)}),
        (
            {"type": "object", "patternProperties": {"^x-": MARKED}, "x-auditable": True},
            {"{/^x-/}": (KEPT, 2)},
        ),
        (
            {"type": "array", "items": {"$ref": "#/components/schemas/Chain"}},
            {"[].kept": (KEPT, 2)},
        ),
    ],
)
def test_each_field_has_a_path_an_outcome_and_a_rule(
    schema: Node, fields: dict[str, tuple[Outcome, int]]
) -> None:
    assert the_fields(schema) == fields


def test_a_recursive_container_that_holds_nothing_kept_is_dropped() -> None:
    _, found = the_operation({"$ref": "#/components/schemas/Barren"})
    (body,) = found.request_bodies()
    assert body.root is not None
    assert body.root.decision.outcome is Outcome.DROPPED


def test_get_bodies_are_not_counted_unless_the_operator_lists_the_operation() -> None:
    document = a_document({"/things": {"get": an_operation(response=an_object(a=MARKED))}})
    for listed, tally in ((set(), Tally()), ({"op"}, Tally(1, 1))):
        config = RedactionConfig(get_responses_kept=frozenset(listed))
        (coverage,) = coverage_of(DocumentFields(loaded(document), config))
        assert coverage.side(Side.RESPONSE) == tally


@pytest.mark.parametrize(
    ("statuses", "sides"),
    [
        (["200", "404"], {"200": Side.RESPONSE, "404": Side.ERROR}),
        (["204", "default"], {"204": Side.RESPONSE, "default": Side.ERROR}),
        (["default"], {"default": Side.RESPONSE}),
        (["4XX", "default"], {"4XX": Side.ERROR, "default": Side.RESPONSE}),
        (["2xx", "5xx", "unknown"], {"2xx": Side.RESPONSE, "5xx": Side.ERROR}),
    ],
)
def test_a_response_has_the_side_of_the_statuses_it_applies_to(
    statuses: list[str], sides: dict[str, Side]
) -> None:
    _, found = the_operation(TEXT, responses={status: body_of(MARKED) for status in statuses})
    responses = [each for each in found.bodies() if each.side is not Side.REQUEST]
    assert {str(each.status): each.side for each in responses} == sides


def test_counting_is_bounded_for_schemas_that_all_refer_to_each_other() -> None:
    # Each of 40 schemas contains all others, so there are more paths than can ever be walked.
    names = [f"S{number}" for number in range(40)]
    parts = {name: {"$ref": f"#/components/schemas/{name}"} for name in names}
    schemas = {name: an_object(field=TEXT, **parts) for name in names}
    document = a_document({"/things": {"post": an_operation(parts["S0"])}}, components={"schemas": schemas})
    document_fields = DocumentFields(loaded(document), RedactionConfig())
    (coverage,) = coverage_of(document_fields)
    assert 40 <= coverage.side(Side.REQUEST).fields <= FIELDS_MAX
    (body,) = [each.body for each in coverage.bodies if each.body.root is not None]
    assert body.root is not None
    assert sum(1 for _ in fields_of(body.root)) <= FIELDS_MAX


def test_counting_agrees_with_listing() -> None:
    document_fields = DocumentFields(loaded(a_wide_document("3.1.0")), RedactionConfig())
    counter = FieldCounter()
    for operation in document_fields.operations:
        found = document_fields.of(operation)
        assert found is not None
        for body in found.bodies():
            if body.root is not None:
                listed = list(fields_of(body.root))
                kept = sum(each.position.decision.outcome is Outcome.KEPT for each in listed)
                assert counter.count(body.root) == Tally(len(listed), kept)
                assert sum(1 for _ in kept_fields_of(body.root)) == kept
