"""The same on large real documents: pairs for random operations, changed in all that was not kept of them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import parse_document
from redactor.openapi.operations import Operation, operations_of
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.event import decode_event
from tests.agreeing import AgreeingRedactor as Redactor
from tests.canary.reading import Document
from tests.property.captures import EVENT_ID, JSON, fail
from tests.property.documents import ABSENT, CANARY, Node
from tests.property.instances import Changes, Instances, marked_at_random

HEADERS: Headers = {"content-type": JSON}
DOCUMENTS = {"cloudflare-auditable.openapi.json": False, "cloudflare-2024.openapi.json": True}


class RealDocument:
    """A document as it is, or with marks at random, and its operations that have a JSON body."""

    def __init__(self, path: Path, *, marks_at_random: bool) -> None:
        self.root: Node = json.loads(path.read_bytes())
        if marks_at_random:
            marked_at_random(self.root, random.Random(7))
        self.reading = Document(self.root)
        config = DocumentConfig(path)
        document = parse_document(config, json.dumps(self.root).encode())
        self.redactor = Redactor([document], RedactionConfig(documents=(config,)), on_failure=fail)
        self.operations = [
            each
            for each in operations_of(document)
            if each.method != "GET" and self.schemas(each) != (None, None)
        ]

    def schemas(self, operation: Operation) -> tuple[Any, Any]:
        """The schemas of an operation's request and of its answer to success."""
        flat = Instances(self.root, random.Random(0)).flat
        node: Any = operation.place.node
        answer: Node = next(
            (each for key, each in node.get("responses", {}).items() if str(key).startswith("2")), {}
        )
        found = [
            flat(each).get("content", {}).get(JSON, {}).get("schema")
            for each in (node.get("requestBody"), answer)
        ]
        return found[0], found[1]

    def pair(self, operation: Operation, bodies: list[Any], secret: str = "") -> Capture:
        status = next(
            (int(key) for key in operation.place.node["responses"] if re.fullmatch(r"2\d\d", str(key))), 200
        )
        path = re.sub(r"\{[^}]+\}", "x1", operation.template)
        others = f"?{secret}={secret}#{secret}" if secret else ""
        texts = [None if body is ABSENT else json.dumps(body) for body in bodies]
        headers = HEADERS | ({"authorization": secret, "cookie": [secret, secret]} if secret else {})
        request = CapturedRequest(operation.method, f"/client/v4{path}{others}", headers, texts[0])
        return Capture(request, CapturedResponse(status, headers, texts[1]))

    def event(self, pair: Capture) -> bytes:
        value = self.redactor.redact(pair, EVENT_ID)
        assert value is not None
        return value


@pytest.fixture(scope="module", params=DOCUMENTS)
def document(request: pytest.FixtureRequest, real_specs: Path) -> RealDocument:
    return RealDocument(real_specs / request.param, marks_at_random=DOCUMENTS[request.param])


@pytest.mark.timeout(3600)
def test_what_is_not_kept_changes_no_byte(document: RealDocument) -> None:
    pairs_counted = 0

    @settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    @given(st.integers(0, 2**32))
    def holds(seed: int) -> None:
        nonlocal pairs_counted
        draw = random.Random(seed)
        operation = draw.choice(document.operations)
        instances = Instances(document.root, draw)
        changes = Changes(document.reading, draw)
        schemas = document.schemas(operation)
        bodies = [ABSENT if each is None else instances.value(each) for each in schemas]
        # A body that comes or goes shows in the receipt, so the mutants stay bodies.
        mutants = [
            body if body is ABSENT or (mutant := changes.of(schema, body)) is ABSENT else mutant
            for schema, body in zip(schemas, bodies, strict=True)
        ]
        output = document.event(document.pair(operation, bodies))
        mutated = document.event(document.pair(operation, mutants, f"{CANARY}1"))
        assert output == mutated
        assert CANARY not in mutated.decode()
        receipt = decode_event(output).receipt
        # What is asserted of every pair is counted of those that keep something and drop something.
        assume(changes.made and (receipt.request.kept or receipt.response.kept))
        pairs_counted += 1

    holds()
    assert pairs_counted >= 300
