from __future__ import annotations

import pytest

from tests.unit.redactor.pairs import (
    DENIED,
    MARKED,
    NOTHING,
    TEXT,
    Node,
    a_marked_object,
    an_object,
    kept,
    kept_text,
)


def test_all_of_unites_properties_and_siblings() -> None:
    node = {
        "allOf": [an_object(a=MARKED, b=TEXT), {"$ref": "#/components/schemas/C"}],
        "properties": {"d": MARKED, "b": TEXT},
    }
    body = {"a": "1", "b": "s", "c": "2", "d": "3"}
    assert kept(node, body, schemas={"C": an_object(c=MARKED)}) == {"a": "1", "c": "2", "d": "3"}


def test_some_branch_grants_and_none_denies() -> None:
    assert kept({"allOf": [TEXT, {"x-auditable": True}]}, "1") == "1"
    assert kept({"allOf": [an_object(a=TEXT), an_object(a=MARKED)]}, {"a": "1"}) == {"a": "1"}
    assert kept({"allOf": [an_object(a=DENIED), an_object(a=MARKED)]}, {"a": "s"}) is NOTHING


def test_the_value_must_be_of_every_branchs_type() -> None:
    node = {"allOf": [MARKED, {"type": "integer"}]}
    assert kept(node, "s") is NOTHING
    assert kept(node, 1) is NOTHING
    assert kept({"allOf": [{"type": "number"}, {"type": "integer", "x-auditable": True}]}, 1) == 1


def test_a_mark_on_a_wrapper_counts_as_a_mark_on_its_branches_value() -> None:
    wrapper: Node = {"allOf": [{"$ref": "#/components/schemas/S"}], "x-auditable": True}
    assert kept(wrapper, "1", schemas={"S": TEXT}) == "1"
    assert kept(wrapper, {"a": "s"}, schemas={"S": an_object(a=TEXT)}) == {}


@pytest.mark.parametrize("keyword", ["oneOf", "anyOf"])
def test_a_choice_is_dropped_with_what_stands_beside_it(keyword: str) -> None:
    node: Node = an_object(name=MARKED) | {
        keyword: [an_object(type=TEXT, name=MARKED), an_object(name=MARKED)]
    }
    assert kept(an_object(v=node, w=MARKED), {"v": {"name": "n", "type": "s"}, "w": "1"}) == {"w": "1"}
    assert kept(an_object(v={"allOf": [an_object(name=MARKED), node]}), {"v": {"name": "n"}}) is NOTHING


@pytest.mark.parametrize("keyword", ["not", "if", "then", "else"])
def test_negations_and_conditionals_grant_nothing(keyword: str) -> None:
    node = an_object(a=TEXT) | {keyword: an_object(a=MARKED, b=MARKED)}
    assert kept(node, {"a": "s", "b": "s"}, version="3.1.0") is NOTHING


def test_nullable_and_null() -> None:
    schema = an_object(a=MARKED | {"nullable": True}, b=TEXT | {"nullable": True}, c=a_marked_object())
    assert kept(schema, {"a": None, "b": None, "c": None}) == {"a": None, "c": None}


def test_recursive_schemas() -> None:
    tree = an_object(name=MARKED, secret=TEXT, child={"$ref": "#/components/schemas/Tree"})
    tree["properties"]["children"] = {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}
    body = {
        "name": "1",
        "secret": "s",
        "child": {"secret": "s", "children": [{"name": "2"}, {"secret": "s"}]},
    }
    expected = {"name": "1", "child": {"children": [{"name": "2"}]}}
    assert kept({"$ref": "#/components/schemas/Tree"}, body, schemas={"Tree": tree}) == expected


@pytest.mark.parametrize(
    "schemas",
    [
        {"A": {"$ref": "#/components/schemas/A"}},
        {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}},
        {"A": {"allOf": [{"$ref": "#/components/schemas/A"}]}},
        {"A": {"type": "array", "items": {"$ref": "#/components/schemas/A"}}},
        {"A": {"not": {"$ref": "#/components/schemas/A"}}},
    ],
)
def test_circles_of_references_end(schemas: Node) -> None:
    assert kept({"$ref": "#/components/schemas/A"}, [[["s"]]], schemas=schemas) is NOTHING


def test_a_chain_longer_than_the_stack_still_compiles() -> None:
    schemas = {f"N{i}": an_object(next={"$ref": f"#/components/schemas/N{i + 1}"}) for i in range(3000)}
    schemas["N3000"] = MARKED
    schemas["N50"]["properties"]["leaf"] = MARKED
    body: Node = {"leaf": "1", "other": "s"}
    for _ in range(50):
        body = {"next": body}
    found = kept_text({"$ref": "#/components/schemas/N0"}, body, schemas=schemas)
    assert found is not None
    assert '"leaf":"1"' in found
    assert "other" not in found


def test_many_branches_compile_in_bearable_time() -> None:
    node = {"allOf": [an_object(**{f"p{i}": MARKED}) for i in range(5000)]}
    assert kept(node, {"p4999": "1", "p": "s", "p0": "2"}) == {"p0": "2", "p4999": "1"}


TUPLE: Node = {"type": "array", "prefixItems": [MARKED, TEXT, MARKED], "items": MARKED}


class TestTuples:
    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (["1", "s", "2"], ["1", None, "2"]),
            (["1", "s"], ["1"]),
            ([1, "s", "2", 3, "4"], [None, None, "2", "4"]),
            ([1, "s", 2, "4"], [None, None, None, "4"]),
            (["1", "s", 3, 4], ["1"]),
        ],
    )
    def test_slots_before_a_kept_one_are_null(self, body: Node, expected: Node) -> None:
        assert kept(TUPLE, body, version="3.1.0") == expected

    def test_without_items_nothing_behind_the_slots_is_kept(self) -> None:
        assert kept({"type": "array", "prefixItems": [MARKED]}, ["1", "s"], version="3.1.0") == ["1"]

    def test_3_0_knows_no_tuples(self) -> None:
        assert kept(TUPLE, ["1", "s", "2"], version="3.0.3") is NOTHING
