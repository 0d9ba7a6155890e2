"""What an attack on the redactor found, each as it was reported."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from redactor.config import DocumentConfig, RedactionConfig
from redactor.document import parse_document
from redactor.encodings import decode_content
from redactor.redact import Redactor
from redactor.wellformed import Unusable, read_json
from schemas.capture import Capture, CapturedRequest, CapturedResponse
from schemas.event import BodyReason, UnmatchedReason, decode_event
from schemas.identity import new_id

EVENT_ID = new_id(1_769_192_714_749)
M = {"type": "string", "x-auditable": True}
S = {"type": "string"}
D = {"type": "string", "x-sensitive": True}
Node = dict[str, Any]


def an_object(**properties: Any) -> Node:
    return {"type": "object", "properties": properties}


def document(
    schema: Node, schemas: Mapping[str, Any] | None = None, version: str = "3.1.0", **more: Any
) -> Node:
    answer = {"content": {"application/json": {"schema": schema}}}
    operation = {"operationId": "x", "responses": {"200": answer}}
    paths = {"/x": {"post": operation}}
    return {
        "openapi": version,
        "info": {},
        "paths": paths,
        "components": {"schemas": dict(schemas or {})},
        **more,
    }


def redactor(*documents: Node | bytes) -> Redactor:
    config = RedactionConfig()
    texts = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in documents]
    return Redactor([parse_document(DocumentConfig(Path("d.json")), text) for text in texts], config)


def event(
    one: Redactor, body: Any, url: str = "/x", headers: Mapping[str, Any] | None = None, method: str = "POST"
) -> Any:
    capture = Capture(
        request=CapturedRequest(method=method, url=url, headers=dict(headers or {})),
        response=CapturedResponse(
            status=200, headers={"content-type": "application/json"}, body=json.dumps(body)
        ),
    )
    value = one.redact(capture, EVENT_ID)
    assert value is not None
    return decode_event(value)


def kept(
    schema: Node | bytes, body: Any, schemas: Mapping[str, Any] | None = None, version: str = "3.1.0"
) -> Any:
    found = redactor(schema if isinstance(schema, bytes) else document(schema, schemas, version))
    raw = event(found, body).resource.response
    return json.loads(bytes(raw)) if raw else None


OVERLAPPING = {"type": "object", "x-auditable": True}


def test_what_one_plan_removes_shifts_no_slot_of_another() -> None:
    items, slots = {"type": "array", "items": M}, {"type": "array", "prefixItems": [M, S], "items": S}
    schema = {**OVERLAPPING, "patternProperties": {"^a": items, "a$": slots}}
    assert kept(schema, {"aa": ["k", "SECRET"]}) == {"aa": ["k"]}
    assert "SECRET" not in json.dumps(kept(schema, {"aa": [{}, "SECRET"]}))


@pytest.mark.parametrize("size", [1, 70_000])
def test_the_size_of_what_another_plan_drops_decides_nothing(size: int) -> None:
    schema = {
        **OVERLAPPING,
        "patternProperties": {"^a": {"type": "object", "x-auditable": True}, "a$": an_object(p=M)},
    }
    assert kept(schema, {"aa": {"p": "k", "q": "s" * size}}) == {"aa": {"p": "k"}}


@pytest.mark.parametrize(
    ("types", "branches", "value"),
    [
        (["string", "object"], [{"type": "object"}, {"type": "string"}], {"any": "SECRET"}),
        (["string", "object"], [{"type": "object"}, {"type": "string"}], "SECRET"),
        (["array", "string"], [{"type": "array", "items": S}, {"type": "string"}], ["SECRET"]),
    ],
)
def test_a_mark_on_a_mixture_of_types_grants_nothing_by_way_of_an_alternative(
    types: list[str], branches: list[Node], value: Any
) -> None:
    schema = an_object(v={"type": types, "x-auditable": True, "oneOf": branches})
    assert "SECRET" not in json.dumps(kept(schema, {"v": value}))


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [an_object(secret=M), {"type": "array", "items": M, "properties": {"secret": D}}]},
        {
            "oneOf": [
                {"type": "object", "x-auditable": True, "additionalProperties": M},
                {"type": "string", "x-auditable": True, "properties": {"secret": D}},
            ]
        },
    ],
)
def test_a_denial_beside_the_wrong_type_is_heard(schema: Node) -> None:
    assert "SECRET" not in json.dumps(kept(schema, {"secret": "SECRET"}))


def test_a_denial_on_elements_beside_the_wrong_type_is_heard() -> None:
    schema = {"anyOf": [{"items": M}, {"type": "object", "prefixItems": [{"x-sensitive": True}]}]}
    assert kept(schema, ["SECRET"]) is None


def test_a_denial_beside_types_that_contradict_each_other_is_heard() -> None:
    contradictory = {"allOf": [{"properties": {"b": {"x-sensitive": True}}}, {"type": "string"}]}
    assert kept({"anyOf": [an_object(b=M), contradictory]}, {"b": "SECRET"}) is None


def test_a_map_of_an_alternative_of_another_type_grants_nothing() -> None:
    alternatives = [{"type": "object"}, {"type": "string", "patternProperties": {"a": M}}]
    found = kept(an_object(v={"x-auditable": True, "anyOf": alternatives}), {"v": {"a": "SECRET"}})
    assert "SECRET" not in json.dumps(found)


@pytest.mark.parametrize("value", [{"k": "SECRET"}, {}])
def test_a_container_shows_for_no_child_that_another_plan_drops(value: Node) -> None:
    marked = {**an_object(z=M), "x-auditable": True}
    schema = {**OVERLAPPING, "patternProperties": {"^a": an_object(k=M), "a$": marked}}
    assert kept(schema, {"aa": value}) == {}


def test_several_maps_of_a_recursive_schema_walk_a_value_once() -> None:
    reference = {"$ref": "#/components/schemas/R"}
    recursive = {
        **OVERLAPPING,
        "properties": {"z": M},
        "patternProperties": {"^a": reference, "a$": reference},
    }
    value: Node = {"z": "k"}
    for _ in range(60):
        value = {"aa": value}
    assert kept(reference, value, {"R": recursive}) == value


def test_a_lone_surrogate_is_found_whatever_escape_follows_it() -> None:
    with pytest.raises(Unusable) as caught:
        read_json(b'{"a": "\\ud800", "b": "\\n"}', 64)
    assert caught.value.reason is BodyReason.MALFORMED


def test_a_schema_that_is_named_twice_is_not_trusted() -> None:
    schemas = {"A": an_object(a=D), "B": an_object(a=M)}
    text = json.dumps(document({"$ref": "#/components/schemas/A"}, schemas)).replace('"B"', '"A"').encode()
    assert kept(text, {"a": "SECRET"}) is None


def test_a_denial_in_a_schema_that_a_discriminator_names_by_itself_is_heard() -> None:
    pet = {**an_object(t=M, name=M), "discriminator": {"propertyName": "t"}}
    cat = {"allOf": [{"$ref": "#/components/schemas/Pet"}, {"properties": {"name": {"x-sensitive": True}}}]}
    found = kept(
        {"$ref": "#/components/schemas/Pet"}, {"t": "Cat", "name": "SECRET"}, {"Pet": pet, "Cat": cat}
    )
    assert found == {"t": "Cat"}


def test_a_denial_on_the_only_and_null_alternative_is_heard() -> None:
    null = {"oneOf": [{"type": "null", "x-sensitive": True}]}
    assert kept(an_object(a={**M, "not": null}), {"a": "SECRET"}) is None
    beside = {"$ref": "#/components/schemas/A", **null}
    assert kept(beside, {"a": "SECRET"}, {"A": an_object(a=M)}, "3.0.0") is None


def test_a_mark_on_a_tuple_of_scalars_and_objects_covers_no_scalar() -> None:
    mixed = {"type": "array", "x-auditable": True, "prefixItems": [S, an_object(a=S)]}
    assert "SECRET" not in json.dumps(kept(an_object(v=mixed), {"v": ["SECRET", {"a": "S2"}]}))


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("/x", {"X_HTTP_METHOD_OVERRIDE": "DELETE"}),
        ("/x", {"x-http-method-override ": "DELETE"}),
        ("/x?.method=DELETE", {}),
        ("/x?+_method=DELETE", {}),
        ("/x?_method%00=DELETE", {}),
        ("/x?_method[]=DELETE", {}),
        ("/x?a=1;_method=DELETE", {}),
        ("/x?$method=DELETE", {}),
        ("/x?x-http-method-override=DELETE", {}),
        ("/x?%5Fmethod=DELETE", {}),
    ],
)
def test_a_method_override_is_seen_in_every_spelling(url: str, headers: dict[str, str]) -> None:
    found = event(redactor(document(an_object(p=M))), {"p": "SECRET"}, url, headers)
    assert found.receipt.unmatched is UnmatchedReason.METHOD_OVERRIDE


@pytest.mark.parametrize("url", ["/x?method=card", "/x?payment_method=card", "/x?_methods=1"])
def test_a_parameter_that_is_merely_called_method_is_none(url: str) -> None:
    assert event(redactor(document(an_object(p=M))), {"p": "k"}, url).receipt.unmatched is None


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("/x", "a.com."),
        ("/x", ["a.com", "a.com"]),
        ("/x", "a.com, a.com"),
        ("/x", "a.com:999999"),
        ("/x", "a%2ecom"),
        ("https://a.com\\@b.com/x", "a.com"),
        ("http:///x", "a.com"),
    ],
)
def test_a_host_that_cannot_be_told_is_not_served_by_the_document_for_all_others(
    url: str, host: str | Sequence[str]
) -> None:
    bound = document(an_object(p=S), servers=[{"url": "https://a.com"}])
    both = redactor(bound, document(an_object(p=M)))
    raw = event(both, {"p": "SECRET"}, url, {"host": host}).resource.response
    assert not raw or b"SECRET" not in bytes(raw)


def test_operations_that_tie_compare_long_queries_in_linear_time() -> None:
    parameter = {"name": "q", "in": "query", "x-auditable": True, "schema": {"type": "array", "items": M}}
    tied = {path: {"get": {"operationId": path, "parameters": [parameter]}} for path in ("/a/{x}", "/{y}/b")}
    one = redactor({**document(an_object()), "paths": tied})
    found = event(one, {}, "/a/b?" + "&".join(f"q={number}" for number in range(9_000)), method="GET")
    assert found.receipt.operation == "/a/{x}|/{y}/b"


def test_gzip_of_very_many_members_is_given_up() -> None:
    with pytest.raises(Unusable) as caught:
        decode_content(gzip.compress(b"", 1) * 40_000, ["gzip"], 1_048_576)
    assert caught.value.reason is BodyReason.ENCODING
    few = b"".join(gzip.compress(part) for part in (b"a", b"", b"b"))
    assert decode_content(few, ["gzip"], 1_048_576) == b"ab"


@pytest.mark.parametrize("other", ["SECRET", "SEC,RET", "%FF", "S;T"])
def test_a_value_that_does_not_fit_decides_nothing_about_its_neighbours(other: str) -> None:
    numbers = {"type": "array", "items": {"type": "integer", "x-auditable": True}}
    parameter = {"name": "q", "in": "query", "x-auditable": True, "schema": numbers}
    shape = {"type": "object", "properties": {"a": {"type": "integer", "x-auditable": True}, "z": S}}
    exploded = {"name": "o", "in": "query", "explode": False, "schema": shape}
    described = document(an_object())
    described["paths"]["/x"]["post"]["parameters"] = [parameter, exploded]
    one = redactor(described)
    assert event(one, {}, f"/x?q=1&q={other}").raw.uri == "/x?q=1"
    assert event(one, {}, "/x?o=a,1,z,2,z,3").raw.uri == event(one, {}, "/x?o=a,1").raw.uri == "/x?o=a,1"
