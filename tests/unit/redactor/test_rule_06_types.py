from __future__ import annotations

from typing import Any

import pytest

from redactor.config import Limits
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.pairs import NOTHING, a_pair, a_redactor, event_of, kept, kept_text, text_of
from tests.unit.redactor.schemas import Node, an_object

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


LONG = ["9" * 129, "-" + "9" * 128, "9" * 5000, "0." + "1" * 127, "1e" + "0" * 126 + "1"]
LONGEST = ["9" * 128, "-" + "9" * 127, "0." + "1" * 126]


class TestLongNumbers:
    """A number of more than 128 characters breaks the readers of whoever queries the log: it fits no schema."""

    @pytest.mark.parametrize("text", LONG)
    def test_they_are_dropped_wherever_a_number_may_be_kept(self, text: str) -> None:
        number: Node = {"type": "number"} | MARK
        kind: Node = {"type": ["integer", "number", "string"]} | MARK
        free: Node = {"type": "object"} | MARK
        whole = an_object(
            n=number,
            i={"type": "integer"} | MARK,
            k=kind,
            list={"type": "array", "items": number},
            integers={"type": "array", "items": {"type": "integer"} | MARK},
            map={"type": "object", "additionalProperties": number} | MARK,
            free=free,
        )
        parts = {
            "n": text,
            "i": text,
            "k": text,
            "list": f"[1.5,{text}]",
            "integers": f"[1,{text}]",
            "map": f'{{"a":{text},"b":2}}',
            "free": f'{{"a":{text},"b":[[{text},3],{{"c":{text}}}]}}',
        }
        body = "{" + ",".join(f'"{name}":{part}' for name, part in parts.items()) + "}"
        assert kept_text(whole, body.encode(), version="3.1.0") == (
            '{"list":[1.5],"integers":[1],"map":{"b":2},"free":{"b":[[3],{}]}}'
        )
        assert kept_text(number, text.encode()) is None

    @pytest.mark.parametrize("text", LONGEST)
    def test_one_that_is_just_short_enough_is_copied(self, text: str) -> None:
        assert (
            kept_text(an_object(n={"type": "number"} | MARK), f'{{"n":{text}}}'.encode()) == f'{{"n":{text}}}'
        )

    def test_the_limit_counts_the_sign(self) -> None:
        document = a_document({"/things": {"post": an_operation(an_object(i={"type": "integer"} | MARK))}})
        redactor = a_redactor(document, limits=Limits(number_chars_max=3))
        for text, expected in (("999", '{"i":999}'), ("-99", '{"i":-99}'), ("1000", None), ("-100", None)):
            event = event_of(redactor, a_pair(body=f'{{"i":{text}}}'.encode()))
            assert text_of(event.resource.request) == expected

    def test_they_do_not_count_towards_a_free_form_objects_size(self) -> None:
        body = f'{{"v":{{"a":"1","n":{"9" * 70_000}}}}}'
        assert kept_text(an_object(v={"type": "object"} | MARK), body.encode()) == '{"v":{"a":"1"}}'

    def test_where_operations_tie_too(self) -> None:
        free: Node = {"type": "object"} | MARK
        paths = {f"/things/{{{name}}}": {"post": an_operation(free, operationId=name)} for name in "ab"}
        pair = a_pair(url="/things/1", body=f'{{"n":{"9" * 129},"m":1}}'.encode())
        assert text_of(event_of(a_redactor(a_document(paths)), pair).resource.request) == '{"m":1}'
