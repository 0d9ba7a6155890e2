"""Lists that are counted column by column give the reference's bytes, whatever stands in a column."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redactor.pipeline.typed_parts import ObjectPart
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from tests.compiled import IS_COMPILED
from tests.property.captures import EVENT_ID, a_document, a_redactor
from tests.property.documents import Draw, Node

MARKED = {"x-auditable": True}
TEXT: Node = {"type": "string", **MARKED}
SCALARS: tuple[Node, ...] = (
    TEXT,
    {"type": "integer", **MARKED},
    {"type": "number", **MARKED},
    {"type": "boolean", **MARKED},
    {"type": "string", "enum": ["a", "b"], **MARKED},
    {"type": "string"},
)
ELEMENTS_MAX = 7
JSON: Headers = {"content-type": "application/json"}


@st.composite
def schemas(draw: Draw, depth: int = 0) -> Node:
    """An object of scalars, lists and objects; some of the containers are marked."""
    names = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
    return {
        "type": "object",
        "properties": {name: draw(_parts(depth)) for name in names},
        **draw(st.sampled_from([{}, MARKED])),
    }


def _parts(depth: int) -> st.SearchStrategy[Node]:
    scalar = st.sampled_from(SCALARS)
    if depth > 1:
        return scalar
    marks = st.sampled_from([dict[str, Any](), MARKED])
    lists = st.builds(
        lambda items, mark: {"type": "array", "items": items, **mark}, scalar | schemas(depth + 1), marks
    )
    maps = st.builds(lambda entry: {"type": "object", "additionalProperties": entry, **MARKED}, scalar)
    return scalar | scalar | lists | schemas(depth + 1) | maps


def _odd(draw: Draw, schema: Node) -> Any:
    """Something that a type lets through, and for numbers what is none."""
    odd: dict[str, list[Any]] = {"object": [{}, {}, None], "array": [[], [], None]}
    return draw(st.sampled_from(odd.get(schema["type"], [None, "x"])))


def _is_one_in(draw: Draw, times: int) -> bool:
    return times > 0 and draw(st.sampled_from(range(times))) == times // 2


def value_of(draw: Draw, schema: Node, oddity: int) -> Any:
    """A value of a schema; one in `oddity` of its parts is none of it, null, empty or missing (0: none is)."""
    if _is_one_in(draw, oddity):
        return _odd(draw, schema)
    if "properties" in schema:
        return {
            name: value_of(draw, part, oddity)
            for name, part in schema["properties"].items()
            if not _is_one_in(draw, oddity)
        }
    if "additionalProperties" in schema:
        return {key: value_of(draw, schema["additionalProperties"], oddity) for key in draw(st.sets(KEYS))}
    if "items" in schema:
        return [
            value_of(draw, schema["items"], oddity)
            for _ in range(draw(st.sampled_from([1, 2, 0] if oddity else [1, 2])))
        ]
    return draw(SCALAR_VALUES[schema["type"]])


KEYS = st.sampled_from("xyz")
SCALAR_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.sampled_from(["a", "b", "", ',"a":[]', "2026-03-04"]),
    "integer": st.integers(-3, 3),
    "number": st.sampled_from([0, 1, 2.5, -1e30]),
    "boolean": st.booleans(),
}


@st.composite
def examples(draw: Draw) -> tuple[Node, str]:
    """A list's schema, and a list as text; most are of more elements than are looked at singly."""
    element = draw(schemas())
    listed = {"type": "array", "items": element, **draw(st.sampled_from([{}, MARKED]))}
    oddity = draw(st.sampled_from([5, 30, 0, 0]))
    values = [
        value_of(draw, element, oddity) for _ in range(draw(st.sampled_from([0, 2, 4, 5, ELEMENTS_MAX])))
    ]
    return listed, json.dumps(values).replace("-3", draw(st.sampled_from(["-3", "-0"])))


@pytest.mark.timeout(3600)
def test_lists_counted_by_columns_give_the_bytes_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    tally: Counter[bool] = Counter()
    original = ObjectPart.scalars_in

    def counted(self: ObjectPart, values: Any) -> int | None:
        found = original(self, values)
        tally[found is not None] += 1
        return found

    monkeypatch.setattr(ObjectPart, "scalars_in", counted)

    @settings(max_examples=max(300, settings().max_examples))
    @given(examples())
    def holds(example: tuple[Node, str]) -> None:
        schema, text = example
        redactor = a_redactor(a_document("3.1.0", schema, schema, {}))
        request = CapturedRequest("POST", "/accounts/a1/things/x", headers=JSON, body=text)
        redactor.redact(Capture(request, CapturedResponse(200, headers=JSON, body=text)), EVENT_ID)

    holds()
    # Compiled code calls itself directly, and past what counts here.
    assert IS_COMPILED or min(tally[True], tally[False]) > 20
