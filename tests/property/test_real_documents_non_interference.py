"""The same on large real documents: pairs for random operations, changed in all that was not kept of them."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
from tests.property.instances import Changes, Instances
from tests.property.real_bodies import DOCUMENT_IDS, DOCUMENTS, Described, base_of, read_root

HEADERS: Headers = {"content-type": JSON}
_SECRET = "zqxshut"
"""Stands in what is changed of a URL."""
_KEPT_NAMES = ("id", "uuid", "identifier", "tag")


class RealDocument:
    """A document as it is, or with marks at random, and its operations that have a body."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.reading = Document(root)
        config = DocumentConfig(Path("document.json"))
        document = parse_document(config, json.dumps(self.root).encode())
        self.redactor = Redactor([document], RedactionConfig(documents=(config,)), on_failure=fail)
        self.operations = [
            each
            for each in operations_of(document)
            if each.method != "GET" and self.described(each) != (None, None)
        ]

    def described(self, operation: Operation) -> tuple[Described | None, Described | None]:
        """How an operation's request and its answer to success are described."""
        flat = Instances(self.root, random.Random(0)).flat
        node: Any = operation.place.node
        answer: Node = next(
            (each for key, each in node.get("responses", {}).items() if str(key).startswith("2")), {}
        )
        request, response = (
            Described.of(flat(each).get("content", {})) for each in (node.get("requestBody"), answer)
        )
        return request, response

    def pair(self, operation: Operation, bodies: list[Any], secret: str = "") -> Capture:
        """A pair with these bodies; with `secret`, everything else that may not leave holds it."""
        status = next(
            (int(key) for key in operation.place.node["responses"] if re.fullmatch(r"2\d\d", str(key))), 200
        )
        headers: Headers = {"authorization": secret, "cookie": [secret, secret]} if secret else {}
        messages = [
            (headers | HEADERS, None)
            if described is None or body is ABSENT
            else described.message(body, headers)
            for described, body in zip(self.described(operation), bodies, strict=True)
        ]
        request = CapturedRequest(operation.method, self._url(operation, secret), *messages[0])
        return Capture(request, CapturedResponse(status, *messages[1]))

    def _url(self, operation: Operation, secret: str) -> str:
        open_names = self._unmarked(operation, "path") if secret else []

        def value(variable: re.Match[str]) -> str:
            return _SECRET if variable[1] in open_names else "x1"

        path = base_of(operation) + re.sub(r"\{([^{}]+)\}", value, operation.template)
        if not secret:
            return path
        names = [secret, *self._unmarked(operation, "query")]
        query = "&".join(f"{quote(name)}={_SECRET}" for name in names)
        return f"{path}?{query}#{secret}"

    def _unmarked(self, operation: Operation, location: str) -> list[str]:
        """The parameters of which neither mark nor name lets anything be recorded."""
        listed = [
            self.reading.resolve(each)
            for node in (*(each.node for each in operation.path_items), operation.place.node)
            for each in node.get("parameters", ())
        ]
        found = [each for each in listed if each["in"] == location]
        marked = {
            each["name"] for each in found if "x-auditable" in json.dumps(each) or "$ref" in json.dumps(each)
        }
        return [
            each["name"]
            for each in found
            if each["name"] not in marked
            and not (location == "path" and each["name"].lower().endswith(_KEPT_NAMES))
        ]

    def event(self, pair: Capture) -> bytes:
        value = self.redactor.redact(pair, EVENT_ID)
        assert value is not None
        return value


@pytest.fixture(scope="module", params=DOCUMENTS, ids=DOCUMENT_IDS)
def document(request: pytest.FixtureRequest, real_specs: Path) -> RealDocument:
    name, marks_at_random = request.param
    return RealDocument(read_root(real_specs, name, marks_at_random=marks_at_random))


@pytest.mark.timeout(14_400)
def test_what_is_not_kept_changes_no_byte(document: RealDocument) -> None:
    tally: Counter[str] = Counter()

    @settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    @given(st.integers(0, 2**32))
    def holds(seed: int) -> None:
        draw = random.Random(seed)
        operation = draw.choice(document.operations)
        instances = Instances(document.root, draw)
        changes = Changes(document.reading, draw)
        described = document.described(operation)
        bodies = [ABSENT if each is None else instances.value(each.schema) for each in described]
        # A body that comes or goes shows in the receipt, so the mutants stay bodies.
        mutants = [
            body if each is None or (mutant := changes.of(each.schema, body)) is ABSENT else mutant
            for each, body in zip(described, bodies, strict=True)
        ]
        output = document.event(document.pair(operation, bodies))
        mutated = document.event(document.pair(operation, mutants, f"{CANARY}1"))
        assert output == mutated
        assert CANARY not in mutated.decode()
        assert _SECRET not in mutated.decode()
        receipt = decode_event(output).receipt
        tally.update(all=1, changes=changes.made)
        # What is asserted of every pair is counted of those that keep something and drop something.
        assume(changes.made and (receipt.request.kept or receipt.response.kept))
        tally.update(keeping=1, forms=described[0] is not None and described[0].media_type != JSON)

    holds()
    print(f"\n{dict(tally)}")  # noqa: T201  the figures of a long run
    assert tally["keeping"] >= settings().max_examples
