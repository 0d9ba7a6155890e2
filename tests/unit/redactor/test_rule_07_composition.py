from __future__ import annotations

from typing import Any

import pytest

from schemas.event import BodyReason
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import NOTHING, a_pair, a_redactor, event_of, kept, kept_text, text_of
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, a_marked_object, an_object

MARK: Node = {"x-auditable": True}
INTEGER: Node = {"type": "integer"}
FREE: Node = {"type": "object"}
NULL: Node = {"type": "null"}
IMPOSSIBLE: Node = {"allOf": [TEXT, FREE]}


def marked_enum(*values: Any) -> Node:
    return {"type": "string", "enum": list(values), "x-auditable": True}


def an_array(items: Any) -> Node:
    return {"type": "array", "items": items}


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


@pytest.mark.parametrize("keyword", ["oneOf", "anyOf"])
class TestAChoice:
    """`oneOf` and `anyOf`: every branch stays a candidate, whatever the value looks like."""

    @pytest.mark.parametrize(
        ("branches", "body", "expected"),
        [
            # Some candidate grants it, and every candidate that declares it does.
            ([an_object(a=MARKED), an_object(a=MARKED)], {"a": "1"}, {"a": "1"}),
            ([an_object(a=MARKED), an_object(a=TEXT)], {"a": "s"}, NOTHING),
            ([an_object(a=MARKED), an_object(b=TEXT)], {"a": "1", "b": "s"}, {"a": "1"}),
            ([an_object(a=MARKED), an_object(b=MARKED)], {"b": "2", "a": "1"}, {"a": "1", "b": "2"}),
            ([an_object(a=MARKED), {}], {"a": "1"}, {"a": "1"}),
            # The hazard of a real document: an unmarked `type` must not choose for a marked `name`.
            ([an_object(type=marked_enum("A") | {"x-auditable": None}, name=MARKED), an_object(name=TEXT)],
             {"type": "A", "name": "s"}, NOTHING),
            ([{"required": ["a"], **an_object(a=MARKED)}, an_object(a=TEXT)], {"a": "s"}, NOTHING),
            # A denial on a branch denies the whole value it describes.
            ([an_object(a=MARKED, b=MARKED), an_object(a=DENIED)], {"a": "s", "b": "1"}, {"b": "1"}),
            ([an_object(a=MARKED), an_object(b=TEXT) | {"x-sensitive": True}], {"a": "s"}, NOTHING),
            ([MARKED, {"type": "integer", "format": "password"}], "s", NOTHING),
            ([an_object(a=MARKED), {"$ref": "#/components/schemas/Missing"}], {"a": "s"}, NOTHING),
            # Deeper down the same holds, property by property.
            ([an_object(v=an_object(a=MARKED, b=MARKED)), an_object(v=an_object(a=TEXT))],
             {"v": {"a": "s", "b": "1"}}, {"v": {"b": "1"}}),
            ([an_object(v=an_array(an_object(a=MARKED))), an_object(v=an_array(an_object(a=TEXT)))],
             {"v": [{"a": "s"}]}, NOTHING),
            ([an_array(MARKED), an_array(TEXT)], ["s"], NOTHING),
            ([an_array(MARKED), an_array(MARKED)], ["1"], ["1"]),
            ([an_array(MARKED), an_array(INTEGER | MARK)], ["1", 2, True], ["1", 2]),
            # Mixed branches: each kind of value keeps what the branches of its kind keep.
            ([an_object(a=MARKED), an_array(an_object(b=MARKED)), TEXT], {"a": "1"}, {"a": "1"}),
            ([an_object(a=MARKED), an_array(an_object(b=MARKED)), TEXT], [{"b": "2", "a": "s"}], [{"b": "2"}]),
            ([an_object(a=MARKED), an_array(an_object(b=MARKED)), TEXT], "s", NOTHING),
            ([an_object(a=MARKED), MARKED], "1", "1"),
            ([an_object(a=MARKED), MARKED], {"a": "1", "b": "s"}, {"a": "1"}),
            ([an_object(a=MARKED), MARKED, INTEGER], "s", NOTHING),
            ([an_object(a=MARKED), MARKED, {"type": ["string", "object"]}], "s", NOTHING),
            ([an_object(a=MARKED), MARKED, {}], "s", NOTHING),
            ([an_object(a=MARKED), MARKED, IMPOSSIBLE], "s", NOTHING),
            ([an_object(a=MARKED), MARKED], None, NOTHING),
            ([FREE, MARKED | {"nullable": True}], None, NOTHING),
            ([FREE | MARK, TEXT], {"z": 1}, {"z": 1}),
            ([FREE | MARK, TEXT], "s", NOTHING),
            ([FREE | MARK, TEXT], None, NOTHING),
            ([FREE | MARK, FREE, TEXT], {"z": "s"}, NOTHING),
            ([a_marked_object(a=TEXT), TEXT], {"a": "s"}, {}),
            ([an_array(TEXT) | MARK, INTEGER], ["1"], ["1"]),
            ([an_array(TEXT) | MARK, INTEGER], 7, NOTHING),
            ([an_array(an_object(a=MARKED)), MARKED], "1", "1"),
            ([a_marked_object(a=MARKED), MARKED], "1", "1"),
            ([an_array(TEXT) | MARK, MARKED], ["1"], ["1"]),
            ([an_array(TEXT) | MARK, MARKED], "1", "1"),
            ([an_array(TEXT) | MARK, MARKED], {"a": "s"}, NOTHING),
        ],
    )  # fmt: skip
    def test_candidates(self, keyword: str, branches: list[Node], body: Any, expected: Any) -> None:
        assert kept({keyword: branches}, body, version="3.1.0") == expected
        assert kept(an_object(v={keyword: branches}), {"v": body}) == (
            NOTHING if expected is NOTHING else {"v": expected}
        )
        assert kept({keyword: branches[::-1]}, body, version="3.1.0") == expected

    @pytest.mark.parametrize(
        ("branches", "body", "expected"),
        [
            ([TEXT, INTEGER], "1", "1"),
            ([TEXT, INTEGER], 1, 1),
            ([TEXT, INTEGER], 1.5, NOTHING),
            ([TEXT, INTEGER], {"a": "s"}, NOTHING),
            ([TEXT, NULL], "1", "1"),
            ([{"enum": ["a"], "type": "string"}, {"enum": ["b"], "type": "string"}], "b", "b"),
            ([TEXT, an_object(a=TEXT)], "s", NOTHING),
            ([TEXT, an_object(a=TEXT)], {"a": "s"}, {}),
            ([TEXT, an_object(a=MARKED)], {"a": "1"}, {"a": "1"}),
            ([an_object(a=TEXT), an_object(b=MARKED)], {"a": "s", "b": "1"}, {"b": "1"}),
            ([an_object(a=TEXT), an_object(b=TEXT)], {"a": "s"}, {}),
            ([FREE, an_object(a=MARKED)], {"a": "1", "z": "s"}, {"a": "1"}),
            ([FREE, {"type": "object", "title": "t"}], {"z": "s"}, {}),
            ([an_array(TEXT), an_array(INTEGER)], ["s"], []),
            ([an_array(TEXT), NULL], ["1"], ["1"]),
            ([FREE, NULL], {"z": 1}, {"z": 1}),
            ([TEXT, {}], "s", NOTHING),
            ([TEXT, {"type": ["string", "object"]}], "s", NOTHING),
            ([TEXT, True], "s", NOTHING),
        ],
    )
    def test_a_mark_on_the_composed_node_is_a_containers_unless_all_are_scalars(
        self, keyword: str, branches: list[Node], body: Any, expected: Any
    ) -> None:
        assert kept({keyword: branches} | MARK, body, version="3.1.0") == expected

    @pytest.mark.parametrize(
        ("beside", "branches", "body", "expected"),
        [
            (an_object(a=MARKED), [an_object(b=MARKED), an_object(c=TEXT)], {"b": "2", "a": "1"}, {"a": "1", "b": "2"}),
            (an_object(a=MARKED), [an_object(a=TEXT), an_object(b=TEXT)], {"a": "1"}, {"a": "1"}),
            (an_object(a=TEXT), [an_object(a=MARKED), an_object(a=MARKED)], {"a": "1"}, {"a": "1"}),
            (an_object(a=TEXT), [an_object(a=MARKED), an_object(b=TEXT)], {"a": "s"}, NOTHING),
            (an_object(a=MARKED), [an_object(a=DENIED), an_object(b=TEXT)], {"a": "s"}, NOTHING),
            (an_object(a=DENIED), [an_object(a=MARKED), an_object(a=MARKED)], {"a": "s"}, NOTHING),
            (an_object(a=MARKED), [{"required": ["a"]}, {"required": ["b"]}], {"a": "1"}, {"a": "1"}),
            (FREE | MARK, [{"required": ["a"]}, {"required": ["b"]}], {"z": 1}, {"z": 1}),
            (FREE | MARK, [an_object(a=TEXT), {"required": ["b"]}], {"z": 1}, {}),
            (MARKED, [{"format": "ipv4"}, {"format": "ipv6"}], "1", "1"),
            (TEXT, [MARK | {"format": "ipv4"}, MARK | {"format": "ipv6"}], "1", "1"),
            (TEXT, [MARK | {"format": "ipv4"}, {"format": "ipv6"}], "s", NOTHING),
            ({"allOf": [an_object(a=MARKED)]}, [an_object(a=TEXT), an_object(b=MARKED)], {"a": "1", "b": "2"},
             {"a": "1", "b": "2"}),
            ({"allOf": [{"oneOf": [an_object(a=MARKED), an_object(a=MARKED)]}]}, [an_object(a=TEXT), an_object(b=MARKED)],
             {"a": "1", "b": "2"}, {"a": "1", "b": "2"}),
            ({"allOf": [{"oneOf": [an_object(a=MARKED), an_object(c=TEXT)]}]}, [an_object(a=TEXT), an_object(b=MARKED)],
             {"a": "s", "b": "2"}, {"b": "2"}),
            ({"not": {"required": ["z"]}}, [an_object(a=MARKED), an_object(b=TEXT)], {"a": "1"}, {"a": "1"}),
        ],
    )  # fmt: skip
    def test_what_stands_beside_it_is_part_of_every_candidate(
        self, keyword: str, beside: Node, branches: list[Node], body: Any, expected: Any
    ) -> None:
        if keyword in beside:
            beside = {"allOf": [beside]}
        assert kept(beside | {keyword: branches}, body) == expected
        assert kept({"allOf": [{keyword: branches}, beside]}, body) == expected

    @pytest.mark.parametrize(
        ("inner", "body", "expected"),
        [
            ([an_object(a=MARKED), an_object(a=MARKED, b=TEXT)], {"a": "1", "b": "s"}, {"a": "1"}),
            ([an_object(a=MARKED), an_object(a=TEXT)], {"a": "s"}, NOTHING),
            ([an_object(a=MARKED), NULL], {"a": "1"}, {"a": "1"}),
            ([an_object(a=MARKED), {"anyOf": [an_object(a=MARKED), an_object(c=MARKED)]}], {"a": "1", "c": "3"},
             {"a": "1", "c": "3"}),
            ([an_object(a=MARKED), {"allOf": [{"anyOf": [an_object(a=TEXT), an_object(c=MARKED)]}, FREE]}],
             {"a": "s", "c": "3"}, {"c": "3"}),
        ],
    )  # fmt: skip
    def test_nested(self, keyword: str, inner: list[Node], body: Any, expected: Any) -> None:
        assert kept({keyword: [{keyword: inner}, an_object(a=MARKED)]}, body, version="3.1.0") == expected
        assert kept({"allOf": [{"allOf": [{keyword: inner}]}]}, body, version="3.1.0") == expected

    def test_references_in_either_version(self, keyword: str) -> None:
        schemas = {
            "A": an_object(a=MARKED, b=MARKED),
            "B": {"$ref": "#/components/schemas/C"},
            "C": an_object(a=TEXT),
        }
        node = {keyword: [{"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/B"}]}
        for version in ("3.0.3", "3.1.0"):
            assert kept(node, {"a": "s", "b": "1"}, version=version, schemas=schemas) == {"b": "1"}
        # Beside a reference, 3.0 hears denials and nothing else.
        beside = {"$ref": "#/components/schemas/A", keyword: [an_object(a=TEXT), an_object(c=MARKED)]}
        assert kept(beside, {"a": "1", "c": "s"}, schemas=schemas) == {"a": "1"}
        assert kept(beside, {"a": "1", "c": "1"}, version="3.1.0", schemas=schemas) == {"a": "1", "c": "1"}
        denying = {"$ref": "#/components/schemas/A", keyword: [an_object(a=DENIED), an_object(c=MARKED)]}
        assert kept(denying, {"a": "s", "b": "1"}, schemas=schemas) == {"b": "1"}

    def test_an_id_may_stand_for_the_object_that_it_names(self, keyword: str) -> None:
        customer = {keyword: [MARKED, an_object(id=MARKED, email=TEXT), an_object(id=MARKED, gone=TEXT)]}
        node = an_object(customer=customer, customers=an_array(customer))
        body = {"customer": "1", "customers": ["1", {"id": "2", "email": "s"}, {"gone": "s"}, 7, None]}
        expected = {"customer": "1", "customers": ["1", {"id": "2"}]}
        assert kept(node, body) == expected
        assert kept({keyword: [node, node | {"title": "t"}]}, body) == expected
        assert kept(an_object(v={keyword: [MARKED, customer]}), {"v": "1"}) == {"v": "1"}
        assert kept(an_object(v={keyword: [TEXT, customer]}), {"v": "s"}) is NOTHING

    def test_nullable_branches(self, keyword: str) -> None:
        for branches in (
            [MARKED | {"nullable": True}, INTEGER | MARK],
            [MARKED, NULL],
            [MARKED, {"enum": [None]}],
        ):
            assert kept(an_object(v={keyword: branches}), {"v": None}) == {"v": None}
            assert kept(an_object(v={keyword: branches}), {"v": "1"}) == {"v": "1"}
        assert kept(an_object(v={keyword: [FREE | MARK, MARKED]}), {"v": None}) == {"v": None}
        assert kept(an_object(v={keyword: [MARKED, NULL | {"x-sensitive": True}]}), {"v": "s"}) is NOTHING
        assert kept(an_object(v={keyword: [TEXT, NULL | MARK]}), {"v": "s"}) is NOTHING

    def test_recursion_through_a_choice(self, keyword: str) -> None:
        again = {"$ref": "#/components/schemas/R"}
        leaf = an_object(value=MARKED, secret=TEXT)
        schemas = {"R": {keyword: [leaf, an_object(left=again, right=an_array(again))]}}
        body = {"left": {"right": [{"value": "1", "secret": "s"}, {"secret": "s"}]}, "value": "2"}
        expected = {"value": "2", "left": {"right": [{"value": "1"}]}}
        assert kept(again, body, schemas=schemas) == expected
        assert kept(again, [[]], schemas={"R": {keyword: [again, again]}}) is NOTHING
        assert kept(again, {"value": "1"}, schemas={"R": {keyword: [leaf, again]}}) == {"value": "1"}

    def test_maps_need_every_branch_that_speaks_of_the_key(self, keyword: str) -> None:
        a_map = FREE | MARK | {"additionalProperties": MARKED}
        assert kept({keyword: [a_map, a_map]}, {"k": "1"}) == {"k": "1"}
        assert kept({keyword: [a_map, a_map | {"additionalProperties": TEXT}]}, {"k": "s"}) == {}
        assert kept({keyword: [a_map, an_object(k=TEXT) | MARK]}, {"k": "s", "l": "1"}) == {"l": "1"}
        assert kept({keyword: [a_map, an_object(k=TEXT)]}, {"k": "s", "l": "s"}) is NOTHING
        ungranted = {"additionalProperties": MARKED}
        assert kept({keyword: [an_object(k=MARKED), ungranted]}, {"k": "s"}) is NOTHING

    def test_listed_values_count_branch_by_branch_on_errors(self, keyword: str) -> None:
        node = {keyword: [marked_enum("a"), marked_enum("b"), INTEGER | MARK]}
        for value, shown in (("a", True), ("b", True), ("c", False), (7, True)):
            assert kept(an_object(v=node), {"v": value}, status=422) == ({"v": value} if shown else NOTHING)
        assert kept(an_object(v=node), {"v": "c"}) == {"v": "c"}
        assert kept(an_object(v={keyword: [marked_enum("a"), MARKED]}), {"v": "c"}, status=422) == {"v": "c"}

    def test_inheriting_documents_reach_below_the_candidates_too(self, keyword: str) -> None:
        node = {keyword: [an_object(a=TEXT), an_object(b=an_object(c=TEXT), a=DENIED)]} | MARK
        body = {"a": "s", "b": {"c": "1"}}
        assert kept(node, body, container_marks="inherit") == {"b": {"c": "1"}}
        assert kept(node, body) == {}


class TestACandidateThatCanNeverBeValid:
    """It grants nothing, but what it declares unmarked is declared unmarked."""

    @pytest.mark.parametrize(
        ("branches", "body"),
        [
            # Types that exclude one another, in a property of a candidate.
            ([an_object(b=IMPOSSIBLE), an_object(b=INTEGER | MARK)], {"b": 1}),
            ([an_object(b={"allOf": [{"type": "array"}, FREE]}), an_object(b=FREE | MARK)], {"b": {"z": "s"}}),
            ([an_object(b={"type": "unknown"}), an_object(b=MARKED)], {"b": "s"}),
            ([an_object(b=True), an_object(b=MARKED)], {"b": "s"}),
            ([an_object(b=False), an_object(b=MARKED)], {"b": "s"}),
            # In the candidate itself.
            ([{"allOf": [TEXT, an_object(b=TEXT)]}, an_object(b=MARKED)], {"b": "s"}),
            ([{"allOf": [TEXT, an_object(b=MARKED)]}, an_object(c=MARKED)], {"b": "s"}),
            ([{"allOf": [INTEGER, an_object(v=an_object(b=TEXT))]}, an_object(v=an_object(b=MARKED))],
             {"v": {"b": "s"}}),
            ([IMPOSSIBLE, FREE | MARK | {"additionalProperties": MARKED}], {"k": "s"}),
            ([IMPOSSIBLE, FREE | MARK], {"z": "s"}),
            ([{"allOf": [INTEGER, an_array(TEXT)]}, an_array(MARKED)], ["s"]),
            ([{"allOf": [INTEGER, an_array(an_object(b=TEXT))]}, an_array(an_object(b=MARKED))], [{"b": "s"}]),
            ([IMPOSSIBLE, MARKED], "s"),
            ([True, MARKED], "s"),
            ([True, FREE | MARK], {"z": "s"}),
            # It has no tag, so no tag may leave it out.
            ([an_object(kind=marked_enum("a"), b=MARKED), an_object(kind=marked_enum("b")), {"allOf": [TEXT, an_object(b=TEXT)]}],
             {"kind": "c", "b": "s"}),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("keyword", ["oneOf", "anyOf"])
    def test_still_counts(self, keyword: str, branches: list[Any], body: Any) -> None:
        for order in (branches, branches[::-1]):
            assert "s" not in str(kept({keyword: order}, body, version="3.1.0"))
            found = kept(an_object(v={keyword: order}), {"v": body}, version="3.1.0")
            assert found in (NOTHING, {"v": {}}, {"v": {"kind": "c"}})

    def test_also_if_it_contradicts_what_stands_beside_the_choice(self) -> None:
        node = FREE | {"oneOf": [TEXT | {"properties": {"b": TEXT}}, an_object(b=MARKED, c=MARKED)]}
        assert kept(node, {"b": "s", "c": "1"}) == {"c": "1"}
        scalar = TEXT | {"oneOf": [INTEGER, MARK | {"format": "ipv4"}]}
        assert kept(an_object(v=scalar), {"v": "s"}) is NOTHING

    def test_says_nothing_of_what_it_does_not_declare(self) -> None:
        assert kept({"oneOf": [IMPOSSIBLE, an_object(a=MARKED)]}, {"a": "1"}) == {"a": "1"}
        assert kept({"oneOf": [an_object(b=IMPOSSIBLE), an_object(a=MARKED)]}, {"a": "1"}) == {"a": "1"}


KIND_A = an_object(kind=marked_enum("a", "both"), x=MARKED, y=TEXT)
KIND_B = an_object(kind=marked_enum("b", "both"), x=TEXT, y=MARKED)


class TestNarrowing:
    """A marked property that lists its values selects the branches; nothing else does."""

    @pytest.mark.parametrize("keyword", ["oneOf", "anyOf"])
    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("a", {"kind": "a", "x": "1"}),
            ("b", {"kind": "b", "y": "2"}),
            ("both", {"kind": "both"}),
            ("c", NOTHING),
            (None, NOTHING),
            (7, NOTHING),
            (["a"], NOTHING),
            ({"a": "a"}, NOTHING),
        ],
    )
    def test_the_value_selects_the_branches_that_list_it(
        self, keyword: str, kind: Any, expected: Any
    ) -> None:
        body = {"kind": kind, "x": "1", "y": "2"}
        node = {keyword: [KIND_A, KIND_B]}
        assert kept(an_object(v=node), {"v": body}) == (NOTHING if expected is NOTHING else {"v": expected})
        elements = kept(an_array(node), [body, {"kind": "a"}])
        assert elements == ([{"kind": "a"}] if expected is NOTHING else [expected, {"kind": "a"}])

    def test_a_missing_property_is_like_one_that_fits_none(self) -> None:
        assert kept(an_object(v={"oneOf": [KIND_A, KIND_B]}), {"v": {"x": "s", "y": "s"}}) is NOTHING

    def test_at_the_root_the_receipt_says_no_branch(self) -> None:
        redactor = a_redactor(a_document({"/things": {"post": an_operation({"oneOf": [KIND_A, KIND_B]})}}))
        bodies: list[Any] = [{"kind": "c"}, {}, [], "s", {"kind": None}]
        for body in bodies:
            event = event_of(redactor, a_pair(body=body))
            assert event.receipt.request.reason is BodyReason.NO_BRANCH
            assert text_of(event.resource.request) is None
        event = event_of(redactor, a_pair(body={"kind": "b", "y": "2"}))
        assert text_of(event.resource.request) == '{"kind":"b","y":"2"}'

    @pytest.mark.parametrize(
        ("branches", "body", "expected"),
        [
            # Unmarked in one of them: it may not decide.
            ([KIND_A, an_object(kind=TEXT | {"enum": ["b"]}, y=MARKED)], {"kind": "b", "y": "2", "x": "1"}, {"x": "1"}),
            # Not listed in one of them.
            ([KIND_A, an_object(kind=MARKED, y=MARKED)], {"kind": "a", "x": "1", "y": "s"}, {"kind": "a", "x": "1"}),
            # Denied by one of them.
            ([KIND_A, KIND_B, an_object(kind=DENIED | {"const": "c"})], {"kind": "a", "x": "1"}, NOTHING),
            # Not declared by one of them.
            ([KIND_A, an_object(z=MARKED)], {"kind": "a", "x": "1", "y": "s"}, {"kind": "a", "x": "1"}),
            # The same in all of them: it selects no branch, and its absence is no reason to drop.
            ([an_object(kind=marked_enum("a"), x=MARKED), an_object(kind=marked_enum("a"), x=TEXT)], {"x": "s"}, NOTHING),
            ([an_object(kind=marked_enum("a"), x=MARKED), an_object(kind=marked_enum("a"))], {"x": "1"}, {"x": "1"}),
            # Numbers, booleans and constants list as well; equal numbers are equal however they are written.
            ([an_object(n={"type": "integer", "const": 1} | MARK, x=MARKED), an_object(n={"type": "integer", "const": 2} | MARK)],
             {"n": 1, "x": "1"}, {"n": 1, "x": "1"}),
            ([an_object(n={"type": "boolean", "const": True} | MARK, x=MARKED), an_object(n={"type": "boolean", "const": False} | MARK)],
             {"n": False, "x": "1"}, {"n": False}),
            # A listed value of another type than the schema's is not kept, so it decides nothing.
            ([an_object(n={"type": "integer", "enum": ["a"]} | MARK, x=MARKED), an_object(n={"type": "string", "enum": ["b"]} | MARK)],
             {"n": "a", "x": "1"}, NOTHING),
            # A denial in a branch that was not chosen still denies.
            ([KIND_A, an_object(kind=marked_enum("b"), x=DENIED)], {"kind": "a", "x": "s"}, {"kind": "a"}),
            ([an_object(kind=marked_enum("a"), v=an_object(t=MARKED, u=MARKED)), an_object(kind=marked_enum("b"), v=an_object(t=DENIED))],
             {"kind": "a", "v": {"t": "s", "u": "1"}}, {"kind": "a", "v": {"u": "1"}}),
            # Branches of other kinds do not stand in the way.
            ([KIND_A, KIND_B, TEXT, NULL, an_array(TEXT)], {"kind": "a", "x": "1"}, {"kind": "a", "x": "1"}),
            # A property whose lists share no value goes before one that does not separate all branches.
            ([an_object(s=marked_enum("p", "q"), t=marked_enum("a"), x=MARKED), an_object(s=marked_enum("q", "r"), t=marked_enum("b"), x=TEXT)],
             {"t": "a", "s": "q", "x": "1"}, {"s": "q", "t": "a", "x": "1"}),
        ],
    )  # fmt: skip
    def test_which_property_decides(self, branches: list[Node], body: Any, expected: Any) -> None:
        assert kept(an_object(v={"oneOf": branches}), {"v": body}, version="3.1.0") == (
            NOTHING if expected is NOTHING else {"v": expected}
        )

    def test_a_marked_container_vanishes_too_if_no_branch_fits(self) -> None:
        node = {"oneOf": [KIND_A | MARK, KIND_B | MARK]}
        assert kept(an_object(v=node, w=MARKED), {"v": {"kind": "c"}, "w": "1"}) == {"w": "1"}
        assert kept(an_object(v=node), {"v": None}) == {"v": None}

    def test_nested_tags_select_one_after_the_other(self) -> None:
        inner = {
            "oneOf": [an_object(sub=marked_enum("p"), z=MARKED), an_object(sub=marked_enum("q"), z=TEXT)]
        }
        node = {"oneOf": [{"allOf": [KIND_A, inner]}, KIND_B]}
        assert kept(node, {"kind": "a", "sub": "p", "z": "1", "x": "2"}) == {
            "kind": "a",
            "x": "2",
            "sub": "p",
            "z": "1",
        }
        assert kept(an_object(v=node), {"v": {"kind": "a", "sub": "q", "z": "s"}}) == {
            "v": {"kind": "a", "sub": "q"}
        }
        assert kept(an_object(v=node), {"v": {"kind": "a", "z": "s"}}) is NOTHING
        assert kept(an_object(v=node), {"v": {"kind": "b", "y": "1"}}) == {"v": {"kind": "b", "y": "1"}}

    def test_a_choice_within_a_choice_offers_its_own_branches(self) -> None:
        third = an_object(kind=marked_enum("d"), x=MARKED)
        for node in (
            {"oneOf": [{"anyOf": [KIND_A, KIND_B]}, third]},
            {"anyOf": [third, {"allOf": [{"oneOf": [KIND_A, KIND_B]}, {"title": "t"}]}]},
            {"oneOf": [an_object(v={"oneOf": [KIND_A, KIND_B]}), an_object(v={"oneOf": [KIND_A, third]})]},
        ):
            is_below = "v" in str(node)
            for kind, expected in (
                ("a", {"kind": "a", "x": "1"}),
                ("b", {"kind": "b", "y": "2"}),
                ("c", NOTHING),
            ):
                value: Any = {"kind": kind, "x": "1", "y": "2"}
                found = kept(node if is_below else an_object(v=node), {"v": value})
                assert found == (NOTHING if expected is NOTHING else {"v": expected})

    def test_a_branch_that_does_not_declare_the_object_does_not_stand_in_the_way(self) -> None:
        node = {"oneOf": [an_object(v={"oneOf": [KIND_A, KIND_B]}), an_object(w=MARKED)]}
        assert kept(node, {"v": {"kind": "a", "x": "1"}, "w": "2"}) == {
            "v": {"kind": "a", "x": "1"},
            "w": "2",
        }
        assert kept(node, {"v": {"x": "s"}, "w": "2"}) == {"w": "2"}

    def test_a_second_tag_separates_what_the_first_leaves_together(self) -> None:
        branches = [
            an_object(kind=marked_enum("a"), sub=marked_enum("p"), x=MARKED),
            an_object(kind=marked_enum("a"), sub=marked_enum("q"), x=TEXT),
            an_object(kind=marked_enum("b"), sub=marked_enum("p"), y=MARKED),
        ]
        body = {"kind": "a", "sub": "p", "x": "1"}
        assert kept({"oneOf": branches}, body) == body
        assert kept({"oneOf": branches}, body | {"sub": "q"}) == {"kind": "a", "sub": "q"}
        assert kept(an_object(v={"oneOf": branches}), {"v": {"kind": "a", "x": "s"}}) is NOTHING

    def test_what_stands_beside_may_mark_the_property(self) -> None:
        unmarked = [an_object(kind=TEXT | {"enum": [each]}, **{each: MARKED}) for each in ("a", "b")]
        node = an_object(kind=MARKED) | {"anyOf": unmarked}
        assert kept(node, {"kind": "a", "a": "1", "b": "s"}) == {"kind": "a", "a": "1"}

    def test_one_operation_of_several_that_tie_does_not_decide_for_the_others(self) -> None:
        def output(kind: str) -> str | None:
            paths = {
                "/things/{a}/x": {"post": an_operation({"oneOf": [KIND_A, KIND_B]}, operationId="one")},
                "/things/{b}/x": {
                    "post": an_operation(an_object(kind=TEXT, x=MARKED, y=MARKED), operationId="two")
                },
            }
            body = {"kind": kind, "x": "s", "y": "s"}
            return text_of(
                event_of(a_redactor(a_document(paths)), a_pair(url="/things/1/x", body=body)).resource.request
            )

        assert output("a") is output("b") is None

    def test_a_property_outside_the_envelope_is_no_tag(self) -> None:
        branches = [
            an_object(kind=marked_enum("a"), result=an_object(x=MARKED)),
            an_object(kind=marked_enum("b"), result=an_object(x=TEXT)),
        ]
        document = loaded(
            a_document({"/things": {"post": an_operation(None, {"oneOf": branches})}}), envelope="result"
        )
        for kind in ("a", "b"):
            event = event_of(a_redactor(document), a_pair(answer={"kind": kind, "result": {"x": "s"}}))
            assert event.receipt.response.kept == 0

    def test_several_patterns_for_one_key_do_not_decide_for_one_another(self) -> None:
        narrowing = {"oneOf": [KIND_A, KIND_B]}
        node = FREE | MARK | {"patternProperties": {"^k": narrowing, "k$": an_object(x=MARKED, y=MARKED)}}
        for kind in ("a", "b"):
            assert kept(node, {"k": {"kind": kind, "x": "s", "y": "s"}}, version="3.1.0") == {}


class TestDiscriminator:
    SCHEMAS: Node = {  # noqa: RUF012
        "Cat": an_object(kind=MARKED, purr=MARKED, name=MARKED),
        "Dog": an_object(kind=MARKED, bark=MARKED, name=TEXT),
    }
    REFERENCES: Any = [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Dog"}]  # noqa: RUF012

    def found(self, kind: Any, mapping: Any = None, schemas: Any = None, branches: Any = None) -> Any:
        discriminator: Node = {"propertyName": "kind"} | ({} if mapping is None else {"mapping": mapping})
        node = {"oneOf": branches or self.REFERENCES, "discriminator": discriminator}
        body = {"kind": kind, "purr": "1", "bark": "2", "name": "3"}
        result = kept(an_object(v=node), {"v": body}, schemas=schemas or self.SCHEMAS)
        return NOTHING if result is NOTHING else result["v"]

    CAT: Any = {"purr": "1", "name": "3"}  # noqa: RUF012

    def test_names_of_schemas(self) -> None:
        assert self.found("Cat") == {"kind": "Cat"} | self.CAT
        assert self.found("Dog") == {"kind": "Dog", "bark": "2"}
        assert self.found("cat") is NOTHING

    def test_a_mapping_adds_names(self) -> None:
        mapping = {"c": "#/components/schemas/Cat", "d": "Dog", "x": "#/components/schemas/Missing"}
        assert self.found("c", mapping) == {"kind": "c"} | self.CAT
        assert self.found("d", mapping) == {"kind": "d", "bark": "2"}
        assert self.found("Cat", mapping) == {"kind": "Cat"} | self.CAT
        assert self.found("x", mapping) is NOTHING
        assert self.found("e", mapping) is NOTHING
        assert self.found("Cat", {"Cat": "Dog"}) == {"kind": "Cat", "bark": "2"}

    def test_lists_count_beside_it(self) -> None:
        listed = {
            "Cat": an_object(kind=marked_enum("c"), purr=MARKED, name=MARKED),
            "Dog": an_object(kind=marked_enum("d"), bark=MARKED, name=TEXT),
        }
        assert self.found("c", schemas=listed) == {"kind": "c"} | self.CAT
        assert self.found("Cat", schemas=listed) is NOTHING
        assert self.found("c", {"c": "Cat", "d": "Dog"}, listed) == {"kind": "c"} | self.CAT
        assert self.found("c", {"c": "Dog"}, listed) is NOTHING

    def test_it_must_be_marked_in_all_of_them(self) -> None:
        schemas = self.SCHEMAS | {"Dog": an_object(kind=TEXT, bark=MARKED, name=TEXT)}
        assert self.found("Cat", schemas=schemas) == {"purr": "1", "bark": "2"}

    def test_branches_without_a_name_cannot_be_selected_by_it(self) -> None:
        branches = [self.REFERENCES[0], self.SCHEMAS["Dog"]]
        assert self.found("Cat", branches=branches) == {"kind": "Cat", "purr": "1", "bark": "2"}

    def test_one_that_says_no_property_is_none(self) -> None:
        node = {"oneOf": self.REFERENCES, "discriminator": {"propertyName": 7, "mapping": []}}
        body = {"kind": "Cat", "purr": "1", "bark": "2", "name": "s"}
        assert kept(node, body, schemas=self.SCHEMAS) == {"kind": "Cat", "purr": "1", "bark": "2"}


class TestTenThousandBranches:
    """Compiling costs about as much as the branches are long; what unfolds beyond reason is denied as a whole."""

    def test_of_one_shape(self) -> None:
        branches = [an_object(a=MARKED, b=TEXT) for _ in range(10_000)]
        assert kept({"oneOf": branches}, {"a": "1", "b": "s"}) == {"a": "1"}

    def test_selected_by_a_tag(self) -> None:
        branches = [an_object(kind=marked_enum(f"k{i}"), **{f"p{i}": MARKED}) for i in range(3_000)]
        assert kept({"anyOf": branches}, {"kind": "k7", "p7": "1", "p8": "s"}) == {"kind": "k7", "p7": "1"}

    def test_that_all_lead_back(self) -> None:
        again = {"$ref": "#/components/schemas/R"}
        schemas = {"R": {"oneOf": [an_object(next=again, a=MARKED) for _ in range(10_000)]}}
        assert kept(again, {"next": {"next": {"a": "1"}}}, schemas=schemas) == {"next": {"next": {"a": "1"}}}

    def test_that_double_with_every_level_are_too_many(self) -> None:
        def level(index: int) -> Node:
            below = {"$ref": f"#/components/schemas/S{index + 1}"}
            return {"anyOf": [below, {"allOf": [below, {"title": "t"}]}]}

        schemas = {f"S{i}": level(i) for i in range(40)} | {"S40": an_object(a=MARKED)}
        components = {"schemas": schemas}
        operation = an_operation(an_object(v={"$ref": "#/components/schemas/S0"}))
        document = loaded(a_document({"/things": {"post": operation}}, components=components))
        event = event_of(a_redactor(document), a_pair(body={"v": {"a": "s"}}))
        assert event.receipt.request.kept == 0
        assert "too_complex" in {finding.code for finding in document.findings}
