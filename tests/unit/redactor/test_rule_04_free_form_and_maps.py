from __future__ import annotations

from typing import Any, ClassVar

import pytest

from redactor.config import Limits
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.pairs import NOTHING, a_pair, a_redactor, event_of, kept, kept_text, text_of
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, a_marked_object, an_object

FREE: Node = {"type": "object", "x-auditable": True}
MARK: Node = {"x-auditable": True}
ANYTHING = {"z": 1, "a": [{"b": None}], "m": {"x": "y"}}


@pytest.mark.parametrize(
    "node",
    [FREE, FREE | {"properties": {}}, FREE | {"additionalProperties": True}, FREE | {"nullable": True}],
)
def test_a_marked_free_form_object_is_kept_whole_in_its_own_order(node: Node) -> None:
    assert kept_text(node, ANYTHING) == '{"z":1,"a":[{"b":null}],"m":{"x":"y"}}'


@pytest.mark.parametrize(
    "extra",
    [
        {"properties": {"q": TEXT}},
        {"patternProperties": {"q": TEXT}},
        {"additionalProperties": TEXT},
        {"additionalProperties": {}},
        {"additionalProperties": False},
        {"allOf": [an_object(q=TEXT)]},
        {"allOf": [{"additionalProperties": TEXT}]},
        {"allOf": [{"allOf": [an_object(q=TEXT)]}]},
        {"allOf": [{"$ref": "#/components/schemas/Declaring"}]},
        {"not": an_object(q=TEXT)},
    ],
)
def test_what_declares_any_part_is_not_free_form(extra: Node) -> None:
    assert kept(FREE | extra, ANYTHING, schemas={"Declaring": an_object(q=TEXT)}) == {}


@pytest.mark.parametrize(
    "node",
    [
        {},
        {"type": ["object", "string"]},
        {"type": ["object", "array"]},
        {"type": "array"},
        {"type": ["array", "string"], "items": TEXT},
        {"enum": ["s"]},
        {"type": "unknown"},
        {"type": None},
    ],
)
@pytest.mark.parametrize("value", [{"a": 1}, ["s"], "s", 1, None])
def test_a_mark_on_what_has_no_one_type_grants_nothing(node: Node, value: Any) -> None:
    assert kept(an_object(v=node | {"x-auditable": True}), {"v": value}, version="3.1.0") is NOTHING


def test_parts_of_untyped_nodes_keep_their_own_marks() -> None:
    assert kept({"properties": {"a": MARKED, "b": TEXT}}, {"a": "1", "b": "s"}) == {"a": "1"}
    assert kept({"items": MARKED}, ["1", 2]) == ["1"]


def test_a_free_form_object_above_a_limit_keeps_its_presence() -> None:
    document = a_document({"/things": {"post": an_operation(an_object(v=FREE))}})
    deep: Any = 1
    for _ in range(17):
        deep = {"d": deep}
    for value in ({"long": "x" * 70_000}, deep):
        event = event_of(a_redactor(document), a_pair(body={"v": value}))
        assert text_of(event.resource.request) == '{"v":{}}'
    limits = Limits(free_form_bytes_max=100_000, free_form_depth_max=17)
    event = event_of(a_redactor(document, limits=limits), a_pair(body={"v": deep}))
    assert event.receipt.request.kept == 1


class TestMaps:
    def map(self, **keywords: Any) -> Node:
        return {"type": "object", "additionalProperties": MARKED} | keywords

    def test_keys_are_data_so_the_map_must_be_marked_too(self) -> None:
        assert kept(self.map(), {"k": "v"}) is NOTHING
        assert kept(self.map(**{"x-auditable": True}), {"k": "v"}) == {"k": "v"}
        assert kept(self.map(propertyNames={"x-auditable": True}), {"k": "v"}, version="3.1.0") == {"k": "v"}

    def test_entries_are_kept_by_their_values_schema_and_sorted(self) -> None:
        marked = self.map(**{"x-auditable": True})
        assert kept_text(marked, {"b": "1", "a": "2", "c": 3, "é": "4", "Z": "5"}) == (
            '{"Z":"5","a":"2","b":"1","é":"4"}'
        )
        assert kept(self.map(additionalProperties=TEXT, **{"x-auditable": True}), {"k": "s"}) == {}

    def test_declared_properties_come_first_and_are_no_map_keys(self) -> None:
        node = self.map(properties={"z": MARKED, "a": TEXT}, **{"x-auditable": True})
        assert kept_text(node, {"b": "1", "a": "s", "z": "2"}) == '{"z":"2","b":"1"}'

    def test_a_key_that_several_patterns_match_needs_all_of_them(self) -> None:
        node = {
            "type": "object",
            "x-auditable": True,
            "patternProperties": {"^a": MARKED, "b$": TEXT, "^c": MARKED},
        }
        assert kept(node, {"ab": "s", "a": "1", "c": "2", "d": "s"}, version="3.1.0") == {"a": "1", "c": "2"}

    def test_additional_properties_apply_only_to_what_no_pattern_matches(self) -> None:
        node = self.map(patternProperties={"^x": TEXT}, **{"x-auditable": True})
        assert kept(node, {"x1": "s", "y": "1"}, version="3.1.0") == {"y": "1"}

    @pytest.mark.parametrize("pattern", ["(?=a)", r"(a)\1", "(", "(?<!x)k"])
    def test_a_pattern_that_re2_does_not_know_grants_nothing_at_all(self, pattern: str) -> None:
        node = self.map(patternProperties={pattern: MARKED}, **{"x-auditable": True})
        assert kept(node, {"k": "s", "a": "s"}, version="3.1.0") == {}

    def test_denials_of_names_and_entries_deny(self) -> None:
        marked = self.map(**{"x-auditable": True})
        assert kept(marked | {"propertyNames": {"x-sensitive": True}}, {"k": "s"}) is NOTHING
        assert kept(marked | {"patternProperties": {"k": DENIED}}, {"k": "s", "a": "1"}) == {"a": "1"}
        assert kept(marked | {"additionalProperties": DENIED}, {"k": "s"}) == {}
        declared = {"properties": {"k": MARKED}, "additionalProperties": DENIED}
        assert kept({"type": "object", "allOf": [declared]}, {"k": "1"}) == {"k": "1"}
        across = {"allOf": [an_object(k=MARKED), {"additionalProperties": DENIED}]}
        assert kept(across, {"k": "s"}) is NOTHING

    @pytest.mark.parametrize("keyword", ["additionalProperties", "patternProperties"])
    @pytest.mark.parametrize(
        "beside",
        [
            FREE,
            {"x-auditable": True},
            {"propertyNames": {"x-auditable": True}},
            a_marked_object(d=TEXT),
            {"allOf": [FREE]},
            {"oneOf": [FREE, a_marked_object(d=TEXT)]},
        ],
    )
    def test_a_mark_beside_the_map_opens_no_keys(self, keyword: str, beside: Node) -> None:
        marked_values = {"additionalProperties": MARKED, "patternProperties": {"": MARKED}}[keyword]
        a_map = {"type": "object", keyword: marked_values}
        body = {"k": "s", "d": "s"}
        for node in ({"allOf": [a_map, beside]}, {"allOf": [beside, a_map]}, beside | {"allOf": [a_map]}):
            assert kept(node, body, version="3.1.0") in ({}, NOTHING)
        wrapper = {"$ref": "#/components/schemas/M"} | beside
        assert kept(wrapper, body, version="3.1.0", schemas={"M": a_map}) in ({}, NOTHING)
        of_its_own = {"allOf": [a_map | {"x-auditable": True}, beside]}
        assert kept(of_its_own, {"k": "1"}, version="3.1.0") == {"k": "1"}

    def test_every_map_of_one_value_opens_its_own_keys(self) -> None:
        opened = self.map(**{"x-auditable": True})
        by_names = self.map(propertyNames={"x-auditable": True})
        assert kept({"allOf": [opened, self.map()]}, {"k": "s"}) == {}
        assert kept({"allOf": [opened, opened | {"title": "t"}]}, {"k": "1"}) == {"k": "1"}
        assert kept({"allOf": [opened, by_names]}, {"k": "1"}, version="3.1.0") == {"k": "1"}

    @pytest.mark.parametrize(
        "branches",
        [
            {"allOf": [an_object(d=TEXT)]},
            {"anyOf": [an_object(d=TEXT), a_marked_object(e=MARKED)]},
            {"if": {"required": ["k"]}, "then": an_object(d=TEXT)},
            {"dependentSchemas": {"k": an_object(d=TEXT)}},
            {"properties": {"d": TEXT}},
        ],
    )
    @pytest.mark.parametrize("keyword", ["additionalProperties", "patternProperties"])
    def test_what_a_branch_declares_by_name_is_never_kept_through_a_map(
        self, keyword: str, branches: Node
    ) -> None:
        marked_values = {"additionalProperties": MARKED, "patternProperties": {"": MARKED}}[keyword]
        node = FREE | {keyword: marked_values} | branches
        assert kept(node, {"d": "s"}, version="3.1.0") in ({}, NOTHING)

    def test_an_alternative_that_its_tag_excludes_still_declares_its_properties(self) -> None:
        a_map = self.map(**a_marked_object(kind=MARKED | {"const": "a"}))
        other = an_object(kind=MARKED | {"const": "b"}, d=TEXT)
        body = {"kind": "a", "k": "1", "d": "s"}
        assert kept({"oneOf": [a_map, other]}, body, version="3.1.0") == {"kind": "a", "k": "1"}

    CLOSED: ClassVar[Node] = an_object(d=MARKED) | {"additionalProperties": False}
    OPEN: ClassVar[Node] = an_object(e=MARKED)

    @pytest.mark.parametrize(
        ("beside", "expected"),
        [
            ({"allOf": [CLOSED]}, {"d": "1"}),
            ({"allOf": [{"allOf": [OPEN, CLOSED]}]}, {"d": "1"}),
            ({"oneOf": [CLOSED, CLOSED | {"title": "t"}]}, {"d": "1"}),
            ({"oneOf": [CLOSED, OPEN]}, {"k": "2"}),
            ({"oneOf": [CLOSED, TEXT]}, {"d": "1"}),
            ({"not": CLOSED}, {"k": "2"}),
            ({"allOf": [CLOSED | {"additionalProperties": True}]}, {"d": "1", "k": "2"}),
            ({"allOf": [CLOSED | {"patternProperties": {"^k": MARKED}, **MARK}]}, {"d": "1", "k": "2"}),
            ({"allOf": [CLOSED | {"patternProperties": {"^x": MARKED}, **MARK}]}, {"d": "1"}),
        ],
    )
    def test_a_schema_without_undeclared_keys_closes_a_map_beside_it(
        self, beside: Node, expected: Any
    ) -> None:
        node = self.map(**MARK) | beside
        assert kept(node, {"d": "1", "k": "2"}, version="3.1.0") == expected
        wrapped = {"allOf": [beside, self.map(**MARK)]}
        assert kept(wrapped, {"d": "1", "k": "2"}, version="3.1.0") == expected

    def test_an_alternative_closes_its_own_map(self) -> None:
        both = {"allOf": [self.CLOSED, self.map(**MARK)]}
        for keyword in ("oneOf", "anyOf"):
            assert kept({keyword: [both, self.OPEN]}, {"d": "1", "k": "s"}) == {"d": "1"}
            alone = {keyword: [self.CLOSED | MARK, self.map(**MARK)]}
            assert kept(alone, {"k": "2"}) == {"k": "2"}

    def test_a_closed_map_keeps_what_its_patterns_match(self) -> None:
        node = FREE | {"patternProperties": {"^x": MARKED}, "additionalProperties": False}
        assert kept(node, {"xa": "1", "k": "s"}, version="3.1.0") == {"xa": "1"}

    def test_inheriting_documents_open_maps_below_a_mark_and_none_beside_it(self) -> None:
        above = a_marked_object(m=self.map(additionalProperties=TEXT))
        assert kept(above, {"m": {"k": "1"}}, container_marks="inherit") == {"m": {"k": "1"}}
        beside = {"allOf": [self.map(), FREE]}
        assert kept(beside, {"k": "s"}, container_marks="inherit") == {}
