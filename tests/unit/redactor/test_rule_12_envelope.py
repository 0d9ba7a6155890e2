from __future__ import annotations

from typing import Any

import pytest

from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import a_pair, a_redactor, event_of, text_of
from tests.unit.redactor.schemas import MARKED, TEXT, Node, an_object

RESULT = an_object(result=an_object(id=MARKED, key=TEXT), success={"type": "boolean", "x-auditable": True})


def recorded(schema: Node, answer: Any, envelope: str | None = "result") -> tuple[str | None, int | None]:
    document = loaded(a_document({"/things": {"post": an_operation(RESULT, schema)}}), envelope=envelope)
    event = event_of(a_redactor(document), a_pair(body=answer, answer=answer))
    assert text_of(event.resource.request) == '{"result":{"id":"1"},"success":true}'
    return text_of(event.resource.response), event.receipt.response.kept


ANSWER = {"result": {"id": "1", "key": "s"}, "success": True}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (RESULT, ('{"id":"1"}', 1)),
        ({"allOf": [{"type": "object"}, RESULT]}, ('{"id":"1"}', 1)),
        (an_object(result=TEXT, success=MARKED), (None, 0)),
        (an_object(id=MARKED, success={"type": "boolean", "x-auditable": True}), ('{"success":true}', 1)),
    ],
)
def test_the_envelope_is_opened_where_the_root_declares_it(schema: Node, expected: tuple[str, int]) -> None:
    assert recorded(schema, ANSWER) == expected


def test_without_the_setting_the_whole_response_is_recorded() -> None:
    assert recorded(RESULT, ANSWER, None) == ('{"result":{"id":"1"},"success":true}', 2)
