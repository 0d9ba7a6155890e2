from __future__ import annotations

import pytest

from tests.unit.redactor.pairs import NOTHING, kept, kept_text
from tests.unit.redactor.schemas import MARKED, TEXT, Node, an_object


def test_keys_stand_in_document_order() -> None:
    schema = an_object(b=MARKED, a=MARKED, c=an_object(z=MARKED, y=MARKED))
    assert kept_text(schema, {"c": {"y": "1", "z": "2"}, "a": "3", "b": "4"}) == (
        '{"b":"4","a":"3","c":{"z":"2","y":"1"}}'
    )


def test_the_order_of_branches_is_that_of_their_keywords() -> None:
    branch = {"allOf": [an_object(a=MARKED)]}
    own: Node = {"properties": {"b": MARKED}}
    assert kept_text(branch | own, {"b": "1", "a": "2"}) == '{"a":"2","b":"1"}'
    assert kept_text(own | branch, {"b": "1", "a": "2"}) == '{"b":"1","a":"2"}'


def test_order_does_not_depend_on_the_number_of_properties() -> None:
    wide = an_object(**{f"p{i}": MARKED for i in range(100)})
    assert kept_text(wide, {"p70": "1", "p3": "2", "x": "s"}) == '{"p3":"2","p70":"1"}'


def test_an_unmarked_container_with_nothing_kept_vanishes() -> None:
    schema = an_object(
        o=an_object(a=MARKED),
        l={"type": "array", "items": an_object(a=MARKED)},
        m={"type": "array", "items": TEXT},
    )
    body = {"o": {"b": "s"}, "l": [{"b": "s"}, {"a": "1"}, {}], "m": ["s"]}
    assert kept(schema, body) == {"l": [{"a": "1"}]}
    assert kept(schema, {"o": {}, "l": [{}], "m": []}) is NOTHING


def test_null_is_kept_at_a_marked_node_alone() -> None:
    schema = an_object(a=MARKED, b=TEXT, l={"type": "array", "items": MARKED})
    assert kept(schema, {"a": None, "b": None, "l": [None, "1"]}) == {"a": None, "l": [None, "1"]}
    assert kept(an_object(l={"type": "array", "items": TEXT}), {"l": [None]}) is NOTHING
    unmarked = an_object(o=an_object(a=MARKED), l={"type": "array", "items": an_object(a=MARKED)})
    assert kept(unmarked, {"o": None, "l": None}) is NOTHING
    assert kept(unmarked, {"l": [None, {"a": None}]}) == {"l": [{"a": None}]}


def test_defaults_are_never_filled_in() -> None:
    assert kept(an_object(a=MARKED | {"default": "d"}, b=MARKED), {"b": "1"}) == {"b": "1"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "x-auditable": True, "additionalProperties": MARKED},
        {"type": "object", "x-auditable": True, "patternProperties": {".": MARKED, "^[a-z]": MARKED}},
        {"allOf": [{"type": "object", "x-auditable": True, "additionalProperties": MARKED}] * 2},
    ],
)
def test_map_keys_are_sorted_and_stand_behind_declared_names(schema: Node) -> None:
    declared = {"allOf": [schema, an_object(n=MARKED)]}
    for body in ({"b": "1", "a": "2", "n": "3", "c": "4"}, {"c": "4", "n": "3", "a": "2", "b": "1"}):
        assert kept_text(declared, body) == '{"n":"3","a":"2","b":"1","c":"4"}'


def test_a_free_form_object_keeps_its_own_order() -> None:
    schema = an_object(f={"type": "object", "x-auditable": True})
    assert kept_text(schema, {"f": {"b": "1", "a": "2"}}) == '{"f":{"b":"1","a":"2"}}'
