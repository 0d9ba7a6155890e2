from __future__ import annotations

from typing import Any

import pytest

from schemas.event import BodyReason, UnmatchedReason
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.pairs import NOTHING, a_pair, a_redactor, event_of, kept
from tests.unit.redactor.schemas import MARKED, TEXT, an_object


def test_only_marked_values_survive() -> None:
    schema = an_object(name=MARKED, secret=TEXT, other={"type": "integer"})
    assert kept(schema, {"name": "n", "secret": "s", "other": 1, "undeclared": True}) == {"name": "n"}


@pytest.mark.parametrize("value", ["true", "yes", 1, False, None, [], {}, 0, "false"])
def test_any_value_but_json_true_denies(value: Any) -> None:
    branch = {"type": "string", "x-auditable": value}
    assert kept(an_object(name=branch), {"name": "n"}) is NOTHING
    assert kept(an_object(name={"allOf": [MARKED, branch]}), {"name": "n"}) is NOTHING


def test_unmatched_requests_are_recorded_without_their_bodies() -> None:
    redactor = a_redactor(a_document({"/things": {"post": an_operation(an_object(name=MARKED))}}))
    event = event_of(redactor, a_pair(url="/other/s3cret", body={"name": "n"}))
    assert event.receipt.unmatched is UnmatchedReason.NO_PATH
    assert event.receipt.request.reason is BodyReason.NO_OPERATION
    assert event.raw.uri == "/…"
    assert event.action.result == "success"


def test_unknown_status_and_media_type_deny() -> None:
    redactor = a_redactor(a_document({"/things": {"post": an_operation(an_object(name=MARKED), MARKED)}}))
    event = event_of(
        redactor,
        a_pair(body={"name": "n"}, status=204, answer="n", request_headers={"Content-Type": "text/plain"}),
    )
    assert event.receipt.request.reason is BodyReason.MEDIA_TYPE
    assert event.receipt.response.reason is BodyReason.NO_SCHEMA
