"""The same for forms: fields that are not allowed, files and repetitions change no byte."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from schemas.capture import Capture
from schemas.event import decode_event
from tests.canary.pairs import deep_fields
from tests.property.captures import Sent, a_document, as_json, pairs, redacted
from tests.property.documents import (
    ABSENT,
    CANARY,
    Draw,
    Dressing,
    Node,
    Shape,
    anything,
    choices,
    mutations,
    secrets,
    shapes,
    values,
)

FORMS = ["application/x-www-form-urlencoded", "multipart/form-data"]
BOUNDARY = "b-o-u-n-d-a-r-y"
CONTAINERS = ("object", "array", "map", "closed", "free", "tagged")
TEXTS = st.text('abc é+&=;%"\r\n', max_size=6)
FIELDS: dict[str, Node] = {
    "text": {"type": "string"},
    "number": {"type": "number"},
    "flag": {"type": "boolean"},
    "list": {"type": "array", "items": {"type": "string"}},
}
FITTING: dict[str, st.SearchStrategy[list[str]]] = {
    "text": st.lists(TEXTS, min_size=1, max_size=1),
    "number": st.lists(st.integers().map(str) | st.just("1.50"), min_size=1, max_size=1),
    "flag": st.lists(st.sampled_from(["true", "false"]), min_size=1, max_size=1),
    "list": st.lists(TEXTS, min_size=1, max_size=3),
}


class Field(NamedTuple):
    """One field as it is sent."""

    name: str
    text: str
    is_file: bool = False


class Declared(NamedTuple):
    """One property of a form: of a kind of FIELDS, or of this shape, which is sent as JSON or in deep fields."""

    kind: str
    marked: bool
    shape: Shape | None = None
    is_deep: bool = False

    def written(self, name: str, value: Any) -> list[Field]:
        """Write a value of the shape."""
        if not self.is_deep:
            return [Field(name, json.dumps(value))]
        return [Field(field, text) for field, text in deep_fields(name, value)]

    def node(self, dressing: Dressing) -> Node:
        if self.shape is not None:
            return dressing.schema(self.shape)
        return FIELDS[self.kind] | ({"x-auditable": True} if self.marked else {})


@dataclass(frozen=True)
class Example:
    document: Node
    pair: Capture
    mutant: Capture
    is_composed: bool
    is_deep: bool


def write(media_type: str, fields: list[Field]) -> Sent:
    """Write a form; what has no other way is left out: files in a query's clothes."""
    if media_type == FORMS[0]:
        texts = [f"{quote_plus(each.name)}={quote_plus(each.text)}" for each in fields if not each.is_file]
        return Sent("&".join(texts).encode(), media_type)
    parts = []
    for each in fields:
        file_name = '; filename="§.bin"' if each.is_file else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{each.name}"{file_name}\r\n\r\n'
        parts.append(head + each.text + "\r\n")
    return Sent(("".join(parts) + f"--{BOUNDARY}--\r\n").encode(), f"{media_type}; boundary={BOUNDARY}")


@st.composite
def declarations(draw: Draw) -> Declared:
    kind = draw(st.sampled_from([*FIELDS, "object", "object", "deep", "deep"]))
    if kind in FIELDS:
        return Declared(kind, draw(st.booleans()))
    containers = ("object", "tagged") if kind == "object" else CONTAINERS
    shape = draw(shapes(2).filter(lambda each: each.kind in containers))
    return Declared("object", not shape.is_silent(), shape, is_deep=kind == "deep")


@st.composite
def changed(draw: Draw, name: str, declared: Declared, given: list[Field], value: Any) -> list[Field]:
    """Draw what may stand in a field's place without anything to show for it."""
    if declared.marked and given:
        if declared.shape is None or not declared.shape.shows(value):
            return given if declared.shape is None else []
        mutant = draw(mutations(declared.shape, value))
        return given if mutant is ABSENT else declared.written(name, mutant)
    if declared.is_deep:
        return draw(st.just([]) | anything().map(lambda other: declared.written(name, other)))
    a_file = secrets().map(lambda text: [Field(name, text, is_file=declared.kind != "object")])
    twice = secrets().map(lambda text: [Field(name, text), Field(name, text)])
    if declared.marked:
        return draw(st.just([]) | (twice if declared.kind != "list" else st.just([])))
    return draw(st.just([]) | twice | a_file | secrets().map(lambda text: [Field(name, text)]))


@st.composite
def forms(draw: Draw, media_type: str, properties: dict[str, Declared]) -> tuple[Sent, Sent]:
    """Draw a form that fits its properties, and its mutant."""
    fields: list[Field] = []
    mutants: list[Field] = []
    for name, declared in properties.items():
        value = None if declared.shape is None else draw(values(declared.shape))
        is_given = name in ("kept", "dropped") or draw(st.booleans())
        if declared.shape is None:
            texts = draw(FITTING[declared.kind])
            written = [Field(name, text if declared.marked else CANARY + text) for text in texts]
        else:
            written = declared.written(name, value)
        given = written if is_given else []
        fields += given
        mutants += draw(changed(name, declared, given, value))
    others = [Field(draw(secrets()).replace('"', ""), draw(secrets()), draw(st.booleans())) for _ in range(2)]
    # Only the order of fields of one name means anything.
    names = draw(st.permutations(sorted({each.name for each in mutants})))
    mutants.sort(key=lambda each: names.index(each.name))
    return write(media_type, fields), write(media_type, [others[0], *mutants, others[1]])


@st.composite
def examples(draw: Draw) -> Example:
    dressing = Dressing(draw)
    names = st.sampled_from(["a", "b", "c", "id", "é"])
    properties = draw(st.dictionaries(names, declarations(), min_size=1, max_size=4))
    # Hypothesis draws examples that resemble one another, so shares vary widely from run to run.
    if draw(st.integers(0, 9)) < 7:
        base = Shape("object", parts={"a": Shape("string", marked=True), "b": Shape("string")})
        shape = draw(choices(base))
        properties["either"] = Declared("object", not shape.is_silent(), shape)
    properties["dropped"] = Declared(draw(st.sampled_from(["text", "number", "flag"])), marked=False)
    properties["kept"] = Declared(draw(st.sampled_from(list(FIELDS))), marked=True)
    is_deep = any(each.is_deep for each in properties.values())
    # Not every name of a deep field can be written into the head of a part.
    media_type = FORMS[0] if is_deep else draw(st.sampled_from(FORMS))
    encoding = {name: {"style": "deepObject"} for name, each in properties.items() if each.is_deep}
    schema = {
        "type": "object",
        "properties": {name: each.node(dressing) for name, each in properties.items()},
    }
    version = draw(st.sampled_from(["3.0.3", "3.1.0"]))
    form, mutant = draw(forms(media_type, properties))
    assume(form != mutant)
    answer = as_json(draw, {})
    return Example(
        a_document(version, schema, {}, dressing.components, media_type, encoding=encoding),
        draw(pairs(form, answer)),
        draw(pairs(mutant, answer)),
        dressing.chosen > 0,
        is_deep,
    )


@pytest.mark.timeout(3600)
def test_fields_that_are_not_allowed_change_no_byte() -> None:
    tally: Counter[str] = Counter()

    @settings(suppress_health_check=list(HealthCheck))
    @given(examples())
    def holds(example: Example) -> None:
        tally.update(all=1, choice=example.is_composed, deep=example.is_deep)
        output, mutated = redacted(example.document, example.pair, example.mutant)
        # Every form holds the field `dropped`, which no event does.
        assert decode_event(output).receipt.request.kept
        assert b'"dropped"' not in output
        assert output == mutated
        assert CANARY not in output.decode()
        assert "xyz" not in output.decode()

    holds()
    assert tally["choice"] > 0.3 * tally["all"]
    assert tally["deep"] > 0.2 * tally["all"]
