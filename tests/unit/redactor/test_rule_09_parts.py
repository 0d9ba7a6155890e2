"""Rule 9, part by part: what stands beside or within a part of a form decides about that part alone, or about all."""

from __future__ import annotations

from typing import Any

import pytest

from redactor.config import Limits
from schemas.event import BodyReason
from tests.unit.redactor.raw_bodies import MULTIPART, a_form, a_part, recorded_of
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, an_object

MULTI = MULTIPART + "; boundary=XX"
FILE_NAME = '; filename="f"'
DEEP = an_object(a=MARKED, b=TEXT, c=an_object(d=MARKED, e=DENIED), l={"type": "array", "items": MARKED})
LIST: Node = {"type": "array", "items": MARKED}
DEEPS: Node = {"type": "array", "items": DEEP}
W = a_part("w", "1")


def recorded(schema: Node, *parts: bytes, **more: Any) -> Any:
    return recorded_of(an_object(v=schema, w=MARKED), a_form(*parts), MULTI, **more)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":"1","b":"s","c":{"d":"2","e":"s"},"l":["3",4]}', {"a": "1", "c": {"d": "2"}, "l": ["3"]}),
        ('{"b":"s","a":"1"}', {"a": "1"}),
        ('{"a":"s","a":"1"}', {"a": "1"}),
        ('{"a":"1","a":2}', None),
        ('{"\\u0061":"1"}', {"a": "1"}),
        ('{"a":"\\ud800"}', None),
        ('{"a":"1","b":"\\ud800"}', None),
        ('\ufeff{"a":"s"}', None),
        ('{"a":"s"} {"a":"s"}', None),
        ('{"a":"s"},', None),
        ('{"a":"s","b":NaN}', None),
        ('[{"a":"s"}]', None),
        ('"{\\"a\\":\\"s\\"}"', None),
        (' \r\n{"a":"1"}\r\n', {"a": "1"}),
        ('{"a":"s","b":' + "[" * 70 + "]" * 70 + "}", None),
        ("", None),
        ("null", None),
    ],
)
@pytest.mark.parametrize("header", [(), ("Content-Type: application/json",), ("Content-Type: text/plain",)])
def test_an_object_is_json_whatever_the_part_says_of_itself(
    text: str, expected: Any, header: tuple[str, ...]
) -> None:
    found = {"w": "1"} if expected is None else {"v": expected, "w": "1"}
    part = a_part("v", text, *header)
    assert recorded(DEEP, W, part) == recorded(DEEP, part, W) == found


@pytest.mark.parametrize(
    "disposition", [FILE_NAME, "; filename=f", "; filename*=UTF-8''f", '; filename="a"; filename*=b']
)
def test_a_file_name_says_nothing_about_json_and_drops_all_else(disposition: str) -> None:
    as_json = a_part("v", '{"a":"1"}', disposition=disposition)
    assert recorded(DEEP, W, as_json) == {"v": {"a": "1"}, "w": "1"}
    assert recorded(MARKED, W, a_part("v", "s", disposition=disposition)) == {"w": "1"}
    several = [a_part("v", "1"), a_part("v", "s", disposition=disposition), a_part("v", "2")]
    assert recorded(LIST, W, *several) == {"v": ["1", "2"], "w": "1"}
    assert recorded(MARKED, W, *several[:2]) == {"w": "1"}


@pytest.mark.parametrize(
    ("schema", "values", "expected"),
    [
        (DEEPS, ['{"a":"1"}', '{"a":"2","b":"s"}'], [{"a": "1"}, {"a": "2"}]),
        (DEEPS, ['{"a":"1"}', '{"a":'], [{"a": "1"}]),
        (DEEPS, ['[{"a":"s"}]'], None),
        (DEEP, ['{"a":"s"}', '{"a":"t"}'], None),
        (LIST, ["1", "", "3"], ["1", "", "3"]),
        (LIST, ['["s"]'], ['["s"]']),
        (MARKED, ["s", "s"], None),
    ],
)
def test_repeated_parts(schema: Node, values: list[str], expected: Any) -> None:
    found = {"w": "1"} if expected is None else {"v": expected, "w": "1"}
    parts = [a_part("v", value) for value in values]
    assert recorded(schema, parts[0], W, *parts[1:]) == found


@pytest.mark.parametrize("name", ["V", "v ", " v", "v[]", "v%20", "%76", "v;w", "", "x"])
def test_a_name_is_that_of_a_property_or_nobodys(name: str) -> None:
    assert recorded(MARKED, W, a_part(name, "s")) == {"w": "1"}


@pytest.mark.parametrize(
    ("encoding", "part", "expected"),
    [
        ({"contentType": "application/json"}, a_part("v", '"1"', "Content-Type: text/plain"), "1"),
        ({"contentType": "application/json"}, a_part("v", '"1"', disposition=FILE_NAME), "1"),
        ({"contentType": "application/json"}, a_part("v", "1"), None),
        ({"contentType": "application/json"}, a_part("v", "s"), None),
        ({"contentType": "application/json, text/plain"}, a_part("v", "s", disposition=FILE_NAME), None),
        ({"contentType": "application/octet-stream"}, a_part("v", "s"), None),
        ({"contentType": "image/*"}, a_part("v", "s"), None),
        ({"contentType": 7}, a_part("v", "s"), None),
        ({"x-auditable": False}, a_part("v", "s"), None),
        ({"x-auditable": True}, a_part("v", "1"), "1"),
        ({"headers": {"X-A": {"schema": MARKED}}}, a_part("v", "1", "X-A: s"), "1"),
    ],
)
def test_the_documents_encoding_goes_before_what_a_part_says(
    encoding: Node, part: bytes, expected: Any
) -> None:
    found = {"w": "1"} if expected is None else {"v": expected, "w": "1"}
    assert recorded(MARKED, W, part, encoding={"v": encoding}) == found


@pytest.mark.parametrize(
    "content",
    [b"s\r\n--XX", b"s\r\n--XX--", b"s--XXs", b"--XX\r\n", b"s\r\n--XX\r\nContent-Type: a/b\r\n\r\n"],
)
def test_a_delimiter_within_a_part_makes_the_whole_form_malformed(content: bytes) -> None:
    assert recorded(TEXT, W, a_part("v", content)) is BodyReason.MALFORMED


def test_an_unmarked_part_changes_nothing() -> None:
    alone = recorded(TEXT, W)
    for part in (b"s", b"\xff\x00", b"x" * 5_000, b"{", b'{"a":'):
        assert recorded(TEXT, W, a_part("v", part)) == recorded(TEXT, a_part("v", part), W) == alone
    assert recorded(TEXT, *[a_part("v", "s")] * 3, W, limits=Limits(form_fields_max=4)) == alone
