"""The same pair gives the same bytes whatever was compiled or redacted before it."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from redactor.compile import compiler
from redactor.compile.compiler import Compiler
from redactor.compile.plan import DROP
from redactor.openapi.document import OpenApiDocument
from redactor.report.lint import lint
from redactor.report.operation_fields import DocumentFields
from schemas.event import BodyReason
from tests.unit.redactor.documents import a_document, an_operation, body_of, loaded
from tests.unit.redactor.pairs import EVENT_ID, a_pair, a_redactor, event_of, text_of
from tests.unit.redactor.schemas import MARKED, TEXT, Node, an_object


def ref(name: str) -> Node:
    return {"$ref": f"#/components/schemas/{name}"}


def expandable(cluster: str, size: int) -> dict[str, Node]:
    """Objects that refer to one another by fields that hold an id or either of two of them."""

    def target(index: int) -> Node:
        return ref(f"{cluster}{index % size}")

    def an_expandable(index: int) -> Node:
        fields = {
            f"e{field}": {"anyOf": [MARKED, target(index + 1 + field * 7), target(index * 3 + field + 2)]}
            for field in range(3)
        }
        return an_object(id=MARKED, secret=TEXT, **fields)

    return {f"{cluster}{index}": an_expandable(index) for index in range(size)}


def with_operations(schemas: dict[str, Node], **responses: Node) -> OpenApiDocument:
    """A document with an operation `POST /name` for each response."""
    paths = {
        f"/{name}": {"post": an_operation(response=schema, operationId=name)}
        for name, schema in responses.items()
    }
    return loaded(a_document(paths, components={"schemas": schemas}))


class TestSchemasThatLeadToManyOthers:
    """Each part alone is below what one schema may take; the whole used to be above it unless parts were known."""

    DOCUMENT = with_operations(
        expandable("A", 8) | expandable("B", 8),
        a=ref("A0"),
        b=ref("B0"),
        whole=an_object(a=ref("A0"), b=ref("B0")),
    )
    PAIR = a_pair(url="/whole", answer={"a": {"id": "1", "e0": {"id": "2", "secret": "x"}}, "b": {"id": "3"}})

    def test_are_kept_alone_as_after_their_parts(self) -> None:
        alone = a_redactor(self.DOCUMENT).redact(self.PAIR, EVENT_ID)
        redactor = a_redactor(self.DOCUMENT)
        for url in ("/a", "/b"):
            redactor.redact(a_pair(url=url, answer={"id": "1"}), EVENT_ID)
        assert redactor.redact(self.PAIR, EVENT_ID) == alone
        assert text_of(event_of(redactor, self.PAIR).resource.response) == (
            '{"a":{"id":"1","e0":{"id":"2"}},"b":{"id":"3"}}'
        )


class TestWhatExceedsABound:
    """The bound counts what a schema leads to, whether it is compiled already or not."""

    SCHEMAS = expandable("A", 4)

    @pytest.fixture(autouse=True)
    def bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        document = with_operations(self.SCHEMAS, part=ref("A0"))
        compiled = Compiler(document, a_redactor(document).config.limits)
        part = document.resolve("#/components/schemas/A0")
        assert part is not None
        compiled.compile(part, strict=False)
        monkeypatch.setattr(compiler, "_SCHEMA_STEPS_MAX", compiled.steps)

    def document(self) -> OpenApiDocument:
        whole = an_object(part=ref("A0"), id=MARKED)
        return with_operations(self.SCHEMAS, part=ref("A0"), whole=whole)

    def test_is_dropped_with_a_reason_alone_and_after_its_parts(self) -> None:
        pairs = {name: a_pair(url=f"/{name}", answer={"id": "1"}) for name in ("whole", "part")}
        for order in (("whole", "part"), ("part", "whole"), ("whole", "part", "whole")):
            redactor = a_redactor(self.document())
            receipts = {name: event_of(redactor, pairs[name]).receipt.response for name in order}
            assert receipts["whole"].reason is BodyReason.TOO_COMPLEX
            assert receipts["part"].kept == 1

    def test_is_reported_by_lint(self) -> None:
        document = self.document()
        found = lint(document, a_redactor(document).config).findings
        assert [each.pointer for each in found if each.message == "too complex"] == [
            "/paths/~1whole/post/responses/200/content/application~1json/schema"
        ]

    def test_is_explained(self) -> None:
        document = self.document()
        fields = DocumentFields(document, a_redactor(document).config)
        operation = next(each for each in fields.operations if each.id == "whole")
        found = fields.of(operation)
        assert found is not None
        closed = [body.closed for body in found.response_bodies(200)]
        assert [each and each.reason for each in closed] == [
            "the schema leads to more schemas than can be compiled"
        ]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"{", BodyReason.MALFORMED),
            (b"[" * 200 + b"]" * 200, BodyReason.TOO_DEEP),
            (b'{"id": "1"}', BodyReason.TOO_COMPLEX),
        ],
    )
    def test_comes_after_the_checks_of_the_body(self, text: bytes, reason: BodyReason) -> None:
        event = event_of(a_redactor(self.document()), a_pair(url="/whole", answer=text))
        assert event.receipt.response.reason is reason

    def test_has_its_reason_in_lines_too(self) -> None:
        lines = "application/x-ndjson"
        operation = an_operation() | {"responses": {"200": body_of(an_object(part=ref("A0")), lines)}}
        document = loaded(a_document({"/things": {"post": operation}}, components={"schemas": self.SCHEMAS}))
        pair = a_pair(answer=b'{"id": "1"}\n', response_headers={"Content-Type": lines})
        assert event_of(a_redactor(document), pair).receipt.response.reason is BodyReason.TOO_COMPLEX


def test_what_compiling_takes_does_not_depend_on_the_order() -> None:
    schemas = expandable("A", 3) | expandable("B", 3)
    schemas["A0"]["properties"] |= {"b": ref("B0"), "shared": ref("Shared")}
    schemas["B0"]["properties"]["shared"] = ref("Shared")
    schemas["Shared"] = an_object(x={**MARKED, "enum": ["a"]}, y={"oneOf": [MARKED, an_object(z=MARKED)]})
    steps = set()
    for order in itertools.permutations([("A0", True), ("A0", False), ("B0", False), ("Shared", True)]):
        document = with_operations(schemas)
        compiled = Compiler(document, a_redactor(document).config.limits)
        for name, strict in order:
            place = document.resolve(f"#/components/schemas/{name}")
            assert place is not None
            compiled.compile(place, strict=strict)
        steps.add(compiled.steps)
    assert len(steps) == 1


class TestSchemasOfWhichNothingIsKept:
    """A chain longer than what was compiled at once used to look as if something of it were kept."""

    DEPTH = 40
    SCHEMAS = {f"S{i}": an_object(next=ref(f"S{i + 1}")) for i in range(DEPTH)} | {
        f"S{DEPTH}": an_object(x=TEXT, first=ref("S0"))
    }

    @pytest.mark.parametrize("order", [(0,), (DEPTH, 0), (DEPTH, DEPTH // 2, 0)])
    def test_are_dropped_whatever_was_compiled_before(self, order: tuple[int, ...]) -> None:
        document = with_operations(self.SCHEMAS)
        compiled = Compiler(document, a_redactor(document).config.limits)
        for index in order:
            place = document.resolve(f"#/components/schemas/S{index}")
            assert place is not None
            plan = compiled.compile(place, strict=False)
            assert plan is DROP


class TestAPreparedRedactor:
    """No pair waits for compiling, and the bytes are the same."""

    DOCUMENT = loaded(
        a_document(
            {
                "/things/{id}": {
                    "post": an_operation(an_object(a=MARKED), an_object(b=MARKED), operationId="one")
                    | {"parameters": [{"name": "q", "in": "query", "schema": MARKED}]}
                },
                "/{kind}/all": {
                    "post": an_operation(
                        an_object(a=MARKED), an_object(b=MARKED, c=MARKED), operationId="two"
                    )
                },
                "/errors": {
                    "post": an_operation(operationId="three")
                    | {
                        "responses": {
                            "4xx": body_of(an_object(e=MARKED)),
                            "default": body_of(an_object(d=MARKED)),
                        }
                    }
                },
                "/gets": {"get": an_operation(response=an_object(b=MARKED), operationId="four")},
            }
        )
    )
    PAIRS = (
        a_pair(url="/things/1?q=2", body={"a": "1"}, answer={"b": "2"}),
        a_pair(url="/things/1", body={"a": "1"}, answer={"b": "2"}, status=404),
        a_pair(url="/things/all", body={"a": "1"}, answer={"b": "2", "c": "3"}),
        a_pair(url="/other/all", body={"a": "1"}, answer={"b": "2", "c": "3"}),
        a_pair(url="/errors", answer={"e": "1", "d": "2"}, status=404),
        a_pair(url="/errors", answer={"e": "1", "d": "2"}, status=500),
        a_pair(url="/errors", answer={"e": "1", "d": "2"}, status=201),
        a_pair(method="GET", url="/gets", answer={"b": "1"}),
    )

    def test_compiles_nothing_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings: dict[str, Any] = {"get_responses_kept": frozenset({"four"})}
        expected = [a_redactor(self.DOCUMENT, **settings).redact(each, EVENT_ID) for each in self.PAIRS]
        redactor = a_redactor(self.DOCUMENT, **settings)
        redactor.prepare()

        def fail(*_: object, **__: object) -> None:
            raise AssertionError("compiled while a pair waits")

        monkeypatch.setattr(Compiler, "compile", fail)
        monkeypatch.setattr(msgspec, "defstruct", fail)
        assert [redactor.redact(each, EVENT_ID) for each in self.PAIRS] == expected

    def test_keeps_what_was_expected(self) -> None:
        redactor = a_redactor(self.DOCUMENT)
        redactor.prepare()
        event = event_of(redactor, self.PAIRS[2])
        assert event.receipt.operation == "one|two"
        assert text_of(event.resource.response) == '{"b":"2"}'
