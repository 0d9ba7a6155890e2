"""The JSON Schemas and the types that mirror them say the same."""

from __future__ import annotations

import itertools
import json
import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.capture import Capture, body_bytes, decode_capture, split_ndjson
from schemas.contracts import contract, validator
from schemas.dead_letter import DeadLetterMessage
from schemas.errors import DeadLetterReason, RefusalReason, RefusedCapture, UnprocessableEvent
from schemas.event import (
    AuditEvent,
    BodyReason,
    IdentityKind,
    IdentitySource,
    TokenReason,
    UnmatchedReason,
    decode_event,
    encode_event,
    event_digest,
)
from schemas.heartbeat import (
    REPORT_PREFIX,
    DroppedRange,
    Heartbeat,
    TapEpoch,
    TapReport,
    TapState,
    UnrecordedNumbers,
    contiguous_ranges,
    decode_heartbeat,
    decode_report,
    encode_report,
)
from schemas.record import COLUMNS, EnrichmentState
from schemas.sql import migrations, query
from tests.records import event

CANARY = "CANARY7f3a"


@pytest.mark.parametrize(
    "name", ["capture", "heartbeat", "audit_event", "tap_report", "audit_record", "dead_letter"]
)
def test_every_contract_is_a_schema(name: str) -> None:
    assert contract(name)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert not validator(name).is_valid(CANARY)


@pytest.mark.parametrize(
    ("struct", "name"),
    [
        (Capture, "capture"),
        (AuditEvent, "audit_event"),
        (DeadLetterMessage, "dead_letter"),
        (Heartbeat, "heartbeat"),
        (TapReport, "tap_report"),
        (UnrecordedNumbers, "tap_report/count"),
        (DroppedRange, "heartbeat/dropped"),
    ],
)
def test_types_and_schemas_name_the_same_fields(struct: type[msgspec.Struct], name: str) -> None:
    name, _, part = name.partition("/")
    schema = contract(name)
    assert_same_fields(struct, schema["properties"][part] if part else schema)


def assert_same_fields(struct: type[msgspec.Struct], schema: dict[str, Any]) -> None:
    schema = next((each for each in schema.get("anyOf", []) if each.get("type") == "object"), schema)
    schema = schema.get("items", schema)
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    assert set(fields) == set(schema["properties"])
    assert {name for name, field in fields.items() if field.required} == set(schema.get("required", []))
    for name, field in fields.items():
        inner = struct_in(field.type)
        if inner is not None:
            assert_same_fields(inner, schema["properties"][name])


def struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    candidates = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else [annotation]
    found = [each for each in candidates if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    return found[0] if found else None


def test_closed_lists_are_the_same_in_type_and_schema() -> None:
    receipt = contract("audit_event")["properties"]["receipt"]["properties"]
    assert receipt["request"]["properties"]["reason"]["enum"] == [*BodyReason, None]
    assert receipt["unmatched"]["enum"] == [*UnmatchedReason, None]
    identity = receipt["identity"]["properties"]
    assert identity["source"]["enum"] == [*IdentitySource]
    assert identity["reason"]["enum"] == [*TokenReason, None]
    assert identity["kind"]["enum"] == [*IdentityKind, None]
    assert contract("dead_letter")["properties"]["reason"]["enum"] == [*DeadLetterReason]
    ours = contract("audit_record")["properties"]["auditap"]["properties"]
    assert ours["receipt"]["properties"] == receipt
    assert ours["enrichment"]["enum"] == [*EnrichmentState]


def test_the_record_has_the_events_names() -> None:
    record, audit_event = contract("audit_record")["properties"], contract("audit_event")["properties"]
    for name in ("account", "action", "actor", "raw", "zone"):
        assert record[name] == audit_event[name]
    recorded, published = (dict(each["resource"]["properties"]) for each in (record, audit_event))
    assert recorded.keys() == published.keys()
    for body in ("request", "response"):
        # Strict clients accept objects alone.
        assert recorded.pop(body)["type"] == "object"
        assert "type" not in published.pop(body)
    assert recorded == published


HEADERS = st.dictionaries(
    st.text(max_size=5), st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2)
)
ODD = st.none() | st.booleans() | st.integers() | st.text(max_size=70) | st.lists(st.integers(), max_size=1)
MARK = st.booleans() | ODD
MESSAGE = {"headers": HEADERS | ODD, "body": ODD, "body_base64": ODD, "truncated": MARK, "not_read": MARK}
TAP = st.fixed_dictionaries(
    {"id": st.from_regex(r"[a-z][a-z.:-]{0,70}") | ODD}, optional={"epoch": ODD, "seq": ODD}
)
CAPTURES = st.fixed_dictionaries(
    {
        "request": st.fixed_dictionaries(
            {"method": st.text(max_size=70), "url": st.text(max_size=3)}, optional=MESSAGE
        )
        | ODD,
        "response": st.fixed_dictionaries({"status": st.integers(0, 1100)}, optional=MESSAGE) | ODD,
    },
    optional={
        "tap": TAP | ODD,
        "id": ODD,
        "captured_at": ODD,
        "client_ip": ODD,
        "duration_ms": st.floats() | ODD,
    },
)


@settings(max_examples=300)
@given(CAPTURES)
def test_the_decoder_accepts_exactly_what_the_schema_accepts(capture: dict[str, Any]) -> None:
    line = json.dumps(capture, allow_nan=False, default=str) if not has_nan(capture) else "{}"
    fits = validator("capture").is_valid(json.loads(line))
    assert taken(line.encode()) == fits


def taken(line: bytes) -> bool:
    try:
        decode_capture(line)
    except RefusedCapture:
        return False
    return True


def has_nan(value: Any) -> bool:
    if isinstance(value, dict):
        return any(has_nan(each) for each in value.values())
    return (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf"))  # noqa: PLR0124


@pytest.mark.parametrize(
    ("line", "reason", "path"),
    [
        (b"", RefusalReason.MALFORMED, ""),
        (b"\xff", RefusalReason.MALFORMED, ""),
        (b'{"request": ' + b"[" * 100_000, RefusalReason.INVALID, ""),
        (b"[", RefusalReason.MALFORMED, ""),
        (b'{"request": 1', RefusalReason.MALFORMED, ""),
        (b"[]", RefusalReason.INVALID, "$: type"),
        (b"{}", RefusalReason.INVALID, "request: required"),
        (
            b'{"tap": {"id": "gw\\n"}, "request": {"method": "A", "url": "/"}, "response": {"status": 200}}',
            RefusalReason.INVALID,
            "tap: anyOf",
        ),
        (
            b'{"request": {"method": "A", "url": "/"}, "response": {}}',
            RefusalReason.INVALID,
            "response.status: required",
        ),
        (
            f'{{"request": {{"method": "A", "url": ["{CANARY}"]}}, "response": {{"status": 200}}}}'.encode(),
            RefusalReason.INVALID,
            "request.url: type",
        ),
        (
            f'{{"request": {{"method": "A", "url": "/", "headers": {{"{CANARY}": 1}}}}, "response": {{"status": 200}}}}'.encode(),
            RefusalReason.INVALID,
            "request.headers: anyOf",
        ),
    ],
)
def test_a_refusal_names_declared_fields_and_never_a_value(
    line: bytes, reason: RefusalReason, path: str
) -> None:
    with pytest.raises(RefusedCapture) as caught:
        decode_capture(line)
    assert (caught.value.reason, caught.value.path) == (reason, path)
    assert CANARY not in f"{caught.value!r} {caught.value.__context__!r} {caught.value.__cause__!r}"


def test_a_capture_shows_nothing_of_itself() -> None:
    capture = decode_capture(
        f'{{"request": {{"method": "A", "url": "/{CANARY}"}}, "response": {{"status": 200, "body": "{CANARY}"}}}}'.encode()
    )
    shown = f"{capture!r} {capture} {capture.request!r} {capture.response!r} {capture.__rich_repr__()}"
    assert CANARY not in shown


@pytest.mark.parametrize(
    ("message", "body"),
    [
        ({}, None),
        ({"body": "ä"}, "ä".encode()),
        ({"body_base64": "w6Q="}, "ä".encode()),
        ({"body_base64": ""}, b""),
    ],
)
def test_a_body_is_text_or_base64(message: dict[str, str], body: bytes | None) -> None:
    line = json.dumps({"request": {"method": "A", "url": "/", **message}, "response": {"status": 200}})
    assert body_bytes(decode_capture(line.encode()).request) == body


@pytest.mark.parametrize("message", [{"body_base64": CANARY + "!"}, {"body": CANARY, "body_base64": ""}])
def test_a_body_in_no_form_is_an_error_without_it(message: dict[str, str]) -> None:
    line = json.dumps({"request": {"method": "A", "url": "/", **message}, "response": {"status": 200}})
    request = decode_capture(line.encode()).request
    with pytest.raises(ValueError, match="base64") as caught:
        body_bytes(request)
    assert CANARY not in f"{caught.value!r} {caught.value.__context__!r}"


def test_lines_are_split_at_newlines_alone() -> None:
    assert list(split_ndjson(b"\n{1}\r\n\n \t\n{2\x0b}\n{3}")) == [b"{1}", b"{2\x0b}", b"{3}"]


def test_the_same_event_is_the_same_bytes_and_comes_back() -> None:
    one = event(5)
    assert decode_event(encode_event(one)) == one
    assert event_digest(encode_event(one)) == event_digest(encode_event(decode_event(encode_event(one))))


def test_a_malformed_event_raises_an_error_without_its_values() -> None:
    with pytest.raises(UnprocessableEvent) as caught:
        decode_event(json.dumps({"id": [CANARY], "action": {}}).encode())
    assert caught.value.reason is DeadLetterReason.MALFORMED
    assert CANARY not in f"{caught.value!r} {caught.value.__context__!r}"


def test_migrations_are_numbered_without_holes() -> None:
    assert [each.number for each in migrations()] == list(range(1, len(migrations()) + 1))
    assert all(each.statements.startswith("-- ") for each in migrations())


def test_the_staging_table_has_the_records_columns() -> None:
    text = query("create_staging")
    for column in COLUMNS:
        assert text.count(f"{column} ") + text.count(f"{column},") + text.count(f"{column}\n") >= 1


NUMBER = st.integers(-1, 5) | st.integers((1 << 53) - 2, (1 << 53) + 1) | ODD
RANGE = st.fixed_dictionaries(
    {"first": st.just(1) | NUMBER, "last": st.just(5) | NUMBER, "from_ms": NUMBER, "to_ms": NUMBER},
    optional={"cause": st.sampled_from(["buffer_full", "Full", "a b", "x\n", ""]) | ODD},
)
HEARTBEATS = st.fixed_dictionaries(
    {
        "tap": st.fixed_dictionaries({"id": st.just("t") | ODD, "epoch": st.just(1) | NUMBER}) | ODD,
        **dict.fromkeys(("beat", "at_ms", "started_ms", "pending_since_ms"), st.just(3) | NUMBER),
        "highest": st.just(5) | NUMBER,
        "pending_from": st.just(6) | NUMBER,
        "lease_ms": st.just(100) | st.sampled_from([99, 86_400_000, 86_400_001]) | ODD,
    },
    optional={
        "state": st.sampled_from([*TapState, "dead"]) | ODD,
        "dropped": st.lists(RANGE, max_size=2) | ODD,
    },
)


@given(HEARTBEATS)
def test_a_heartbeat_is_accepted_if_it_fits_the_schema_and_its_numbers_are_in_order(
    heartbeat: dict[str, Any],
) -> None:
    line = json.dumps(heartbeat).encode()
    fits = validator("heartbeat").is_valid(heartbeat)
    dropped = heartbeat.get("dropped", []) if fits else []
    in_order = fits and (
        heartbeat["pending_from"] <= heartbeat["highest"] + 1
        and all(each["first"] <= each["last"] <= heartbeat["highest"] for each in dropped)
    )
    try:
        decode_heartbeat(line)
        was_accepted = True
    except RefusedCapture:
        was_accepted = False
    assert was_accepted == in_order


def heartbeat(**changes: Any) -> Heartbeat:
    tap = TapEpoch("t-1", 7)
    return msgspec.structs.replace(Heartbeat(tap, 1, 2, 2, 3, 4, 2, 30_000), **changes)


@pytest.mark.parametrize(
    "report",
    [
        TapReport(1),
        TapReport(
            1, heartbeat=heartbeat(state=TapState.KILLED, dropped=(DroppedRange(1, 2, "closing", 1, 2),))
        ),
        TapReport(1, count=UnrecordedNumbers(TapEpoch("t-1", 7), excluded=((1, 2),))),
        TapReport(1, heartbeat=heartbeat(), collector="0123456789abcdef" * 2),
    ],
)
def test_a_report_survives_a_round_trip_fits_its_schema_and_has_its_prefix(report: TapReport) -> None:
    value = encode_report(report)
    assert decode_report(value) == report
    assert value.startswith(REPORT_PREFIX)
    assert validator("tap_report").is_valid(json.loads(value))
    assert not encode_event(event(5)).startswith(REPORT_PREFIX)


@pytest.mark.parametrize(
    "value",
    [
        b'{"report":',
        b'{"report":"1"}',
        encode_report(TapReport(1, heartbeat=heartbeat(pending_from=5))),
        encode_report(TapReport(1, heartbeat=heartbeat(dropped=(DroppedRange(2, 1, "x", 1, 1),)))),
        encode_report(TapReport(1, count=UnrecordedNumbers(TapEpoch("t", 1), excluded=((2, 1),)))),
        *(encode_report(TapReport(1, collector=bad)) for bad in ("", "a" * 31, "A" * 32, "a" * 32 + "\n")),
    ],
)
def test_a_report_that_breaks_its_contract_is_dead_lettered(value: bytes) -> None:
    with pytest.raises(UnprocessableEvent):
        decode_report(value)


@given(st.lists(st.integers(0, 40)))
def test_contiguous_ranges_hold_exactly_the_numbers(numbers: list[int]) -> None:
    found = list(contiguous_ranges(sorted(numbers)))
    assert {number for first, last in found for number in range(first, last + 1)} == set(numbers)
    assert all(ours[1] + 1 < theirs[0] for ours, theirs in itertools.pairwise(found))
