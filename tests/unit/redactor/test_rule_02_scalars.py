from __future__ import annotations

from typing import Any

import pytest

from tests.unit.redactor.pairs import NOTHING, kept
from tests.unit.redactor.schemas import MARKED, TEXT, an_object

MARK = {"x-auditable": True}


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (MARKED, "text"),
        ({"type": "boolean", **MARK}, False),
        ({"type": "integer", **MARK}, 7),
        ({"type": "number", **MARK}, 1.5),
        ({"type": "number", **MARK}, 7),
        ({"type": "string", "enum": ["a"], **MARK}, "a"),
    ],
)
def test_a_marked_scalar_is_kept(node: Any, value: Any) -> None:
    assert kept(an_object(v=node, other=TEXT), {"v": value, "other": "s"}) == {"v": value}


@pytest.mark.parametrize(
    "array",
    [
        {"type": "array", "items": MARKED},
        {"type": "array", "items": TEXT, **MARK},
        {"type": "array", "items": MARKED, **MARK},
    ],
)
def test_an_array_of_scalars_may_be_marked_in_three_ways(array: Any) -> None:
    assert kept(an_object(v=array), {"v": ["a", "b"]}) == {"v": ["a", "b"]}


def test_the_mark_on_an_array_does_not_reach_arrays_or_objects_within() -> None:
    inner = {"type": "array", "items": TEXT}
    assert kept({"type": "array", "items": inner, **MARK}, [["a"]]) == []
    assert kept({"type": "array", "items": an_object(a=TEXT), **MARK}, [{"a": "s"}]) == []


def test_an_unmarked_array_keeps_nothing() -> None:
    assert kept(an_object(v={"type": "array", "items": TEXT}), {"v": ["a"]}) is NOTHING


@pytest.mark.parametrize("value", [{"a": "s"}, ["s"], 1, True])
def test_a_mark_on_a_scalar_does_not_keep_what_stands_there_instead(value: Any) -> None:
    assert kept(an_object(v=MARKED), {"v": value}) is NOTHING
