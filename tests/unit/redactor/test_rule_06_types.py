from __future__ import annotations

from typing import Any

import pytest

from tests.unit.redactor.pairs import NOTHING, Node, an_object, kept, kept_text

MARK: Node = {"x-auditable": True}
VALUES = {
    "string": ['"s"', '"1"', '""'],
    "boolean": ["true", "false"],
    "integer": ["1", "-0", "12345678901234567890"],
    "number": ["1", "-0", "1.10", "1e400", "-1.5E-3", "12345678901234567890.5"],
}
ALL = ['"s"', "true", "1", "1.10", "{}", "[]", "1e5"]


@pytest.mark.parametrize("kind", list(VALUES))
def test_kept_scalars_are_copied_as_they_were_written(kind: str) -> None:
    for text in VALUES[kind]:
        assert kept_text(an_object(v={"type": kind} | MARK), f'{{"v": {text}}}'.encode()) == f'{{"v":{text}}}'


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("string", ["true", "1", "1.10", "{}", "[]"]),
        ("boolean", ['"true"', "1", "0", "{}", "[]"]),
        ("integer", ['"1"', "true", "1.0", "1e2", "{}"]),
        ("number", ['"1"', "true", "{}", "[1]"]),
        ("object", ['"s"', "[]", "1"]),
        ("array", ['"s"', "{}", "1"]),
    ],
)
def test_a_value_of_another_type_is_dropped(kind: str, wrong: list[str]) -> None:
    node = {"type": kind, "items": {"type": "string"}} | MARK
    for text in wrong:
        assert kept(an_object(v=node), f'{{"v": {text}}}'.encode()) is NOTHING


def test_format_pattern_and_ranges_do_not_decide() -> None:
    node = {"type": "string", "format": "uuid", "pattern": "^x$", "maxLength": 1} | MARK
    assert kept(node, "no uuid") == "no uuid"
    assert kept({"type": "integer", "minimum": 5} | MARK, 1) == 1


@pytest.mark.parametrize(
    ("node", "right", "wrong"),
    [
        ({"type": "string", "enum": ["a", "1"]}, '"a"', '"s3cret"'),
        ({"type": "integer", "enum": [1, 2]}, "1", "3"),
        ({"type": "number", "enum": [1.5, 2]}, "1.50", "1.51"),
        ({"type": "number", "enum": [2]}, "2.0", "2.5"),
        ({"type": "number", "enum": [0]}, "-0.0", "1e400"),
        ({"type": "boolean", "enum": [True]}, "true", "false"),
        ({"type": "string", "const": "a"}, '"a"', '"b"'),
        ({"type": "string", "enum": ["1"]}, '"1"', '"01"'),
        ({"type": "string", "allOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}, '"b"', '"a"'),
    ],
)
def test_enum_and_const_are_enforced_on_failures_alone(node: Node, right: str, wrong: str) -> None:
    schema = an_object(v=node | MARK)
    for status in (400, 404, 500):
        assert kept_text(schema, f'{{"v":{right}}}'.encode(), status) == f'{{"v":{right}}}'
        assert kept(schema, f'{{"v":{wrong}}}'.encode(), status) is NOTHING
    for text in (right, wrong):
        assert kept_text(schema, f'{{"v":{text}}}'.encode(), 200) == f'{{"v":{text}}}'


def test_elements_that_do_not_fit_are_removed_singly() -> None:
    node = {"type": "array", "items": {"type": "string"} | MARK}
    assert kept(node, ["a", 1, {"b": 1}, "c", ["d"]]) == ["a", "c"]


def test_strings_keep_their_code_points() -> None:
    value = 'é\u0000"\\/\u2028\U0001f600\n\x7f'
    assert kept({"type": "string"} | MARK, value) == value


@pytest.mark.parametrize(
    ("types", "text"),
    [(["string", "null"], "null"), (["integer", "string"], "1"), (["number", "boolean"], "1.0")],
)
def test_type_lists(types: list[str], text: str) -> None:
    node: dict[str, Any] = {"type": types} | MARK
    assert kept_text(an_object(v=node), f'{{"v":{text}}}'.encode(), version="3.1.0") == f'{{"v":{text}}}'
    assert kept(an_object(v=node), {"v": {}}, version="3.1.0") is NOTHING
