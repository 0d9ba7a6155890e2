"""Rule 7 in forms and queries: a text does not show its JSON type, so it is kept only if each alternative would keep it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tests.unit.redactor.raw_bodies import FORM, MULTIPART, a_form, a_part, recorded_of
from tests.unit.redactor.schemas import MARKED, TEXT, Node, an_object
from tests.unit.redactor.test_rule_13_url import in_path, in_query, uri

MARK: Node = {"x-auditable": True}
LIST: Node = {"type": "array", "items": MARKED}
UNMARKED_LIST: Node = {"type": "array", "items": TEXT}
NUMBERS: Node = {"type": "array", "items": {"type": "integer"}} | MARK
META = an_object(a=MARKED, b=TEXT)
UNMARKED_META = an_object(a=TEXT, b=TEXT)
MAP: Node = {"type": "object", "additionalProperties": MARKED} | MARK
UNMARKED_MAP: Node = {"type": "object", "additionalProperties": TEXT}
FREE_FORM: Node = {"type": "object"} | MARK
LISTED: Node = {"enum": ["secret"]}
JSON_ENCODED: Node = {"contentType": "application/json"}
COMMAS: Node = {"explode": False}
DEEP: Node = {"style": "deepObject"}
MULTI = MULTIPART + "; boundary=XX"

ALTERNATIVES: list[Node] = [
    TEXT,
    MARKED,
    {"type": "integer"},
    LISTED,
    LIST,
    UNMARKED_LIST,
    NUMBERS,
    {"type": "array", "items": META},
    META,
    UNMARKED_META,
    FREE_FORM,
    {"allOf": [{"oneOf": [TEXT, {"type": "integer"}]}]},
]
WRAPPED: list[tuple[str, Any]] = [
    ("a choice in the property", lambda one, other: an_object(v={"anyOf": [one, other]})),
    ("a choice below allOf", lambda one, other: an_object(v={"allOf": [{"oneOf": [one, other]}]})),
    ("a choice of forms", lambda one, other: {"oneOf": [an_object(v=one), an_object(v=other)]}),
    ("forms below allOf", lambda one, other: {"allOf": [{"anyOf": [an_object(v=one), an_object(v=other)]}]}),
]


def a_field(text: str) -> bytes:
    return a_form(a_part("v", text))


@pytest.mark.parametrize(("wrapping", "wrapped"), WRAPPED)
@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ({}, "secret"),
        ({}, '{"a":"secret"}'),
        ({}, '{"b":"secret"}'),
        (COMMAS, "secret"),
        (COMMAS, "secret,2"),
    ],
)
def test_a_field_is_kept_only_if_each_alternative_keeps_it(
    encoding: Node, text: str, wrapping: str, wrapped: Any
) -> None:
    def keeps(schema: Node) -> bool:
        recorded = recorded_of(schema, a_field(text), MULTI, version="3.1.0", encoding={"v": encoding})
        return "secret" in str(recorded)

    # As an object a field is JSON, so a text that does not begin like one is none.
    is_no_object = encoding == {} and not text.startswith("{")
    alone = [
        (is_no_object and each.get("type") == "object") or keeps(an_object(v=each)) for each in ALTERNATIVES
    ]
    for (one, first), (other, second) in product(zip(ALTERNATIVES, alone, strict=True), repeat=2):
        assert not keeps(wrapped(one, other)) or (first and second), (wrapping, one, other)


@pytest.mark.parametrize(
    ("style", "explode", "query"),
    [
        ("form", True, "v=secret"),
        ("form", False, "v=secret"),
        ("form", False, "v=secret,2"),
        ("form", False, "v=a,secret"),
        ("pipeDelimited", False, "v=secret"),
    ],
)
def test_a_parameter_is_kept_only_if_each_alternative_keeps_it(style: str, explode: bool, query: str) -> None:
    def keeps(schema: Node) -> bool:
        return "secret" in uri("/t", f"/t?{query}", [in_query("v", schema, style=style, explode=explode)])

    # A free-form object may be kept whole, but is not read from a query.
    read = [each for each in ALTERNATIVES if each is not FREE_FORM]
    alone = [keeps(each) for each in read]
    for (one, first), (other, second) in product(zip(read, alone, strict=True), repeat=2):
        assert not keeps({"anyOf": [one, other]}) or (first and second), (one, other)


@pytest.mark.parametrize(
    ("alternatives", "encoding", "values", "expected"),
    [
        # Fields that show what they are.
        ([TEXT, LIST], {}, {"v": ["1", "2"]}, ["1", "2"]),
        ([LISTED, LIST], {}, {"v": ["1", "2"]}, ["1", "2"]),
        ([MARKED, LIST], {}, {"v": ["1"]}, "1"),
        ([MARKED, META], {}, {"v": ['{"a":"1","b":"s"}']}, {"a": "1"}),
        ([MARKED, META], {}, {"v": ["1"]}, "1"),
        ([MARKED, UNMARKED_META], {}, {"v": ["1"]}, "1"),
        ([MARKED, UNMARKED_META], {}, {"v": ['{"a":"s"}']}, None),
        ([MARKED, UNMARKED_META], {}, {"v": [' \r\n{"a":']}, None),
        ([TEXT, META], {}, {"v": ["s"]}, None),
        ([MARKED, {}], {}, {"v": ["s"]}, None),
        ([MARKED, META, LIST], {}, {"v": ["1"]}, "1"),
        ([MARKED, META, UNMARKED_LIST], {}, {"v": ["s"]}, None),
        ([MARKED, META], COMMAS, {"v": ["a,s"]}, None),
        ([TEXT, META], JSON_ENCODED, {"v": ['{"a":"1","b":"s"}']}, {"a": "1"}),
        ([TEXT, LIST], JSON_ENCODED, {"v": ['["1"]']}, ["1"]),
        ([TEXT, META], DEEP, {"v[a]": ["1"], "v[b]": ["s"]}, {"a": "1"}),
        ([UNMARKED_LIST, META], DEEP, {"v[a]": ["1"], "v[0]": ["s"]}, {"a": "1"}),
        ([UNMARKED_LIST, MAP], DEEP, {"v[a]": ["1"], "v[0]": ["s"]}, {"a": "1"}),
        # A list's only element may be written as JSON without the list.
        ([TEXT, LIST], JSON_ENCODED, {"v": ['"s"']}, None),
        ([UNMARKED_META, {"type": "array", "items": META}], JSON_ENCODED, {"v": ['{"a":"s"}']}, None),
        # An index may be an object's key.
        ([UNMARKED_MAP, LIST], DEEP, {"v[0]": ["s"]}, None),
        ([UNMARKED_MAP, LIST], DEEP, {"v[]": ["s"]}, None),
        ([UNMARKED_LIST, MAP], DEEP, {"v[0]": ["s"]}, None),
    ],
)
def test_fields_of_several_types(
    alternatives: list[Node], encoding: Node, values: dict[str, list[str]], expected: Any
) -> None:
    parts = [a_part(name, text) for name, texts in values.items() for text in texts]
    root = an_object(v={"anyOf": alternatives}, w=MARKED)
    found = {"w": "1"} if expected is None else {"v": expected, "w": "1"}
    body = a_form(*parts, a_part("w", "1"))
    assert recorded_of(root, body, MULTI, version="3.1.0", encoding={"v": encoding}) == found


def test_an_element_of_a_list_may_be_what_an_alternative_does_not_mark() -> None:
    schema: Node = {"type": "array", "items": {"anyOf": [TEXT, META]}}
    body = a_form(a_part("v", '{"a":"s"}'), a_part("v", '{"a":"s"}'))
    assert recorded_of(an_object(v=schema), body, MULTI) in (None, {"v": []})


def test_the_same_in_the_urlencoded_form() -> None:
    root = {"oneOf": [an_object(v=TEXT, w=MARKED), an_object(v=LIST, w=MARKED)]}
    assert recorded_of(root, b"v=s&w=1", FORM) == {"w": "1"}
    assert recorded_of(root, b"v=1&v=2&w=1", FORM) == {"v": ["1", "2"], "w": "1"}


@pytest.mark.parametrize(
    ("alternatives", "style", "query", "expected"),
    [
        ([TEXT, LIST], "form", "v=1&v=2", "?v=1&v=2"),
        ([TEXT, META], "form", "a=1&b=s", "?a=1"),
        ([TEXT, META], "deepObject", "v[a]=1&v[b]=s", "?v%5Ba%5D=1"),
        ([TEXT, an_object(v=MARKED)], "form", "v=s", ""),
    ],
)
def test_pairs_that_show_what_they_are(
    alternatives: list[Node], style: str, query: str, expected: str
) -> None:
    parameter = in_query("v", {"anyOf": alternatives}, style=style, explode=True)
    assert uri("/t", f"/t?{query}", [parameter]) == f"/t{expected}"


@pytest.mark.parametrize("other", [UNMARKED_LIST, UNMARKED_META])
def test_a_segment_may_be_a_list_or_an_object_that_is_not_marked(other: Node) -> None:
    parameter = in_path("name", {"anyOf": [MARKED, other]})
    assert uri("/t/{name}", "/t/s", [parameter]) == "/t/{name}"
