from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_tap.collector import collector_app
from gateway_tap.limits import IntakeLimits
from redactor.config import RedactionConfig
from redactor.pipeline.redactor import Redactor, redact_lines
from schemas.capture import Capture, decode_capture
from schemas.capture_id import capture_id, is_repeatable
from schemas.errors import RefusalReason, RefusedCapture
from schemas.event import event_id
from schemas.identity import derive_id, id_ms, parse_id
from schemas.metric_defs import Metrics
from tests.unit.gateway_tap.servers import FakeSink

KEY = b"k" * 32
GIVEN = "019bec5a21ad7000800000000000abcd"
AT = "2026-01-23T18:25:14.749Z"
AT_MS = 1_769_192_714_749
RECEIVED_MS = AT_MS + 5_000
TAP = {"id": "gw-1", "epoch": 5, "seq": 7}


def capture(request_headers: dict[str, Any] | None = None, **fields: Any) -> Capture:
    request = {"method": "PUT", "url": "/a", "headers": request_headers or {}}
    return decode_capture(msgspec.json.encode({"request": request, "response": {"status": 200}, **fields}))


@pytest.mark.parametrize(
    "text",
    [GIVEN, GIVEN.upper(), "019bec5a-21ad-7000-8000-00000000abcd", "019BEC5A-21AD-7000-8000-00000000ABCD"],
)
def test_keeps_the_captures_own_id(text: str) -> None:
    assert capture_id(capture(id=text, tap=TAP, captured_at="no time"), KEY, RECEIVED_MS) == GIVEN


@pytest.mark.parametrize(
    "text",
    [
        "019bec5a21ad4000800000000000abcd",
        "019bec5a21ad7000c00000000000abcd",
        "019bec5a21ad7000800000000000abcg",
        "019bec5a21ad70008000-00000000-abcd-x",
        "x" * 36,
    ],
)
def test_refuses_an_id_that_is_not_a_uuid7(text: str) -> None:
    with pytest.raises(RefusedCapture) as caught:
        capture_id(capture(id=text), KEY, RECEIVED_MS)
    assert (caught.value.reason, caught.value.path) == (RefusalReason.INVALID, "id: format")


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-01-23T18:25:14", "2026-13-01T00:00:00Z", "1769192714749"]
)
def test_refuses_a_time_that_is_not_rfc_3339(text: str) -> None:
    with pytest.raises(RefusedCapture) as caught:
        capture_id(capture(captured_at=text, tap=TAP), KEY, RECEIVED_MS)
    assert (caught.value.reason, caught.value.path) == (RefusalReason.INVALID, "captured_at: format")


@pytest.mark.parametrize(
    ("headers", "fields", "expected"),
    [
        ({}, {"tap": TAP}, ("gw-1", 5, "seq 7")),
        ({"cf-ray": "9bb"}, {"tap": TAP}, ("gw-1", 5, "seq 7")),
        ({}, {"tap": {"id": "gw-1", "seq": 0}}, ("gw-1", 0, "seq 0")),
        ({"cf-ray": "9bb-FRA"}, {"tap": {"id": "gw-1", "epoch": 5}}, ("gw-1", 5, "cf-ray 9bb-FRA")),
        ({"CF-Ray": "9bb"}, {}, ("", 0, "cf-ray 9bb")),
        ({"X-Request-Id": ["r:1"]}, {}, ("", 0, "x-request-id r:1")),
        ({"cf-ray": "9bb", "x-request-id": "r1"}, {}, ("", 0, "cf-ray 9bb")),
        ({"cf-ray": "not usable", "x-request-id": "r1"}, {}, ("", 0, "x-request-id r1")),
        ({"cf-ray": ["a", "b"], "x-request-id": "r1"}, {}, ("", 0, "x-request-id r1")),
        ({"cf-ray": "a", "CF-RAY": "b", "x-request-id": "r1"}, {}, ("", 0, "x-request-id r1")),
    ],
)
def test_derives_the_same_id_from_the_same_position(
    headers: dict[str, Any], fields: dict[str, Any], expected: tuple[str, int, str]
) -> None:
    sent = capture(headers, captured_at=AT, **fields)
    first = capture_id(sent, KEY, RECEIVED_MS)
    assert first == capture_id(sent, KEY, RECEIVED_MS + 60_000) == derive_id(KEY, AT_MS, *expected)
    assert id_ms(first) == AT_MS
    assert first != capture_id(sent, b"another key", RECEIVED_MS)
    assert is_repeatable(sent)
    assert not is_repeatable(msgspec.structs.replace(sent, captured_at=None))


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({}, {}),
        ({}, {"tap": {"id": "gw-1", "epoch": 5}}),
        ({"cf-ray": ["a", "b"]}, {}),
        ({"cf-ray": []}, {}),
        ({"x-request-id": "a b"}, {}),
        ({"x-request-id": "r" * 129}, {}),
        ({"x-request-id": "r1\n"}, {}),
        ({"x-request-id": "\u0661"}, {}),
    ],
)
def test_draws_an_id_where_there_is_no_position(headers: dict[str, Any], fields: dict[str, Any]) -> None:
    sent = capture(headers, captured_at=AT, **fields)
    first, second = capture_id(sent, KEY, RECEIVED_MS), capture_id(sent, KEY, RECEIVED_MS)
    assert not is_repeatable(sent)
    assert first != second
    assert id_ms(first) == id_ms(second) == AT_MS
    assert parse_id(first) == first


def test_a_sequence_number_and_a_request_id_never_meet() -> None:
    numbered = capture(captured_at=AT, tap={"id": "gw-1", "seq": 7})
    named = capture({"x-request-id": "7"}, captured_at=AT, tap={"id": "gw-1"})
    assert capture_id(numbered, KEY, RECEIVED_MS) != capture_id(named, KEY, RECEIVED_MS)


def test_without_a_time_of_capture_the_time_of_receipt_counts() -> None:
    assert id_ms(capture_id(capture(), KEY, RECEIVED_MS)) == RECEIVED_MS
    numbered = capture(tap=TAP)
    assert id_ms(capture_id(numbered, KEY, RECEIVED_MS)) == RECEIVED_MS
    assert capture_id(numbered, KEY, RECEIVED_MS) != capture_id(numbered, KEY, RECEIVED_MS + 1)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1969-12-31T23:59:59.999Z", 0),
        ("0001-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ("2026-01-23T20:25:14.749999+02:00", AT_MS),
    ],
)
def test_every_time_fits_into_an_id(text: str, at_ms: int) -> None:
    assert id_ms(capture_id(capture(captured_at=text, tap=TAP), KEY, RECEIVED_MS)) == at_ms


@given(st.text(max_size=64), st.text(max_size=200))
def test_no_text_crashes_it(captured_at: str, request_id: str) -> None:
    sent = capture({"cf-ray": request_id}, captured_at=captured_at)
    try:
        assert parse_id(capture_id(sent, KEY, RECEIVED_MS))
    except RefusedCapture as refused:
        assert str(refused) == "not a capture (captured_at: format)"  # noqa: PT017  # both ways are fine


async def test_collector_and_preview_agree() -> None:
    """One key, one input, one id: what `auditap redact` shows is what the collector records."""
    given = {"id": GIVEN}
    counted = {"captured_at": AT, "tap": TAP}
    named = {"captured_at": AT, "request": {"method": "PUT", "url": "/a", "headers": {"cf-ray": "9bb"}}}
    undated = {"tap": TAP}
    early = {"captured_at": "1950-01-01T00:00:00Z", "tap": TAP}
    base: dict[str, Any] = {"request": {"method": "PUT", "url": "/a"}, "response": {"status": 200}}
    wrong_id, wrong_time = {"id": "x" * 32}, {"captured_at": "yesterday", "tap": TAP}
    fields: list[dict[str, Any]] = [given, counted, named, undated, early, wrong_id, wrong_time]
    lines = [msgspec.json.encode(base | each) for each in fields]

    sink = FakeSink()
    app = collector_app(
        sink,
        identity_key=KEY,
        limits=IntakeLimits(),
        tokens=None,
        metrics=Metrics(),
        clock_ms=lambda: RECEIVED_MS,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://collector") as client:
        answer = await client.post(
            "/v1/captures", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"}
        )
    refused: list[dict[str, Any]] = []
    events = redact_lines(
        Redactor((), RedactionConfig()),
        lines,
        lambda index, error: refused.append(
            {"index": index, "reason": error.reason.value, "path": error.path}
        ),
        id_key=KEY,
        now_ms=lambda: RECEIVED_MS,
    )

    assert [event_id(event) for event in events] == [taken.id for taken in sink.accepted]
    received = answer.json()
    # Without `captured_at` the id differs each time.
    assert received.pop("unrepeatable")["first_index"] == fields.index(undated)
    assert received == {"accepted": 5, "refused": refused}
    assert [each["index"] for each in refused] == [5, 6]
