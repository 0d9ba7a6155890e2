from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from redactor.config import DocumentConfig
from redactor.openapi.document import parse_document
from schemas.capture import Headers
from schemas.event import AuditEvent, BodyReason
from tests.unit.redactor.documents import a_document, an_operation, body_of
from tests.unit.redactor.pairs import NOTHING, a_pair, a_redactor, event_of, kept, text_of
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, an_object

DENIALS: list[Node] = [
    {"x-sensitive": True},
    {"x-sensitive": "yes"},
    {"x-auditable": False},
    {"format": "password"},
]


@pytest.mark.parametrize("denial", DENIALS)
class TestADenialOnASchema:
    def test_at_the_value(self, denial: Node) -> None:
        assert kept(an_object(v=MARKED | denial, w=MARKED), {"v": "s", "w": "1"}) == {"w": "1"}

    def test_above_the_value(self, denial: Node) -> None:
        assert kept(an_object(v=an_object(w=MARKED) | denial), {"v": {"w": "s"}}) is NOTHING
        assert kept({"type": "array", "items": MARKED} | denial, ["s"]) is NOTHING

    def test_in_a_branch_of_all_of(self, denial: Node) -> None:
        node = {"allOf": [an_object(w=MARKED), {"type": "object"} | denial]}
        assert kept(an_object(v=node, u=MARKED), {"v": {"w": "s"}, "u": "1"}) == {"u": "1"}
        assert kept({"allOf": [MARKED, denial]}, "s") is NOTHING

    @pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
    def test_beside_a_reference(self, denial: Node, version: str) -> None:
        node = {"$ref": "#/components/schemas/Marked"} | denial
        assert kept(node, "s", version=version, schemas={"Marked": MARKED}) is NOTHING

    @pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
    def test_behind_a_reference_and_on_the_way(self, denial: Node, version: str) -> None:
        schemas = {"A": {"$ref": "#/components/schemas/B"} | denial, "B": MARKED}
        assert kept({"$ref": "#/components/schemas/A"}, "s", version=version, schemas=schemas) is NOTHING

    @pytest.mark.parametrize("keyword", ["not", "if", "then", "else"])
    def test_in_what_never_grants(self, denial: Node, keyword: str) -> None:
        inner = an_object(w={"type": "string"} | denial)
        node = an_object(w=MARKED, u=MARKED) | {keyword: inner}
        assert kept(node, {"w": "s", "u": "1"}, version="3.1.0") == {"u": "1"}
        assert kept(an_object(w=MARKED) | {keyword: denial}, {"w": "s"}, version="3.1.0") is NOTHING

    def test_in_dependent_and_unevaluated_schemas(self, denial: Node) -> None:
        inner = an_object(w=denial)
        node = an_object(w=MARKED, u=MARKED) | {"dependentSchemas": {"u": inner}}
        assert kept(node, {"w": "s", "u": "1"}, version="3.1.0") == {"u": "1"}
        beside = {"allOf": [an_object(w=MARKED), {"unevaluatedProperties": denial}]}
        assert kept(beside, {"w": "s"}, version="3.1.0") is NOTHING
        array = {"allOf": [{"type": "array", "items": MARKED}, {"unevaluatedItems": denial}]}
        assert kept(array, ["s"], version="3.1.0") is NOTHING
        contains = {"type": "array", "items": MARKED, "contains": denial}
        assert kept(contains, ["s"], version="3.1.0") is NOTHING

    @pytest.mark.parametrize("keyword", ["oneOf", "anyOf"])
    def test_in_a_branch_of_a_choice(self, denial: Node, keyword: str) -> None:
        node = {"allOf": [an_object(w=MARKED), {"not": {keyword: [an_object(w=denial)]}}]}
        assert kept(node, {"w": "s"}) is NOTHING

    def test_in_a_schema_that_a_discriminator_names(self, denial: Node) -> None:
        node = an_object(w=MARKED, u=MARKED) | {
            "discriminator": {"propertyName": "u", "mapping": {"x": "#/components/schemas/X"}}
        }
        assert kept(node, {"w": "s", "u": "x"}, schemas={"X": an_object(w=denial)}) == {"u": "x"}

    def test_under_a_declared_property_in_another_branch(self, denial: Node) -> None:
        deep = an_object(v=an_object(w=MARKED, x=MARKED))
        node = {"allOf": [deep, an_object(v=an_object(w=denial))]}
        assert kept(node, {"v": {"w": "s", "x": "1"}}) == {"v": {"x": "1"}}


@pytest.mark.parametrize("denial", DENIALS[:3])
@pytest.mark.parametrize("place", ["body", "reference", "media", "content-of-response", "path-item"])
def test_denials_outside_of_schemas(denial: Node, place: str) -> None:
    schema = an_object(w=MARKED)
    operation = an_operation(schema, schema)
    item: Node = {"post": operation}
    components: Node = {"requestBodies": {"B": body_of(schema)}}
    if place == "body":
        operation["requestBody"] |= denial
    elif place == "reference":
        operation["requestBody"] = {"$ref": "#/components/requestBodies/B"} | denial
    elif place == "media":
        operation["requestBody"]["content"]["application/json"] |= denial
    elif place == "content-of-response":
        operation["responses"]["200"] |= denial
    else:
        item |= denial
    redactor = a_redactor(a_document({"/things": item}, components=components))
    event = event_of(redactor, a_pair(body={"w": "1"}, answer={"w": "2"}))
    request, response = text_of(event.resource.request), text_of(event.resource.response)
    assert request == (None if place != "content-of-response" else '{"w":"1"}')
    assert response == (None if place in ("content-of-response", "path-item") else '{"w":"2"}')


def test_an_operation_that_opts_out_is_recorded_without_bodies_and_query() -> None:
    operation = an_operation(
        an_object(w=MARKED),
        an_object(w=MARKED),
        parameters=[{"name": "q", "in": "query", "schema": MARKED}],
        **{"x-auditable": False},
    )
    redactor = a_redactor(a_document({"/things/{thing_id}": {"post": operation}}))
    event = event_of(redactor, a_pair(url="/things/7?q=s", body={"w": "s"}, answer={"w": "s"}))
    assert event.receipt.operation == "op"
    assert event.receipt.request.reason is BodyReason.OPTED_OUT
    assert event.receipt.response.reason is BodyReason.OPTED_OUT
    assert event.raw.uri == "/things/7"
    assert event.resource.id == "7"


def test_a_mark_on_an_operation_grants_nothing() -> None:
    operation = an_operation(an_object(w={"type": "string"}), **{"x-auditable": True})
    event = event_of(a_redactor(a_document({"/things": {"post": operation}})), a_pair(body={"w": "s"}))
    assert event.receipt.request.kept == 0


@pytest.mark.parametrize(("version", "expected"), [("3.0.3", NOTHING), ("3.1.0", "s")])
def test_a_mark_beside_a_reference_counts_in_3_1_only(version: str, expected: object) -> None:
    node = {"$ref": "#/components/schemas/Text", "x-auditable": True}
    assert kept(node, "s", version=version, schemas={"Text": {"type": "string"}}) == expected


@pytest.mark.parametrize(
    "node",
    [
        {"$ref": "#/components/schemas/Missing"},
        {"$ref": "other.json#/X"},
        {"$ref": 7},
        {"$ref": "#anchor"},
        {"$dynamicRef": "#x"},
        {"$id": "https://example.com/x"},
        {"contentSchema": DENIED},
        {"properties": []},
        {"allOf": {}},
        {"allOf": [7]},
        {"allOf": [False]},
    ],
)
def test_what_cannot_be_read_denies(node: Node) -> None:
    assert kept({"allOf": [MARKED, node]}, "s", version="3.1.0") is NOTHING


def test_a_duplicate_key_in_the_document_denies_what_it_stands_in() -> None:
    document = a_document({"/things": {"post": an_operation(an_object(w=MARKED, u=MARKED))}})
    text = json.dumps(document).replace(
        '"w": {"type": "string", "x-auditable": true}',
        '"w": {"type": "string", "x-auditable": false, "x-auditable": true}',
    )
    parsed = parse_document(DocumentConfig(Path("d.json")), text.encode())
    event = event_of(a_redactor(parsed), a_pair(body={"w": "s", "u": "1"}))
    assert text_of(event.resource.request) == '{"u":"1"}'


class TestDeniedHeaders:
    """A header that the document denies is not recorded, although the configuration reads it."""

    HEADERS: ClassVar[Headers] = {
        "x-actor-id": "u-1",
        "x-actor-email": "who@example.com",
        "x-account-id": "a-1",
    }
    DENYING = (
        {"X-Actor-Email": {"x-sensitive": True}},
        {"x-actor-email": {"schema": {"type": "string", "format": "password"}}},
        {"x-actor-email": {"schema": {"$ref": "#/components/schemas/Secret"}}},
        {"x-actor-email": {"schema": an_object(a=DENIED)}},
        {"x-actor-email": {"content": {"text/plain": {"schema": DENIED}}}},
        {"x-actor-email": {"$ref": "#/components/headers/Who"}},
        {"x-actor-email": {"$ref": "#/components/headers/Missing"}},
    )
    COMPONENTS: ClassVar[Node] = {
        "headers": {"Who": {"x-auditable": False}},
        "schemas": {"Secret": DENIED},
    }

    def event(self, operation: Node, status: int = 200, url: str = "/things", **item: Any) -> AuditEvent:
        document = a_document({"/things": {"post": operation} | item}, components=self.COMPONENTS)
        request: Headers = {"user-agent": "curl", "cf-ray": "r-1", "x-request-id": "r-2"}
        pair = a_pair(url=url, status=status, request_headers=request, response_headers=self.HEADERS)
        return event_of(a_redactor(document), pair)

    @pytest.mark.parametrize("headers", DENYING)
    def test_of_a_response(self, headers: Node) -> None:
        declared = {"200": {"headers": headers | {"X-Actor-Id": {"schema": TEXT}}}}
        event = self.event(an_operation(responses=declared))
        assert (event.actor.email, event.actor.id, event.account.id) == (None, "u-1", "a-1")
        assert event.receipt.refused == ()

    def test_of_another_status_denies_nothing(self) -> None:
        declared = {"200": {}, "4XX": {"headers": self.DENYING[0]}}
        assert self.event(an_operation(responses=declared)).actor.email == "who@example.com"
        assert self.event(an_operation(responses=declared), 404).actor.email is None

    @pytest.mark.parametrize("place", ["headers", "response", "path item", "operation"])
    def test_above_the_declared_header(self, place: str) -> None:
        sensitive: Node = {"x-sensitive": True}
        headers = {"X-Actor-Id": {"schema": TEXT}} | (sensitive if place == "headers" else {})
        response = {"headers": headers} | (sensitive if place == "response" else {})
        operation = an_operation(responses={"200": response}) | (sensitive if place == "operation" else {})
        event = self.event(operation, **(sensitive if place == "path item" else {}))
        assert (event.actor.id, event.actor.email) == (None, "who@example.com")

    @pytest.mark.parametrize(
        "parameter", [{"x-sensitive": True}, {"schema": DENIED}, {"schema": {"x-auditable": False}}]
    )
    def test_of_a_request(self, parameter: Node) -> None:
        named = {"name": "User-Agent", "in": "header", "schema": TEXT} | parameter
        event = self.event(an_operation(parameters=[named]))
        assert (event.raw.user_agent, event.raw.cf_ray_id) == (None, "r-1")
        named["name"] = "CF-Ray"
        event = self.event(an_operation(), parameters=[named])
        assert (event.raw.user_agent, event.raw.cf_ray_id) == ("curl", "r-2")

    def test_an_operation_that_opts_out_says_who_acted(self) -> None:
        response = {"headers": {"X-Actor-Id": {"schema": TEXT}}}
        operation = an_operation(responses={"200": response}, **{"x-auditable": False})
        assert self.event(operation).actor.id == "u-1"

    def test_of_an_altered_request(self) -> None:
        declared = {"200": {"headers": self.DENYING[0]}}
        event = self.event(an_operation(responses=declared), url="//things")
        assert event.receipt.altered
        assert (event.actor.email, event.actor.id) == (None, "u-1")

    def test_of_one_operation_of_several_that_tie(self) -> None:
        denying = an_operation(operationId="a", responses={"200": {"headers": self.DENYING[0]}})
        document = a_document({"/t/{a}": {"post": denying}, "/t/{b}": {"post": an_operation()}})
        event = event_of(a_redactor(document), a_pair(url="/t/1", response_headers=self.HEADERS))
        assert (event.actor.email, event.actor.id) == (None, "u-1")

    def test_what_is_denied_is_not_said_to_be_refused(self) -> None:
        declared = {"200": {"headers": self.DENYING[0]}}
        document = a_document({"/things": {"post": an_operation(responses=declared)}})
        one, other = (
            event_of(a_redactor(document), a_pair(response_headers={"x-actor-email": value}))
            for value in ("who@example.com", "\x01")
        )
        assert one == other
