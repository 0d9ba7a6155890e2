"""What real documents hold in store for a redactor, each by name: whatever stands in the unmarked part changes no byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.event import decode_event
from tests.property.captures import EVENT_ID, JSON, a_document
from tests.property.documents import ABSENT, CANARY, Node
from tests.unit.redactor.pairs import a_redactor
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, an_object

HEADERS: Headers = {"content-type": JSON}
MARK = {"x-auditable": True}
SECRET: Any = object()
"""Stands for any value, or none at all."""


class Hazard(NamedTuple):
    """A schema, a body with SECRET in what is not marked, and what is kept of it."""

    schema: Node
    body: Any
    kept: Any
    components: Mapping[str, Node] = {}


def of_kind(kind: str, **properties: Node) -> Node:
    return an_object(type={"type": "string", "enum": [kind]}, **properties)


OTEL = {"type": "array", "items": an_object(authorization=TEXT, url=MARKED) | MARK, **MARK}
NAMED = {"anyOf": [of_kind("a", name=MARKED), of_kind("b", name=MARKED), of_kind("c", value=TEXT)]}
DISPUTED = {"anyOf": [of_kind("a", name=MARKED), of_kind("b", name=TEXT)]}
TREE = {"$ref": "#/components/schemas/Tree"}

HAZARDS = {
    "a marked `otel[]` with its unmarked `authorization`": Hazard(
        an_object(otel=OTEL),
        {"otel": [{"authorization": SECRET, "url": "u"}, {"authorization": SECRET}]},
        {"otel": [{"url": "u"}, {}]},
    ),
    "the sensitive sibling of a marked value": Hazard(
        an_object(name=MARKED, token=DENIED, password=MARKED | {"format": "password"}),
        {"name": "n", "token": SECRET, "password": SECRET},
        {"name": "n"},
    ),
    "the marked root of a response": Hazard(
        an_object(result=an_object(id=MARKED, key=TEXT), errors=TEXT) | MARK,
        {"result": {"id": "i", "key": SECRET}, "errors": SECRET, CANARY: SECRET},
        {"result": {"id": "i"}},
    ),
    "an anyOf whose unmarked `type` would steer a marked `name`": Hazard(
        an_object(it=NAMED), {"it": {"type": SECRET, "name": "n", "value": SECRET}}, {"it": {"name": "n"}}
    ),
    "an anyOf whose unmarked `type` would keep an unmarked `name`": Hazard(
        an_object(ok=MARKED, it=DISPUTED), {"ok": "o", "it": {"type": SECRET, "name": SECRET}}, {"ok": "o"}
    ),
    "a wrapper: the mark beside the `allOf` of a reference": Hazard(
        an_object(it={"allOf": [{"$ref": "#/components/schemas/Inner"}], **MARK}),
        {"it": {"id": "i", "key": SECRET}},
        {"it": {"id": "i"}},
        {"Inner": an_object(id=MARKED, key=TEXT)},
    ),
    "a schema that refers to itself": Hazard(
        TREE,
        {
            "name": "1",
            "secret": SECRET,
            "below": {"name": "2", "secret": SECRET, "below": {"secret": SECRET}},
        },
        {"name": "1", "below": {"name": "2"}},
        {"Tree": an_object(name=MARKED, secret=TEXT, below=TREE)},
    ),
    "an unmarked map of marked values": Hazard(
        an_object(ok=MARKED, labels={"type": "object", "additionalProperties": MARKED}),
        {"ok": "o", "labels": SECRET},
        {"ok": "o"},
    ),
}


_C = CANARY
SECRETS: st.SearchStrategy[Any] = st.sampled_from(
    [
        ABSENT,
        None,
        True,
        False,
        0,
        -1.5,
        10**30,
        "",
        "a",
        "b",
        "c",
        _C,
        [],
        {},
        [_C],
        [[_C], {_C: _C}],
        {_C: [_C]},
    ]
    + [{name: _C} for name in ("name", "url", "type", "below", "id", "result", "secret", "authorization")]
)


def filled(draw: st.DrawFn, body: Any) -> Any:
    """Return the body with anything, or nothing, in place of each SECRET."""
    if body is SECRET:
        return draw(SECRETS)
    if isinstance(body, dict):
        found = {name: filled(draw, part) for name, part in body.items()}
        names = draw(st.permutations([name for name, part in found.items() if part is not ABSENT]))
        return {name: found[name] for name in names}
    return [filled(draw, part) for part in body] if isinstance(body, list) else body


@st.composite
def two(draw: st.DrawFn, body: Any) -> tuple[Any, Any]:
    return filled(draw, body), filled(draw, body)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", HAZARDS)
def test_a_hazard_changes_no_byte(name: str) -> None:
    hazard = HAZARDS[name]
    redactors = [
        a_redactor(a_document(version, hazard.schema, hazard.schema, dict(hazard.components)))
        for version in ("3.0.3", "3.1.0")
    ]

    def pair(body: Any) -> Capture:
        text = json.dumps(body)
        request = CapturedRequest("POST", "/accounts/a1/things/x", dict(HEADERS), text)
        return Capture(request, CapturedResponse(200, dict(HEADERS), text))

    @given(two(hazard.body))
    def holds(bodies: tuple[Any, Any]) -> None:
        for redactor in redactors:
            one, other = (redactor.redact(pair(body), EVENT_ID) for body in bodies)
            assert one == other
            assert one is not None
            assert CANARY not in one.decode()
            resource = decode_event(one).resource
            for recorded in (resource.request, resource.response):
                assert recorded
                assert json.loads(bytes(recorded)) == hazard.kept

    holds()
