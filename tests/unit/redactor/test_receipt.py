from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from redactor.config import Limits
from schemas.capture import Capture, CapturedRequest, CapturedResponse
from schemas.event import BodyReason, BodyReceipt
from tests.unit.redactor.documents import a_document, an_operation, loaded
from tests.unit.redactor.pairs import EVENT_ID, a_pair, a_redactor, event_of
from tests.unit.redactor.schemas import MARKED, TEXT, an_object

SCHEMA = an_object(a=MARKED, n={"type": "integer", "x-auditable": True}, b=TEXT)
LIMITS = Limits(body_bytes_max=200, depth_max=3)


@dataclass(frozen=True)
class Faults:
    """What is wrong with one request; the first in the receipt's order is its reason."""

    method: str = "POST"
    url: str = "/things"
    media_type: str = "application/json"
    truncated: bool = False
    not_read: bool = False
    encoding: str | None = None
    body: str = '{"a": "1"}'

    def pair(self) -> Capture:
        headers: dict[str, Any] = {"content-type": self.media_type}
        if self.encoding is not None:
            headers["content-encoding"] = self.encoding
        request = CapturedRequest(
            self.method, self.url, headers, self.body, truncated=self.truncated, not_read=self.not_read
        )
        return Capture(request, CapturedResponse(200))


def receipt(faults: Faults, *, operation: Any = None) -> BodyReceipt:
    post = operation or an_operation(SCHEMA)
    document = a_document({"/things": {"post": post, "get": post | {"operationId": "g"}}})
    return event_of(a_redactor(document, limits=LIMITS), faults.pair()).receipt.request


STEPS: list[tuple[BodyReason, dict[str, Any]]] = [
    (BodyReason.TOO_DEEP, {"body": '{"a": [[[1]]]}'}),
    (BodyReason.MALFORMED, {"body": '{"a": [[[1]]'}),
    (BodyReason.TOO_LARGE, {"body": "{" * 201}),
    (BodyReason.ENCODING, {"encoding": "gzip"}),
    (BodyReason.TRUNCATED, {"truncated": True}),
    (BodyReason.NOT_READ, {"not_read": True}),
    (BodyReason.MEDIA_TYPE, {"media_type": "text/html"}),
    (BodyReason.NO_OPERATION, {"url": "/other"}),
    (BodyReason.GET, {"method": "GET"}),
]


def test_the_first_failing_check_counts() -> None:
    faults = Faults()
    assert receipt(faults) == BodyReceipt(kept=1)
    for reason, fault in STEPS:
        faults = replace(faults, **fault)
        assert receipt(faults) == BodyReceipt(reason=reason)


def test_opted_out_goes_before_what_the_document_lacks() -> None:
    without_schema = an_operation()
    assert receipt(Faults(encoding="gzip"), operation=without_schema).reason is BodyReason.NO_SCHEMA
    opted_out = without_schema | {"x-auditable": False}
    assert receipt(Faults(media_type="x/y"), operation=opted_out).reason is BodyReason.OPTED_OUT


@pytest.mark.parametrize("fault", [{"not_read": True}, {"not_read": True, "body": ""}])
def test_a_body_that_the_service_never_read_has_a_reason_of_its_own(fault: dict[str, Any]) -> None:
    assert receipt(replace(Faults(), **fault)) == BodyReceipt(reason=BodyReason.NOT_READ)


@pytest.mark.parametrize(
    ("body", "kept"),
    [('{"a":"1","n":2,"b":"s"}', 2), ('{"b":"s"}', 0), ('{"a":null}', 1), ('{"a":{},"n":"s"}', 0), ("[]", 0)],
)
def test_kept_counts_the_scalars_written(body: str, kept: int) -> None:
    assert receipt(Faults(body=body)) == BodyReceipt(kept=kept)


def test_a_pair_without_bodies_has_no_reasons() -> None:
    event = event_of(
        a_redactor(a_document({"/things": {"post": an_operation(SCHEMA)}})), Faults(body="").pair()
    )
    assert event.receipt.request == event.receipt.response == BodyReceipt()


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (CapturedResponse(200, body="{", complete=False), BodyReason.TRUNCATED),
        (CapturedResponse(200, body="{", truncated=True), BodyReason.TRUNCATED),
        (CapturedResponse(200, truncated=True), BodyReason.TRUNCATED),
        (CapturedResponse(200, body_base64="*"), BodyReason.MALFORMED),
        (CapturedResponse(200, body="{}", body_base64="e30="), BodyReason.MALFORMED),
        (CapturedResponse(200, body='"\ud800"'), BodyReason.MALFORMED),
        (CapturedResponse(200, body_base64="eyJhIjoiMSJ9"), None),
    ],
)
def test_how_a_tap_may_hand_a_body_over(response: CapturedResponse, reason: BodyReason | None) -> None:
    document = a_document({"/things": {"post": an_operation(SCHEMA, SCHEMA)}})
    event = event_of(a_redactor(document), Capture(CapturedRequest("POST", "/things"), response))
    assert event.receipt.response.reason is reason


def test_the_receipt_names_document_and_operation() -> None:
    document = loaded(a_document({"/things": {"post": an_operation(SCHEMA)}}))
    receipt = event_of(a_redactor(document), Faults().pair()).receipt
    assert (receipt.document, receipt.operation, receipt.unmatched) == (document.digest, "op", None)
    assert len(document.digest) == 32


def test_an_operation_without_an_id_is_named_by_method_and_template() -> None:
    operation = an_operation()
    del operation["operationId"]
    document = loaded(a_document({"/things/{id}": {"post": operation}}))
    event = event_of(a_redactor(document), replace(Faults(), url="/things/7").pair())
    assert event.receipt.operation == "POST /things/{id}"
    assert [finding.code for finding in document.findings] == ["no_operation_id"]


@pytest.mark.parametrize("declared", ["a\0b", "a\nb", "\x7f"])
def test_an_id_with_control_characters_names_no_operation(declared: str) -> None:
    """A NUL in the receipt's JSON would make Postgres refuse to read the record's receipt."""
    document = a_document({"/things/{a\0b}": {"post": an_operation(TEXT, operationId=declared)}})
    event = event_of(a_redactor(document), a_pair(url="/things/1"))
    assert event.receipt.operation == "POST /things/{a\ufffdb}"


def test_an_excluded_operation_is_not_recorded() -> None:
    document = a_document({"/things": {"post": an_operation(SCHEMA)}})
    redactor = a_redactor(document, excluded_operations=frozenset({"op"}))
    assert redactor.redact(Faults().pair(), EVENT_ID) is None
    assert redactor.redact(replace(Faults(), url="/other").pair(), EVENT_ID) is not None
