"""The same pair gives the same bytes alone, after any others, and repeated."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import parse_document
from redactor.openapi.operations import Operation, operations_of
from redactor.pipeline.redactor import Redactor
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from tests.property.captures import EVENT_ID, JSON, a_document, a_redactor, fail
from tests.property.documents import ABSENT, Draw, Dressing, Node, Shape, roots, values
from tests.property.instances import Instances

HEADERS: Headers = {"content-type": JSON}
OPERATIONS = 3


@st.composite
def documents(draw: Draw) -> tuple[Node, list[Shape]]:
    """Draw a document whose operations share schemas: each refers to those of the ones before it."""
    dressing = Dressing(draw)
    shapes: list[Shape] = [draw(roots()) for _ in range(OPERATIONS)]
    schemas = {f"Root{index}": dressing.schema(shape) for index, shape in enumerate(shapes)}
    links = {f"r{index}": {"$ref": f"#/components/schemas/Root{index}"} for index in range(OPERATIONS)}
    version = draw(st.sampled_from(["3.0.3", "3.1.0"]))
    document = a_document(version, {}, {}, {})
    paths: Node = {}
    for index in range(OPERATIONS):
        schema: Node = {"$ref": f"#/components/schemas/Root{index}"}
        linked: Node = {"type": "object", "properties": {**links, "own": schema}}
        one = a_document(version, schema, linked, {})["paths"].popitem()[1]["post"]
        paths[f"/things{index}"] = {"post": {**one, "operationId": f"op{index}"}}
    components = {**dressing.components, **schemas}
    return {**document, "paths": paths, "components": {"schemas": components}}, shapes


@st.composite
def examples(draw: Draw) -> tuple[Node, list[Capture]]:
    document, shapes = draw(documents())
    found = []
    for index in range(OPERATIONS):
        body = draw(values(shapes[index]))
        answer = {f"r{other}": draw(values(shape)) for other, shape in enumerate(shapes)} | {"own": body}
        status = draw(st.sampled_from([200, 404]))
        found.append(a_pair(f"/things{index}?q=1", body, answer, status))
    return document, found


def a_pair(url: str, body: Any, answer: Any, status: int, method: str = "POST") -> Capture:
    request = CapturedRequest(method, url, HEADERS, as_text(body))
    return Capture(request, CapturedResponse(status, HEADERS, as_text(answer)))


def as_text(body: Any) -> str:
    return json.dumps(body)


def check(new_redactor: Callable[[], Redactor], pairs: Sequence[Capture], order: Sequence[int]) -> None:
    """Compare each pair's event from a redactor of its own with those from one that has seen others."""
    alone = [new_redactor().redact(pair, EVENT_ID) for pair in pairs]
    lazy, prepared = new_redactor(), new_redactor()
    prepared.prepare()
    for redactor in (lazy, prepared):
        for index in (*order, *reversed(order)):
            assert redactor.redact(pairs[index], EVENT_ID) == alone[index]


@pytest.mark.timeout(3600)
@settings(suppress_health_check=list(HealthCheck))
@given(examples(), st.permutations([*range(OPERATIONS), *range(OPERATIONS)]))
def test_bytes_do_not_depend_on_the_pairs_before(
    example: tuple[Node, list[Capture]], order: list[int]
) -> None:
    document, pairs = example
    check(lambda: a_redactor(document), pairs, order)


class RealDocument:
    """A real document and the operations of which bodies are read."""

    def __init__(self, path: Path) -> None:
        text = path.read_bytes()
        config = DocumentConfig(path)
        self.document = parse_document(config, text)
        self.config = RedactionConfig(documents=(config,))
        self.root: Node = json.loads(text)
        self.operations = [each for each in operations_of(self.document) if each.method != "GET"]

    def redactor(self) -> Redactor:
        return Redactor([self.document], self.config, on_failure=fail)

    def pair(self, operation: Operation, draw: random.Random) -> Capture:
        """A pair of JSON bodies that fit the operation's schemas, as far as these are for JSON."""
        instances = Instances(self.root, draw)
        node: Any = operation.place.node
        answers = node.get("responses", {})
        status = draw.choice([key for key in answers if re.fullmatch(r"[2-5]\d\d", str(key))] or ["200"])
        schemas = [
            instances.flat(each or {}).get("content", {}).get(JSON, {}).get("schema", {})
            for each in (node.get("requestBody"), answers.get(status))
        ]
        body, answer = (None if value is ABSENT else value for value in map(instances.value, schemas))
        url = re.sub(r"\{[^}]+\}", "x1", operation.template)
        servers = operation.servers[0].base
        base = "".join("/" + segment.text for segment in servers)
        return a_pair(base + url, body, answer, int(status), operation.method)


_PAIRS = {"fuzz": 40}.get(os.environ.get("HYPOTHESIS_PROFILE", ""), 4)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name",
    ["cloudflare-auditable.openapi.json", "cloudflare-2024.openapi.json", "stripe-all-marked.openapi.json"],
)
def test_bytes_of_real_documents_do_not_depend_on_the_pairs_before(real_specs: Path, name: str) -> None:
    draw = random.Random(11)
    real = RealDocument(real_specs / name)
    pairs = [real.pair(each, draw) for each in draw.sample(real.operations, _PAIRS)]
    order = draw.sample(range(_PAIRS), _PAIRS)
    check(real.redactor, pairs, order)
