"""Bodies read by types: long lists are looked at column by column, and a `-0` is found wherever it stands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from redactor.pipeline.typed_bodies import is_nested_deeper
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from tests.property.captures import EVENT_ID, a_document, a_redactor
from tests.property.documents import Node

MARKED = {"x-auditable": True}
JSON: Headers = {"content-type": "application/json"}


def recorded(schema: Node, text: str, status: int = 200) -> tuple[Any, int]:
    """What is recorded of a body, as text, and how many scalars the receipt counts; both ways agree on it."""
    document = a_document("3.1.0", schema, schema, {})
    operation = document["paths"]["/accounts/{account_id}/things/{name}"]["post"]
    operation["responses"]["4XX"] = operation["responses"]["200"]
    request = CapturedRequest("POST", "/accounts/a1/things/x", headers=JSON, body=text)
    event = a_redactor(document).redact(Capture(request, CapturedResponse(status)), EVENT_ID)
    assert event is not None
    found = json.loads(event, parse_int=str)
    return found["resource"].get("request"), int(found["receipt"]["request"]["kept"])


def listed(**properties: Node) -> Node:
    return {"type": "array", "items": {"type": "object", "properties": properties}}


def test_an_unlisted_string_is_removed_from_a_long_list_of_errors() -> None:
    schema = listed(code={"type": "string", "enum": ["a", "b"], **MARKED}, note={"type": "string", **MARKED})
    body = [{"code": "a", "note": "1"} for _ in range(8)] + [{"code": "secret", "note": "2"}]
    assert recorded(schema, json.dumps(body), 404) == ([*body[:8], {"note": "2"}], 17)
    assert recorded(schema, json.dumps(body[:8]), 404) == (body[:8], 16)


def test_objects_without_anything_kept_leave_a_long_list() -> None:
    schema = listed(
        a={"type": "string", **MARKED}, b={"type": "array", "items": {"type": "string", **MARKED}}
    )
    kept: list[Any] = [{"a": "x", "b": ["y", "z"]}] * 6
    nothings: list[Any] = [{}, {"c": 1}, {"b": []}, None]
    for nothing in nothings:
        assert recorded(schema, json.dumps([*kept, nothing])) == (kept, 18)
    assert recorded(schema, json.dumps(kept)) == (kept, 18)
    assert recorded(schema, json.dumps([*kept, {"b": ["y"]}])) == ([*kept, {"b": ["y"]}], 19)


def test_what_is_no_number_is_removed_from_a_long_list() -> None:
    schema = listed(n={"type": "number", **MARKED}, a={"type": "string", **MARKED})
    kept = [{"n": 1.5, "a": "x"}] * 6
    document = json.dumps([*kept, {"n": "secret", "a": "x"}])
    assert recorded(schema, document) == (json.loads(json.dumps([*kept, {"a": "x"}]), parse_int=str), 13)


@pytest.mark.parametrize("before", [0, 1, 7, 8, 9, 30])
@pytest.mark.parametrize("zero", [":-0", ": -0", ":\n-0"])
def test_a_minus_zero_stays_as_it_is_written_however_many_dates_stand_before_it(
    before: int, zero: str
) -> None:
    schema = {
        "type": "object",
        "properties": {"at": {"type": "string", **MARKED}, "n": {"type": "integer", **MARKED}},
    }
    text = f'{{"at": "{"2026-03 " * before}", "n"{zero}}}'
    assert recorded(schema, text) == ({"at": "2026-03 " * before, "n": "-0"}, 2)


def test_a_short_text_cannot_nest_deeper_than_half_its_length() -> None:
    for depth in range(1, 70):
        assert is_nested_deeper("[" * depth + "]" * depth, depth - 1)
        assert not is_nested_deeper("[" * depth + "]" * depth, depth)
    schema = {"type": "object", "properties": {"a": {"type": "string", **MARKED}}}
    fits, deeper = ('{"a":"x","b":' + "[" * depth + "]" * depth + "}" for depth in (63, 64))
    assert recorded(schema, fits) == ({"a": "x"}, 1)
    with pytest.raises(KeyError):
        recorded(schema, deeper)
