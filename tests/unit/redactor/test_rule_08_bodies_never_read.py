from __future__ import annotations

from typing import Any, NoReturn

import pytest

from redactor.pipeline import bodies
from schemas.event import BodyReason, BodyReceipt
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.pairs import a_pair, a_redactor, event_of, text_of
from tests.unit.redactor.schemas import MARKED, Node, an_object

SCHEMA = an_object(w=MARKED)
NEVER = BodyReceipt(reason=BodyReason.GET)


def document(**per_method: Node) -> Node:
    operation = an_operation(SCHEMA, SCHEMA, parameters=[{"name": "q", "in": "query", "schema": MARKED}])
    item = {
        method: operation | {"operationId": f"{method}-things"} | per_method.get(method, {})
        for method in ("get", "head", "post", "options", "trace")
    }
    return a_document({"/things": item})


@pytest.fixture
def _no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("a body was looked at")

    monkeypatch.setattr(bodies, "read_json", refuse)
    monkeypatch.setattr(bodies, "body_bytes", refuse)


@pytest.mark.usefixtures("_no_reading")
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"])
@pytest.mark.parametrize("body", [None, {"w": "s"}, b"\xc3("])
def test_bodies_of_reading_methods_are_not_even_looked_at(method: str, body: Any) -> None:
    answer = b"{" if body is None else body
    redactor = a_redactor(document(get={"x-auditable": True}))
    event = event_of(redactor, a_pair(method=method, url="/things?q=1", body=None, answer={"w": "s"}))
    assert event.receipt.request == event.receipt.response == NEVER
    other = event_of(
        redactor, a_pair(method=method, url="/things?q=1", body={"w": "t"}, answer=answer and None)
    )
    assert other == event


@pytest.mark.usefixtures("_no_reading")
def test_nothing_is_read_of_a_switched_protocol() -> None:
    event = event_of(a_redactor(document()), a_pair(body={"w": "s"}, status=101, answer={"w": "s"}))
    assert event.receipt.request == event.receipt.response == NEVER


def test_an_operator_may_list_operations_whose_get_response_is_kept() -> None:
    redactor = a_redactor(
        document(), get_responses_kept=frozenset({"get-things", "head-things", "trace-things"})
    )
    event = event_of(redactor, a_pair(method="GET", body={"w": "s"}, answer={"w": "1", "x": "s"}))
    assert text_of(event.resource.response) == '{"w":"1"}'
    assert event.receipt.request == NEVER
    for method in ("HEAD", "TRACE"):
        event = event_of(redactor, a_pair(method=method, answer={"w": "s"}))
        assert event.receipt.response == NEVER


def test_an_operation_id_that_is_not_unique_keeps_no_get_response() -> None:
    twice = document(post={"operationId": "get-things"})
    event = event_of(
        a_redactor(twice, get_responses_kept=frozenset({"get-things"})),
        a_pair(method="GET", answer={"w": "s"}),
    )
    assert event.receipt.response == NEVER
