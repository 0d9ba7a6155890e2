"""The same pair gives the same bytes alone, after any others, and repeated."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
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
from tests.property.real_bodies import DOCUMENT_IDS, DOCUMENTS, Described, base_of, read_root

HEADERS: Headers = {"content-type": JSON}
OPERATIONS = 3
IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
_OPERATIONS = 4
"""Operations of a real document in a short run. A long one takes all."""
_ALONE = 100
"""Operations that a redactor of their own meets: compiling one with all that it leads to takes seconds."""
_SHUFFLES = 3
"""Redactors that meet all pairs, and some of them again, each in an order of its own."""


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

    def __init__(self, root: Node) -> None:
        self.root = root
        config = DocumentConfig(Path("document.json"))
        self.document = parse_document(config, json.dumps(root).encode())
        self.config = RedactionConfig(documents=(config,))
        self.operations = [each for each in operations_of(self.document) if each.method != "GET"]

    def redactor(self) -> Redactor:
        return Redactor([self.document], self.config, on_failure=fail)

    def pair(self, operation: Operation, draw: random.Random) -> Capture:
        """A pair of bodies that fit the operation's schemas, as far as these are for JSON or forms."""
        instances = Instances(self.root, draw)
        node: Any = operation.place.node
        answers = node.get("responses", {})
        status = draw.choice([key for key in answers if re.fullmatch(r"[2-5]\d\d", str(key))] or ["200"])
        request, response = (
            self._message(each, instances) for each in (node.get("requestBody"), answers.get(status))
        )
        url = base_of(operation) + re.sub(r"\{[^}]+\}", "x1", operation.template)
        return Capture(
            CapturedRequest(operation.method, url, *request), CapturedResponse(int(status), *response)
        )

    @staticmethod
    def _message(node: Any, instances: Instances) -> tuple[Headers, str | None]:
        described = Described.of(instances.flat(node or {}).get("content", {}))
        body = ABSENT if described is None else instances.value(described.schema)
        return (HEADERS, None) if described is None or body is ABSENT else described.message(body, {})


@dataclass
class Histories:
    """Events of the same pairs from redactors with different histories, each compared with the pair's first one."""

    real: RealDocument
    pairs: list[Capture]
    first: dict[int, bytes] = field(default_factory=dict)
    compared: int = 0

    def run(self, redactor: Redactor, order: Iterable[int]) -> None:
        for index in order:
            event = redactor.redact(self.pairs[index], EVENT_ID)
            assert event is not None
            digest = hashlib.sha256(event).digest()
            assert self.first.setdefault(index, digest) == digest, f"pair {index}"
            self.compared += 1


@pytest.mark.timeout(14_400)
@pytest.mark.parametrize(("name", "marks_at_random"), DOCUMENTS[:3], ids=DOCUMENT_IDS[:3])
def test_bytes_of_real_documents_do_not_depend_on_the_pairs_before(
    real_specs: Path, name: str, *, marks_at_random: bool
) -> None:
    draw = random.Random(11)
    real = RealDocument(read_root(real_specs, name, marks_at_random=marks_at_random))
    examples = settings().max_examples
    operations = real.operations if IS_LONG else draw.sample(real.operations, _OPERATIONS)
    of_pair = [draw.choice(operations) for _ in range(examples)]
    histories = Histories(real, [real.pair(each, draw) for each in of_pair])
    for operation in draw.sample(operations, min(_ALONE, len(operations))):
        # Of no other operation has it seen anything.
        histories.run(real.redactor(), [at for at, each in enumerate(of_pair) if each is operation])
    for _ in range(_SHUFFLES):
        order = [*range(examples), *draw.choices(range(examples), k=examples // 4)]
        draw.shuffle(order)
        histories.run(real.redactor(), order)
    prepared = real.redactor()
    prepared.prepare()
    histories.run(prepared, draw.sample(range(examples), examples))
    print(f"\n{examples} pairs of {len(operations)} operations, {histories.compared} events")  # noqa: T201
