from __future__ import annotations

import pytest

from schemas.capture import Headers
from schemas.event import BodyReason
from tests.unit.redactor.documents import a_document, an_operation, body_of
from tests.unit.redactor.pairs import a_pair, a_redactor, event_of, text_of
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, an_object

SCHEMA = an_object(w=MARKED)


def recorded(declared: list[str], headers: Headers) -> str | None:
    """The request recorded where the document declares these media types, or the reason why none is."""
    body: Node = {"content": {}}
    for each in declared:
        body["content"] |= body_of(SCHEMA, each)["content"]
    redactor = a_redactor(a_document({"/things": {"post": an_operation() | {"requestBody": body}}}))
    pair = a_pair(body={"w": "1", "x": "s"})
    pair = type(pair)(
        request=type(pair.request)("POST", "/things", headers, pair.request.body), response=pair.response
    )
    event = event_of(redactor, pair)
    return event.receipt.request.reason or text_of(event.resource.request)


@pytest.mark.parametrize(
    ("declared", "sent"),
    [
        (["application/json"], "application/json"),
        (["application/json"], "Application/JSON; charset=utf-8"),
        (["application/json; charset=utf-8"], "application/json"),
        (["application/merge-patch+json"], "application/merge-patch+json"),
        (["application/*"], "application/json"),
        (["*/*"], "application/scim+json"),
        (["application/*+json"], "application/scim+json"),
        (["application/json"], 'application/json; charset="UTF-8"; profile=x'),
        (["application/json"], "application/json;charset=us-ascii;"),
    ],
)
def test_json_is_read(declared: list[str], sent: str) -> None:
    assert recorded(declared, {"content-type": sent}) == '{"w":"1"}'


@pytest.mark.parametrize(
    ("declared", "headers"),
    [
        (["application/json"], {"content-type": "text/plain"}),
        (["text/plain"], {"content-type": "text/plain"}),
        (["*/*"], {"content-type": "text/plain"}),
        (["application/json"], {"content-type": "application/scim+json"}),
        (["application/json"], {"content-type": ["application/json", "application/json"]}),
        (["application/json"], {"content-type": "application/json", "Content-Type": "application/json"}),
        (["application/json"], {"content-type": "application/json, text/plain"}),
        (["application/json"], {"content-type": ""}),
        (["application/json"], {"content-type": "application/json; charset=utf-16"}),
        (["application/json"], {"content-type": "application/json; charset=utf-8; charset=latin1"}),
        (["application/*+xml"], {"content-type": "application/scim+json"}),
        (["application/json", "text/plain"], {}),
        (["text/plain"], {}),
    ],
)
def test_anything_else_is_dropped(declared: list[str], headers: Headers) -> None:
    assert recorded(declared, headers) == BodyReason.MEDIA_TYPE


def test_a_message_that_does_not_say_is_json_where_the_document_knows_nothing_else() -> None:
    assert recorded(["application/json"], {}) == '{"w":"1"}'


def test_the_most_specific_range_counts() -> None:
    schemas = {"*/*": "d", "application/*": "c", "application/*+json": "b", "application/scim+json": "a"}
    for sent, expected in (
        ("application/scim+json", "a"),
        ("application/x+json", "b"),
        ("application/json", "c"),
        ("text/x+json", "d"),
    ):
        content: Node = {}
        for each, name in schemas.items():
            content |= body_of(an_object(**{name: MARKED}), each)["content"]
        operation = an_operation() | {"requestBody": {"content": content}}
        body = dict.fromkeys("abcd", "1")
        pair = a_pair(body=body, request_headers={"Content-Type": sent})
        event = event_of(a_redactor(a_document({"/things": {"post": operation}})), pair)
        assert text_of(event.resource.request) == f'{{"{expected}":"1"}}'


PLAIN = an_object(a=MARKED, b=MARKED, c=DENIED)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (PLAIN, '{"a":"1","b":"1"}'),
        (an_object(a=MARKED, b=TEXT, c=MARKED), '{"a":"1"}'),
        (an_object(a=DENIED, b=MARKED), '{"b":"1"}'),
        (an_object(c=MARKED), None),
        # Python takes 1 for equal to true.
        (an_object(a=MARKED | {"x-auditable": 1}, b=MARKED, c=DENIED), '{"b":"1"}'),
    ],
)
@pytest.mark.parametrize(
    "sent", ["application/json", "application/json;simple", "application/json; charset=utf-8"]
)
def test_of_media_types_that_differ_in_parameters_what_all_keep_is_kept(
    other: Node, expected: str | None, sent: str
) -> None:
    for declared in (
        {"application/json": PLAIN, "application/json;simple": other},
        {"application/JSON; version=2": other, "application/json": PLAIN},
    ):
        content = {name: {"schema": schema} for name, schema in declared.items()}
        document = a_document({"/things": {"post": an_operation() | {"requestBody": {"content": content}}}})
        pair = a_pair(body=dict.fromkeys("abc", "1"), request_headers={"Content-Type": sent})
        assert text_of(event_of(a_redactor(document), pair).resource.request) == expected


def test_one_without_a_schema_keeps_nothing_beside_another() -> None:
    content: Node = {"application/json": {"schema": PLAIN}, "application/json;simple": {}}
    document = a_document({"/things": {"post": an_operation() | {"requestBody": {"content": content}}}})
    event = event_of(a_redactor(document), a_pair(body={"a": "s"}))
    assert event.receipt.request.reason is BodyReason.NO_SCHEMA
