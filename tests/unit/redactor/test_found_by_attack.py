"""What an attack on the redactor found, each as it was reported."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cramjam
import msgspec
import pytest
import yaml

from redactor.config import DocumentConfig, RedactionConfig
from redactor.decode.content_encodings import decode_content
from redactor.decode.json import Unusable, read_json
from redactor.openapi.document import Finding, parse_document
from redactor.openapi.operations import operations_of
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.event import BodyReason, UnmatchedReason, decode_event
from schemas.identity import new_id
from tests.agreeing import AgreeingRedactor as Redactor

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
def test_a_denial_beside_another_type_counts(schema: Node) -> None:
    assert "SECRET" not in json.dumps(kept(schema, {"secret": "SECRET"}))


def test_a_denial_on_elements_beside_another_type_counts() -> None:
    schema = {"anyOf": [{"items": M}, {"type": "object", "prefixItems": [{"x-sensitive": True}]}]}
    assert kept(schema, ["SECRET"]) is None


def test_a_denial_beside_types_that_contradict_each_other_counts() -> None:
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


def test_a_denial_in_a_schema_that_a_discriminator_names_implicitly_counts() -> None:
    pet = {**an_object(t=M, name=M), "discriminator": {"propertyName": "t"}}
    cat = {"allOf": [{"$ref": "#/components/schemas/Pet"}, {"properties": {"name": {"x-sensitive": True}}}]}
    found = kept(
        {"$ref": "#/components/schemas/Pet"}, {"t": "Cat", "name": "SECRET"}, {"Pet": pet, "Cat": cat}
    )
    assert found == {"t": "Cat"}


def test_a_denial_on_the_only_and_null_alternative_counts() -> None:
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
def test_an_unreadable_host_is_not_served_by_the_document_for_any_host(
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


def test_gzip_with_very_many_members_is_refused() -> None:
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


def described(parameters: Any, item: Mapping[str, Any] | None = None, **more: Any) -> Node:
    operation = {"operationId": "x", "parameters": parameters, "responses": {"200": {}}}
    return {**document(S), "paths": {"/x": {"get": operation, **(item or {})}}, **more}


def in_query(name: str, schema: Any, **more: Any) -> Node:
    return {"name": name, "in": "query", "schema": schema, **more}


def recorded(described: Node, query: str) -> str | None:
    uri = event(redactor(described), {}, f"/x?{query}", method="GET").raw.uri
    return None if uri is None else str(uri)


@pytest.mark.parametrize("beside", [D, S, {"type": "string", "format": "password"}])
def test_parameters_beside_a_path_items_reference_count(beside: Node) -> None:
    target = described([], {"parameters": [in_query("q", M)]})["paths"]["/x"]
    items = {"components": {"pathItems": {"P": target}}}
    reference = {"$ref": "#/components/pathItems/P"}
    assert recorded({**document(S), "paths": {"/x": reference}, **items}, "q=k") == "/x?q=k"
    item = {**reference, "parameters": [in_query("q", beside)]}
    assert recorded({**document(S), "paths": {"/x": item}, **items}, "q=SECRET") == "/x"


def test_operations_beside_a_path_items_reference_are_not_trusted_with_less() -> None:
    item = {"$ref": "#/components/pathItems/P", "get": {"x-auditable": False}}
    target = described([in_query("q", M)])["paths"]["/x"]
    found = {**document(S), "paths": {"/x": item}, "components": {"pathItems": {"P": target}}}
    assert recorded(found, "q=SECRET") == "/x"


@pytest.mark.parametrize("schema", [an_object(token=D), an_object(token=S), {"type": "object"}])
def test_what_a_deep_object_may_claim_is_kept_for_no_other_parameter(schema: Node) -> None:
    deep = in_query("f", schema, style="deepObject", explode=True)
    assert recorded(described([deep, in_query("f[token]", M)]), "f[token]=SECRET") == "/x"
    assert recorded(described([in_query("f[token]", M), deep]), "f[token]=SECRET") == "/x"


@pytest.mark.parametrize("other", [S, D])
def test_of_a_parameter_declared_twice_the_weaker_wins(other: Node) -> None:
    for schemas in ((other, M), (M, other)):
        assert recorded(described([in_query("q", each) for each in schemas]), "q=SECRET") == "/x"
    assert recorded(described([in_query("q", M), in_query("q", M)]), "q=k") == "/x?q=k"


def test_a_parameter_that_cannot_be_read_may_have_been_any() -> None:
    broken = {"$ref": "#/components/parameters/Gone"}
    assert recorded(described([broken], {"parameters": [in_query("q", M)]}), "q=SECRET") == "/x"


@pytest.mark.parametrize("rest", [b"x", b"garbage", b"\x00", b"\x03"])
def test_bytes_behind_a_brotli_stream_are_an_encoding_not_read(rest: bytes) -> None:
    for payload in (b"", b"{}", b'{"a": "' + b"k" * 70_000 + b'"}'):
        content = bytes(cramjam.brotli.compress(payload))
        assert decode_content(content, ["br"], 1_048_576) == payload
        with pytest.raises(Unusable) as caught:
            decode_content(content + rest, ["br"], 1_048_576)
        assert caught.value.reason is BodyReason.ENCODING


@pytest.mark.parametrize(
    "denying",
    [
        {"patternProperties": {"^s": {"x-sensitive": True}}},
        {"additionalProperties": {"x-sensitive": True}},
        {"unevaluatedProperties": {"x-sensitive": True}},
        {"allOf": [{"patternProperties": {"^s": {"x-sensitive": True}}}]},
    ],
)
def test_a_denial_in_a_map_beside_another_type_counts(denying: Node) -> None:
    assert kept({"oneOf": [an_object(secret=M), {"type": "string", **denying}]}, {"secret": "SECRET"}) is None


PET = {**an_object(t=M, name=M), "discriminator": {"propertyName": "t"}}
PET_REFERENCE = {"$ref": "#/components/schemas/Pet"}
DENIED_NAME = {"properties": {"name": {"x-sensitive": True}}}


@pytest.mark.parametrize(
    "others",
    [
        {"Alias": PET_REFERENCE, "Cat": {"allOf": [{"$ref": "#/components/schemas/Alias"}, DENIED_NAME]}},
        {"Cat": {**PET_REFERENCE, **DENIED_NAME}},
        {"Cat": {"allOf": [{"allOf": [PET_REFERENCE]}, DENIED_NAME]}},
        {"Cat": {"allOf": [{"description": "d", **PET_REFERENCE}, DENIED_NAME]}},
        {
            "Base": {**PET_REFERENCE, "title": "B"},
            "Cat": {"$ref": "#/components/schemas/Base", **DENIED_NAME},
        },
        {"Cat": {"anyOf": [PET_REFERENCE, {"type": "string"}], **DENIED_NAME}},
        {
            "Owner": an_object(pet=PET_REFERENCE),
            "Cat": {"allOf": [{"$ref": "#/components/schemas/Owner/properties/pet"}, DENIED_NAME]},
        },
    ],
)
def test_a_denial_in_any_kind_of_extension_counts(others: Node) -> None:
    found = kept(PET_REFERENCE, {"t": "Cat", "name": "SECRET"}, {"Pet": PET, **others})
    assert found == {"t": "Cat"}


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        (r"^\s*secret", "\u00a0secret"),
        (r"^\s*secret", "\ufeffsecret"),
        (r"^\s*secret", "\u000bsecret"),
        (r"^[\s_]secret", "\u2003secret"),
        (r"^\Ssecret", "Xsecret"),
        (r"^[\S]secret", "Xsecret"),
        (r"\zsecret", "zsecret"),
        (r"\Asecret", "Asecret"),
        (r"\Qsecret", "Qsecret"),
        (r"\asecret", "asecret"),
        (r"\Csecret", "Csecret"),
        (r"\pLsecret", "pLsecret"),
        (r"\p{L}secret", "p{L}secret"),
        ("(?i)SECRET", "secret"),
        ("^[[:alpha:]]", ":]secret"),
        ("^[^]secret", "xsecret"),
        ("^[]secret", "]secret"),
        ("^..$", "\U0001f600"),
        (r"^[^a]{2}$", "\U0001f600"),
        (r"^[^a]$", "\U0001f600"),
        ("\\u0073ecret", "secret"),
        ("^\\x73ecret$", "secret"),
        (r"^(?=s)", "secret"),
        (r"\cJ", "\n"),
        (r"^s\0", "s\u0000"),
        (r"^s\-e", "s-e"),
        (r"^[\w-]+$", "s-e"),
    ],
)
def test_a_denying_pattern_means_what_ecma_262_says(pattern: str, key: str) -> None:
    schema = {
        **OVERLAPPING,
        "patternProperties": {pattern: {"x-sensitive": True}},
        "additionalProperties": M,
    }
    assert kept(schema, {key: "SECRET"}) == {}


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        (r"^\S$", "\u00a0"),
        (".", "\u2028"),
        (".", "\r"),
        ("^a$", "a\n"),
        ("^..$", "\U0001f600"),
        ("^.$", "\U0001f600"),
        (r"^\w$", "\u00e9"),
        (r"^\d$", "\u0665"),
    ],
)
def test_a_granting_pattern_grants_no_more_than_ecma_262_says(pattern: str, key: str) -> None:
    schema = {**OVERLAPPING, "patternProperties": {pattern: M}, "additionalProperties": S}
    assert kept(schema, {key: "SECRET"}) == {}


@pytest.mark.parametrize(
    "pattern", [r"^\S+$", "^.*$", "^[a-z]{2,8}$", r"^[\w.:-]+$", "^(?:ke|x)y$", "^k.y", "\\u006b"]
)
def test_usual_patterns_grant(pattern: str) -> None:
    schema = {**OVERLAPPING, "patternProperties": {pattern: M}}
    assert kept(schema, {"key": "k"}) == {"key": "k"}


@pytest.mark.parametrize("coding", [None, "gzip"])
@pytest.mark.parametrize(
    "text",
    ['{"_method": "DELETE"}', '{"a": {}, "\\u005fmethod": 1}', '{"_METHOD": "PUT"}', '{"_method": "X"'],
)
def test_a_method_override_in_a_json_body_is_seen(text: str, coding: str | None) -> None:
    body = text.encode() if coding is None else gzip.compress(text.encode())
    headers: Headers = {"content-type": "application/json"}
    headers |= {"content-encoding": coding} if coding else {}
    capture = Capture(
        CapturedRequest("POST", "/x", headers, body_base64=base64.b64encode(body).decode()),
        CapturedResponse(200, {"content-type": "application/json"}, '{"p": "SECRET"}'),
    )
    value = redactor(document(an_object(p=M))).redact(capture, EVENT_ID)
    assert value is not None
    assert decode_event(value).receipt.unmatched is UnmatchedReason.METHOD_OVERRIDE


@pytest.mark.parametrize(
    "text", ['{"a": {"_method": "DELETE"}}', '["_method"]', '{"method": "PUT"}', '"_method"']
)
def test_a_json_body_that_names_a_method_elsewhere_is_none(text: str) -> None:
    capture = Capture(
        CapturedRequest("POST", "/x", {"content-type": "application/json"}, text),
        CapturedResponse(200, {"content-type": "application/json"}, '{"p": "k"}'),
    )
    value = redactor(document(an_object(p=M))).redact(capture, EVENT_ID)
    assert value is not None
    assert decode_event(value).receipt.unmatched is None


@pytest.mark.parametrize("name", ["_HttpMethod", "_http_method", "X-HTTP-Method"])
def test_a_method_override_by_a_longer_name_is_seen(name: str) -> None:
    found = event(redactor(document(an_object(p=M))), {"p": "SECRET"}, f"/x?{name}=DELETE")
    assert found.receipt.unmatched is UnmatchedReason.METHOD_OVERRIDE


@pytest.mark.parametrize("media_type", ["application/json", "application/x-www-form-urlencoded"])
def test_a_requests_body_is_decoded_once(monkeypatch: pytest.MonkeyPatch, media_type: str) -> None:
    decoded = []

    def counted(content: bytes, codings: list[str], bytes_max: int) -> bytes:
        decoded.append(codings)
        return decode_content(content, codings, bytes_max)

    monkeypatch.setattr("redactor.pipeline.bodies.decode_content", counted)
    headers: Headers = {"content-type": media_type, "content-encoding": "gzip"}
    body = base64.b64encode(gzip.compress(b'{"a": "\\u005f_method"}')).decode()
    one = document(S)
    one["paths"]["/x"]["post"]["requestBody"] = {"content": {media_type: {"schema": an_object(a=M)}}}
    pair = Capture(CapturedRequest("POST", "/x", headers, body_base64=body), CapturedResponse(200))
    super(Redactor, redactor(one)).redact(pair, EVENT_ID)
    assert decoded == [["gzip"]]


@pytest.mark.parametrize("keyword", ["unevaluatedItems", "additionalItems"])
def test_a_denial_on_further_elements_counts_beside_items(keyword: str) -> None:
    elements = {"type": "array", "items": M}
    assert kept({**elements, keyword: D}, ["SECRET"]) is None
    assert kept({**elements, keyword: False}, ["k"]) == kept({**elements, keyword: S}, ["k"]) == ["k"]


@pytest.mark.parametrize("server", ["/{tenant}/v1", "https://a.com/{tenant}/v1"])
def test_a_base_path_of_varying_length_is_never_recorded(server: str) -> None:
    described = document(an_object(p=M), servers=[{"url": server}])
    described["paths"]["/x/{id}"] = described["paths"].pop("/x")
    one = redactor(described)
    for tenant in ("a", "SECRET", "b", "S"):
        assert event(one, {"p": "k"}, f"/{tenant}/v1/x/7").raw.uri == "/x/7"


def test_schemas_that_all_refer_to_each_other_are_typed_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    make = msgspec.defstruct

    def counted(*arguments: Any, **keywords: Any) -> Any:
        made.append(1)
        assert len(made) < 10_000
        return make(*arguments, **keywords)

    monkeypatch.setattr(msgspec, "defstruct", counted)
    names = [f"S{number}" for number in range(12)]
    others = {name: {"$ref": f"#/components/schemas/{name}"} for name in names}
    schemas = {name: an_object(v=M, **others) for name in names}
    assert kept(others["S0"], {"v": "k", "S1": {"S2": {"v": "l"}}}, schemas) == {
        "v": "k",
        "S1": {"S2": {"v": "l"}},
    }
    assert len(made) > 10


def memory_of(one: Redactor) -> int:
    """Return what a redactor's fast path remembers: the number of objects and characters, of whatever kind."""
    seen: set[int] = set()
    waiting: list[Any] = [one._pipeline]
    size = 0
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        size += len(found) if isinstance(found, str | bytes) else 1
        if isinstance(found, dict):
            waiting += [*found.keys(), *found.values()]
        elif isinstance(found, list | tuple | set | frozenset):
            waiting += found
        elif type(found).__module__.startswith("redactor."):
            slots = [slot for kind in type(found).__mro__ for slot in getattr(kind, "__slots__", ())]
            waiting += [getattr(found, slot, None) for slot in slots]
            waiting += vars(found).values() if hasattr(found, "__dict__") else []
    return size


def test_content_types_of_operations_that_tie_are_not_remembered_without_end() -> None:
    schema = an_object(p=M)
    operation = {"responses": {"200": {"content": {"application/*+json": {"schema": schema}}}}}
    paths = {path: {"post": operation} for path in ("/a/{x}/c", "/{y}/b/c")}
    one = redactor({**document(schema), "paths": paths})

    def send(number: int) -> None:
        headers: Headers = {"content-type": f"application/x{number}+json; a={number}"}
        pair = Capture(CapturedRequest("POST", "/a/b/c"), CapturedResponse(200, headers, '{"p": "k"}'))
        value = one.redact(pair, EVENT_ID)
        assert value is not None
        assert decode_event(value).receipt.response.kept == 1

    for number in range(20):
        send(number)
    before = memory_of(one)
    for number in range(20, 120):
        send(number)
    assert memory_of(one) == before


def test_spaces_around_a_header_are_not_remembered_with_it() -> None:
    one = redactor(document(an_object(p=M)))

    def send(number: int) -> None:
        headers: Headers = {"x-actor-id": f"a{number}" + " " * 10_000, "x-account-id": "b"}
        value = one.redact(Capture(CapturedRequest("POST", "/x"), CapturedResponse(200, headers)), EVENT_ID)
        assert value is not None
        assert decode_event(value).actor.id == f"a{number}"

    send(0)
    before = memory_of(one)
    for number in range(1, 20):
        send(number)
    assert memory_of(one) < before + 10_000


def test_counts_of_scalars_are_not_remembered() -> None:
    one = redactor(document({"type": "array", "items": M}))
    event(one, ["k"])
    before = memory_of(one)
    for count in range(2, 300):
        event(one, ["k"] * count)
    assert memory_of(one) == before


OTHER_FILE = {"$ref": "other.yaml#/components/parameters/id"}


def of_path(**keywords: Any) -> Node:
    return {"name": "id", "in": "path", "required": True, **keywords}


@pytest.mark.parametrize(
    "parameter",
    [
        of_path(content={"application/json": {"schema": D}}),
        of_path(content={"application/json": {"schema": S, "x-sensitive": True}}),
        of_path(content={"application/json": {"schema": an_object(token=D)}}),
        of_path(schema=an_object(token=D)),
        of_path(schema={"type": "array", "items": D}),
        of_path(schema={"properties": {"token": D}}),
        of_path(schema=D, **{"in": "Path"}),
        of_path(schema=D, name="Id"),
        OTHER_FILE,
        7,
    ],
)
def test_a_value_kept_by_its_name_is_denied_by_whatever_may_describe_it(parameter: Any) -> None:
    operation = {"parameters": [parameter], "responses": {}}
    found = event(redactor({**document(S), "paths": {"/x/{id}": {"post": operation}}}), {}, "/x/SECRET")
    assert found.raw.uri == "/x/{id}"
    assert found.resource.id is None


@pytest.mark.parametrize("schema", [S, {"type": "integer"}, {}])
def test_a_value_kept_by_its_name_is_kept_where_nothing_denies_it(schema: Node) -> None:
    operation = {"parameters": [of_path(schema=schema)], "responses": {}}
    found = event(redactor({**document(S), "paths": {"/x/{id}": {"post": operation}}}), {}, "/x/7")
    assert found.raw.uri == "/x/7"


@pytest.mark.parametrize("keywords", [{"x-sensitive": True}, {"x-auditable": False}])
def test_a_denial_on_the_document_or_on_all_paths_counts(keywords: Node) -> None:
    whole = document(an_object(p=M))
    for denied in ({**whole, **keywords}, {**whole, "paths": {**whole["paths"], **keywords}}):
        assert event(redactor(denied), {"p": "SECRET"}).resource.response == msgspec.UNSET


def named_twice(first: Node, last: Node, *, as_yaml: bool, **others: Node) -> bytes:
    """Return a document whose path `/x` is named twice, with other paths beside it."""
    paths = {"/FIRST": first, "/x": last, **{f"/{name}": item for name, item in others.items()}}
    whole = {**document(S), "paths": paths}
    text = yaml.safe_dump(whole, sort_keys=False) if as_yaml else json.dumps(whole)
    return text.replace("/FIRST", "/x").encode()


@pytest.mark.parametrize("as_yaml", [False, True])
class TestAPathThatIsNamedTwice:
    """Nobody knows which of the two is meant: nothing of either is kept, and everything of the other paths."""

    item: Node = document(an_object(p=M))["paths"]["/x"]

    def read(self, text: bytes, *, as_yaml: bool) -> Redactor:
        config = DocumentConfig(Path("d.yaml" if as_yaml else "d.json"))
        return Redactor([parse_document(config, text)], RedactionConfig())

    @pytest.mark.parametrize(
        "others",
        [
            ({"post": {"responses": {}, "x-auditable": False}}, item),
            (item, item),
            (item, {"get": {"responses": {}}}),
        ],
    )
    def test_is_not_trusted_and_others_are(self, others: tuple[Node, Node], as_yaml: bool) -> None:
        one = self.read(named_twice(*others, as_yaml=as_yaml, y=self.item), as_yaml=as_yaml)
        assert event(one, {"p": "SECRET"}).resource.response == msgspec.UNSET
        assert event(one, {"p": "k"}, "/y").resource.response == msgspec.Raw(b'{"p":"k"}')

    def test_is_matched_with_the_methods_of_both(self, as_yaml: bool) -> None:
        """Else a less literal template would speak for a request that the first one may be meant for."""
        operation = {**self.item["post"], "operationId": "less-literal"}
        text = named_twice(
            self.item, {"put": self.item["post"]}, as_yaml=as_yaml, **{"{any}": {"post": operation}}
        )
        one = self.read(text, as_yaml=as_yaml)
        assert event(one, {"p": "SECRET"}).resource.response == msgspec.UNSET
        assert event(one, {"p": "SECRET"}, method="PUT").resource.response == msgspec.UNSET
        assert event(one, {"p": "k"}, "/z").resource.response == msgspec.Raw(b'{"p":"k"}')

    def test_keeps_no_value_of_its_path(self, as_yaml: bool) -> None:
        given = {**self.item["post"], "parameters": [{"name": "id", "in": "path", "schema": M}]}
        text = named_twice({"post": given}, {"post": given}, as_yaml=as_yaml).replace(b"/x", b"/x/{id}")
        uri = event(self.read(text, as_yaml=as_yaml), {}, "/x/SECRET").raw.uri
        assert "SECRET" not in uri

    @pytest.mark.parametrize("name", ["x-owner", "x-sensitive"])
    def test_any_other_key_of_paths_that_is_repeated_denies_all_paths(self, name: str, as_yaml: bool) -> None:
        text = named_twice(self.item, self.item, as_yaml=as_yaml, y=self.item).replace(b"/x", name.encode())
        one = self.read(text, as_yaml=as_yaml)
        assert event(one, {"p": "SECRET"}, "/y").resource.response == msgspec.UNSET


def test_lint_points_at_a_path_that_is_named_twice() -> None:
    item = TestAPathThatIsNamedTwice.item
    parsed = parse_document(DocumentConfig(Path("d.json")), named_twice(item, item, as_yaml=False, y=item))
    operations = operations_of(parsed)
    assert Finding("/paths/~1x", "duplicate_keys") in set(parsed.findings)
    assert [(each.template, each.denied, each.path_denied) for each in operations] == [
        ("/x", True, True),
        ("/x", True, True),
        ("/y", False, False),
    ]


TO_OTHER_FILE = {"$ref": "other.yaml#/x"}


@pytest.mark.parametrize(
    "item", [TO_OTHER_FILE, {**TO_OTHER_FILE, "post": {}}, None, [], {"post": None}, {"post": "x"}]
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_less_literal_path_speaks_for_none_that_cannot_be_read(item: Any, method: str) -> None:
    whole = document(an_object(p=M))
    operation = whole["paths"]["/x"]["post"]
    less_literal = {"post": operation, "put": {**operation, "operationId": "y"}}
    one = redactor({**whole, "paths": {"/x": item, "/{any}": less_literal}})
    is_read = isinstance(item, dict) and "$ref" not in item and method == "PUT"
    found = event(one, {"p": "SECRET"}, method=method)
    assert found.resource.response == (msgspec.Raw(b'{"p":"SECRET"}') if is_read else msgspec.UNSET)
    assert event(one, {"p": "k"}, "/y", method=method).resource.response == msgspec.Raw(b'{"p":"k"}')


def test_a_less_literal_path_speaks_for_no_operation_beside_a_reference() -> None:
    whole = document(an_object(p=M))
    operation = whole["paths"]["/x"]["post"]
    item = {"$ref": "#/components/pathItems/i", "post": {"responses": {}}}
    components: Node = {"pathItems": {"i": {"put": {"responses": {}}}}}
    one = redactor({**whole, "components": components, "paths": {"/x": item, "/{any}": {"post": operation}}})
    assert event(one, {"p": "SECRET"}).resource.response == msgspec.UNSET


@pytest.mark.parametrize("as_yaml", [False, True])
def test_a_less_literal_path_speaks_for_none_that_refers_to_one_named_twice(as_yaml: bool) -> None:
    item = TestAPathThatIsNamedTwice.item
    less_literal = {"post": {**item["post"], "operationId": "less-literal"}}
    others: dict[str, Node] = {"z": {"$ref": "#/paths/~1x"}, "{any}": less_literal}
    text = named_twice({"post": {"responses": {}}}, item, as_yaml=as_yaml, **others)
    config = DocumentConfig(Path("d.yaml" if as_yaml else "d.json"))
    one = Redactor([parse_document(config, text)], RedactionConfig())
    assert event(one, {"p": "SECRET"}, "/z").resource.response == msgspec.UNSET


def test_findings_name_each_operation_that_cannot_be_read_once() -> None:
    parsed = parse_document(
        DocumentConfig(Path("d.json")),
        json.dumps({**document(S), "paths": {"/x": TO_OTHER_FILE, "/y": {"post": None}}}).encode(),
    )
    assert {(each.template, each.method) for each in operations_of(parsed) if each.denied} >= {
        ("/x", "TRACE"),
        ("/y", "POST"),
    }
    assert set(parsed.findings) == {
        Finding("/paths/~1x", "external_reference"),
        Finding("/paths/~1y/post", "unusable_operation"),
    }


@pytest.mark.parametrize("key", ["2Xx", "2xX", "2xx"])
def test_a_class_of_statuses_is_known_in_every_spelling(key: str) -> None:
    described = document(an_object(p=M))
    responses = described["paths"]["/x"]["post"]["responses"]
    responses["default"] = responses.pop("200")
    responses[key] = {"content": {"application/json": {"schema": an_object(p=D)}}}
    assert kept(json.dumps(described).encode(), {"p": "SECRET"}) is None
