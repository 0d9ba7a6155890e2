from __future__ import annotations

import pytest

from schemas.capture import Headers
from schemas.event import BodyReason
from tests.unit.redactor.pairs import (
    MARKED,
    Node,
    a_document,
    a_pair,
    a_redactor,
    an_object,
    an_operation,
    body_of,
    event_of,
    text_of,
)

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
        (["application/json", "text/plain"], {}),
        (["text/plain"], {}),
    ],
)
def test_anything_else_is_dropped(declared: list[str], headers: Headers) -> None:
    assert recorded(declared, headers) == BodyReason.MEDIA_TYPE


def test_a_message_that_does_not_say_is_json_where_the_document_knows_nothing_else() -> None:
    assert recorded(["application/json"], {}) == '{"w":"1"}'


def test_two_media_types_of_one_essence_are_none() -> None:
    declared = ["application/json", "application/json; version=2"]
    assert recorded(declared, {"content-type": "application/json"}) == BodyReason.NO_SCHEMA


@pytest.mark.parametrize("coding", ["gzip", "identity, br", ["identity", "deflate"], "unknown"])
def test_encoded_bodies_are_dropped(coding: str | list[str]) -> None:
    headers: Headers = {"content-type": "application/json", "Content-Encoding": coding}
    assert recorded(["application/json"], headers) == BodyReason.ENCODING


def test_identity_is_no_encoding() -> None:
    headers: Headers = {"content-type": "application/json", "content-encoding": "identity"}
    assert recorded(["application/json"], headers) == '{"w":"1"}'
