from __future__ import annotations

from tests.unit.redactor.pairs import NOTHING, kept
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, a_marked_object, an_object

OTEL: Node = {
    "type": "array",
    "x-auditable": True,
    "items": a_marked_object(authorization=TEXT, url=MARKED),
}


def test_a_marked_container_keeps_its_presence_and_its_marked_descendants() -> None:
    body = {"otel": [{"authorization": "s", "url": "u"}, {"authorization": "s"}]}
    assert kept(an_object(otel=OTEL), body) == {"otel": [{"url": "u"}, {}]}


def test_presence_is_shown_at_least_as_empty() -> None:
    schema = an_object(o=a_marked_object(a=TEXT), l=OTEL)
    assert kept(schema, {"o": {"a": "s"}, "l": []}) == {"o": {}, "l": []}
    assert kept(schema, {"o": "no object", "l": {}}) is NOTHING


def test_inherit_reaches_every_descendant() -> None:
    schema = a_marked_object(
        a=TEXT, deep=an_object(b=TEXT), list={"type": "array", "items": an_object(c=TEXT)}
    )
    body = {"a": "1", "deep": {"b": "2"}, "list": [{"c": "3"}], "undeclared": "s"}
    expected = {"a": "1", "deep": {"b": "2"}, "list": [{"c": "3"}]}
    assert kept(schema, body, container_marks="inherit") == expected
    assert kept(schema, body) == {}


def test_inherit_never_overrides_a_denial() -> None:
    schema = a_marked_object(a=DENIED, b=an_object(c=TEXT) | {"x-auditable": False}, d=TEXT)
    body = {"a": "s", "b": {"c": "s"}, "d": "1"}
    assert kept(schema, body, container_marks="inherit") == {"d": "1"}


def test_inherit_does_not_give_a_type_to_what_has_none() -> None:
    schema = a_marked_object(a={}, b={"type": ["string", "object"]}, c={"type": "array"})
    body = {"a": "s", "b": "s", "c": ["s"]}
    assert kept(schema, body, version="3.1.0", container_marks="inherit") == {}
