"""The one invariant: change, add or remove what is not allowed, and the redactor's bytes do not change."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from redactor.config import DocumentConfig, RedactionConfig
from redactor.document import parse_document
from redactor.redact import Redactor
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.event import decode_event
from schemas.identity import new_id
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
    secrets,
    values,
)

EVENT_ID = new_id(1_769_192_714_749)
HEADERS: Headers = {"content-type": "application/json", "x-actor-id": "u1"}


@dataclass(frozen=True)
class Example:
    """A document, a pair that fits it, and the same pair with everything changed that is not allowed."""

    document: Node
    pair: Capture
    mutant: Capture
    composed: bool


def as_text(draw: Draw, body: Any) -> str:
    """Write a body in one of the ways that JSON allows."""
    return json.dumps(body, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))


def a_document(version: str, request: Node, response: Node, components: dict[str, Node]) -> Node:
    def body(schema: Node) -> Node:
        return {"content": {"application/json": {"schema": schema}}}

    marked = {"type": "string", "x-auditable": True}
    operation = {
        "operationId": "op",
        "parameters": [
            {"name": "q", "in": "query", "schema": marked},
            {"name": "secret", "in": "query", "schema": {"type": "string"}},
        ],
        "requestBody": body(request),
        "responses": {"200": body(response)},
    }
    path = "/accounts/{account_id}/things/{name}"
    return {"openapi": version, "paths": {path: {"post": operation}}, "components": {"schemas": components}}


@st.composite
def urls(draw: Draw) -> str:
    """Draw a URL whose account and `q` are always the same, and all else is secret."""
    secret = st.text("xyz", min_size=1, max_size=3)
    pairs = draw(st.lists(st.tuples(st.sampled_from(["secret", "other", "q2", "x[]"]), secret), max_size=3))
    query = draw(st.permutations([*(f"{name}={value}" for name, value in pairs), "q=kept"]))
    userinfo = draw(st.sampled_from(["", "user:xyz@"]))
    origin = draw(st.sampled_from(["", f"https://{userinfo}example.com"]))
    fragment = draw(st.sampled_from(["", "#xyz"]))
    return f"{origin}/accounts/a1/things/{draw(secret)}?{'&'.join(query)}{fragment}"


@st.composite
def headers(draw: Draw) -> Headers:
    """Draw the headers that are kept among others that are not."""
    others = draw(st.dictionaries(st.sampled_from(["authorization", "Cookie", "x-other", "etag"]), secrets()))
    return {**others, **HEADERS}


@st.composite
def pairs(draw: Draw, request: str, response: str) -> Capture:
    return Capture(
        CapturedRequest("POST", draw(urls()), draw(headers()), request),
        CapturedResponse(200, draw(headers()), response),
        duration_ms=draw(st.none() | st.floats(0, 10)),
    )


@st.composite
def examples(draw: Draw) -> Example:
    dressing = Dressing(draw)
    shapes: list[Shape] = [draw(roots()), draw(roots())]
    schemas = [dressing.schema(shape) for shape in shapes]
    version = draw(st.sampled_from(["3.0.3", "3.1.0"]))
    bodies = [draw(values(shape)) for shape in shapes]
    for body in bodies:
        body.setdefault("kept", draw(st.none()))
    mutants = [draw(mutations(shape, body)) for shape, body in zip(shapes, bodies, strict=True)]
    assume(ABSENT not in mutants)
    return Example(
        a_document(version, schemas[0], schemas[1], dressing.components),
        draw(pairs(*(as_text(draw, body) for body in bodies))),
        draw(pairs(*(as_text(draw, body) for body in mutants))),
        dressing.composed > 0,
    )


def fail() -> None:
    raise AssertionError("redacting failed")


def redacted(document: Node, pair: Capture) -> bytes:
    loaded = parse_document(DocumentConfig(Path("d.json")), json.dumps(document).encode())
    value = Redactor([loaded], RedactionConfig(), on_failure=fail).redact(pair, EVENT_ID)
    assert value is not None
    return value


@pytest.mark.timeout(600)  # a failing example takes its time to become small
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(examples())
def test_what_is_not_allowed_changes_no_byte(example: Example) -> None:
    output = redacted(example.document, example.pair)
    receipt = decode_event(output).receipt
    assert receipt.request.kept
    assert receipt.response.kept
    assert output == redacted(example.document, example.mutant)
    assert CANARY not in output.decode()
    assert "xyz" not in output.decode()
    assume(example.pair.request.body != example.mutant.request.body)
    event(f"composed: {example.composed}")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["GET", "HEAD", "OPTIONS", "TRACE"]), st.lists(anything(), min_size=2, max_size=2))
def test_bodies_of_reading_methods_change_no_byte(method: str, bodies: list[Any]) -> None:
    marked = {"type": "object", "x-auditable": True}
    document = a_document("3.0.3", marked, marked, {})
    item = document["paths"]["/accounts/{account_id}/things/{name}"]
    item |= dict.fromkeys(("get", "head", "options", "trace"), item["post"])

    def output(body: Any) -> bytes:
        text = None if body is None else json.dumps(body)
        request = CapturedRequest(method, "/accounts/a1/things/x", dict(HEADERS), text)
        return redacted(document, Capture(request, CapturedResponse(200, dict(HEADERS), text)))

    assert output(bodies[0]) == output(bodies[1])
