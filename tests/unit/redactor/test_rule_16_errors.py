from __future__ import annotations

import pytest

from tests.unit.redactor.documents import a_document, an_operation, body_of
from tests.unit.redactor.pairs import a_pair, a_redactor, event_of, text_of
from tests.unit.redactor.schemas import Node, an_object


def field(name: str) -> Node:
    return body_of(an_object(**{name: {"type": "string", "x-auditable": True}}))


BODY = {"exact": "1", "range": "2", "default": "3", "ok": "4"}


@pytest.mark.parametrize(
    ("keys", "status", "expected"),
    [
        (["404", "4XX", "default"], 404, "404"),
        (["404", "4XX", "default"], 403, "4XX"),
        (["404", "4xx", "default"], 403, "4xx"),
        (["404", "4XX", "default"], 500, "default"),
        (["404", "4XX", "5xx"], 599, "5xx"),
        (["404", "4XX"], 500, None),
        (["4XX", "4xx"], 403, None),
        (["200"], 404, None),
        (["200", "2XX"], 201, "2XX"),
        (["200", "default"], 202, "default"),
        (["200", "default"], 204, None),
        (["200", "default"], 304, None),
        (["200", "default"], 103, None),
        (["200", "2XX", "default"], 204, "2XX"),
        (["204", "default"], 204, "204"),
    ],
)
def test_a_body_follows_the_schema_of_its_own_status(
    keys: list[str], status: int, expected: str | None
) -> None:
    operation = an_operation() | {"responses": {key: field(f"of-{key}") for key in keys}}
    body = {f"of-{key}": "v" for key in keys}
    event = event_of(
        a_redactor(a_document({"/things": {"post": operation}})), a_pair(status=status, answer=body)
    )
    assert event.action.result == ("failure" if status >= 400 else "success")
    assert text_of(event.resource.response) == (None if expected is None else f'{{"of-{expected}":"v"}}')


def test_a_broken_reference_to_a_response_denies_that_status_alone() -> None:
    responses = {"200": field("a"), "4XX": {"$ref": "#/components/responses/Missing"}}
    document = a_document({"/things": {"post": an_operation() | {"responses": responses}}})
    redactor = a_redactor(document)
    good = event_of(redactor, a_pair(answer={"a": "1"}))
    bad = event_of(redactor, a_pair(status=404, answer={"a": "s"}))
    assert text_of(good.resource.response) == '{"a":"1"}'
    assert bad.receipt.response.reason == "no_schema"
