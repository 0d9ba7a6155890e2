"""The one invariant: change, add or remove what is not allowed, and the redactor's bytes do not change."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.event import decode_event
from tests.property.captures import Sent, a_document, as_json, as_lines, pairs, redacted
from tests.property.documents import (
    ABSENT,
    CANARY,
    Draw,
    Dressing,
    Node,
    Shape,
    anything,
    mutations,
    roots,
    values,
)


@dataclass(frozen=True)
class Example:
    """A document, a pair that fits it, and the same pair with everything changed that is not allowed."""

    document: Node
    pair: Capture
    mutant: Capture
    kinds: tuple[str, ...]
    """What it is an example of."""
    values: tuple[int, int]
    """How many values request and response hold."""


def count_values(body: Any) -> int:
    """Return how many scalars and empty containers a body holds."""
    parts = list(body.values()) if isinstance(body, dict) else body if isinstance(body, list) else []
    return sum(map(count_values, parts)) or 1


@st.composite
def bodies(draw: Draw, shape: Shape) -> tuple[Any, Any]:
    """Draw a body that keeps and drops something, and its mutant."""
    body = draw(values(shape))
    body.setdefault("kept", None)
    body.setdefault("dropped", "xyz")
    mutant = draw(mutations(shape, body))
    assume(mutant not in (ABSENT, body))
    return body, mutant


@st.composite
def line_bodies(draw: Draw, shape: Shape) -> tuple[list[Any], list[Any]]:
    """Draw the lines of a body, one of which is kept for sure, and their mutants."""
    lines = [draw(values(shape)) for _ in range(draw(st.integers(0, 2)))]
    first, mutant = draw(bodies(shape))
    mutants = draw(mutations(Shape("array", marked=True, parts={"each": shape}), lines))
    return [first, *lines], [mutant, *mutants]


@st.composite
def examples(draw: Draw) -> Example:
    dressing = Dressing(draw)
    shapes: list[Shape] = [draw(roots()), draw(roots())]
    request, response = (dressing.schema(shape) for shape in shapes)
    version = draw(st.sampled_from(["3.0.3", "3.1.0"]))
    in_lines = draw(st.integers(0, 3)) == 0
    asked = draw(line_bodies(shapes[0])) if in_lines else draw(bodies(shapes[0]))
    sent: list[Sent] = [as_lines(draw, each) if in_lines else as_json(draw, each) for each in asked]
    answered = draw(bodies(shapes[1]))
    answers = [as_json(draw, each) for each in answered]
    return Example(
        a_document(version, request, response, dressing.components, sent[0].media_type),
        draw(pairs(sent[0], answers[0])),
        draw(pairs(sent[1], answers[1])),
        ("choice",) * bool(dressing.chosen)
        + ("lines",) * in_lines
        + ("tags",) * bool(dressing.tagged_unions)
        + ("vetoes",) * bool(dressing.vetoed)
        + ("closed",) * bool(dressing.closed),
        (count_values(asked[0]), count_values(answered[0])),
    )


@pytest.mark.timeout(3600)  # ten thousand examples, or a failing one that is made small
def test_what_is_not_allowed_changes_no_byte() -> None:
    tally: Counter[str] = Counter()

    @settings(suppress_health_check=list(HealthCheck))
    @given(examples())
    def holds(example: Example) -> None:
        tally.update(["all", *example.kinds])
        output, mutated = redacted(example.document, example.pair, example.mutant)
        receipt = decode_event(output).receipt
        for body, count in zip((receipt.request, receipt.response), example.values, strict=True):
            assert body.kept, "every example keeps something"
            tally["dropped"] += body.kept < count
        assert output == mutated
        assert CANARY not in output.decode()
        assert "xyz" not in output.decode()

    holds()
    assert tally["dropped"] == 2 * tally["all"]
    assert tally["choice"] > 0.3 * tally["all"]
    assert tally["lines"] > 0.1 * tally["all"]
    assert tally["tags"] > 0.1 * tally["all"]
    assert tally["vetoes"] > 0.05 * tally["all"]
    assert tally["closed"] > 0.1 * tally["all"]


HEADERS: Headers = {"content-type": "application/json"}


@given(st.sampled_from(["GET", "HEAD", "OPTIONS", "TRACE"]), st.lists(anything(), min_size=2, max_size=2))
def test_bodies_of_reading_methods_change_no_byte(method: str, bodies: list[Any]) -> None:
    marked = {"type": "object", "x-auditable": True}
    document = a_document("3.0.3", marked, marked, {})
    item = document["paths"]["/accounts/{account_id}/things/{name}"]
    item |= dict.fromkeys(("get", "head", "options", "trace"), item["post"])

    def pair(body: Any) -> Capture:
        text = None if body is None else json.dumps(body)
        request = CapturedRequest(method, "/accounts/a1/things/x", dict(HEADERS), text)
        return Capture(request, CapturedResponse(200, dict(HEADERS), text))

    one, other = redacted(document, *map(pair, bodies))
    assert one == other
