"""The JSON Schemas and the types that mirror them say the same."""

from __future__ import annotations

import json
import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.capture import Capture, body_bytes, decode_capture, split_ndjson
from schemas.errors import BuriedEvent, DeadLetterReason, RefusalReason, RefusedCapture
from schemas.event import (
    AuditEvent,
    BodyReason,
    UnmatchedReason,
    decode_event,
    encode_event,
    event_digest,
)
from schemas.explain import contract, validator
from schemas.record import COLUMNS, EnrichmentState
from schemas.sql import migrations, query
from tests.records import event

CANARY = "CANARY7f3a"


@pytest.mark.parametrize("name", ["capture", "audit_event", "audit_record", "dead_letter"])
def test_every_contract_is_a_schema(name: str) -> None:
    assert contract(name)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert not validator(name).is_valid(CANARY)


@pytest.mark.parametrize(("struct", "name"), [(Capture, "capture"), (AuditEvent, "audit_event")])
def test_types_and_schemas_name_the_same_fields(struct: type[msgspec.Struct], name: str) -> None:
    assert_same_fields(struct, contract(name))


def assert_same_fields(struct: type[msgspec.Struct], schema: dict[str, Any]) -> None:
    schema = next((each for each in schema.get("anyOf", []) if each.get("type") == "object"), schema)
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
    assert contract("dead_letter")["properties"]["reason"]["enum"] == [*DeadLetterReason]
    ours = contract("audit_record")["properties"]["auditap"]["properties"]
    assert ours["enrichment"]["enum"] == [*EnrichmentState]


def test_the_record_has_the_events_names() -> None:
    record, audit_event = contract("audit_record")["properties"], contract("audit_event")["properties"]
    for name in ("account", "action", "actor", "raw", "resource", "zone"):
        assert record[name] == audit_event[name]


HEADERS = st.dictionaries(
    st.text(max_size=5), st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2)
)
ODD = st.none() | st.booleans() | st.integers() | st.text(max_size=70) | st.lists(st.integers(), max_size=1)
MESSAGE = {"headers": HEADERS | ODD, "body": ODD, "body_base64": ODD, "truncated": st.booleans() | ODD}
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
def test_the_decoder_takes_exactly_what_the_schema_takes(capture: dict[str, Any]) -> None:
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


def test_what_is_no_event_is_malformed_without_a_value() -> None:
    with pytest.raises(BuriedEvent) as caught:
        decode_event(json.dumps({"id": [CANARY], "action": {}}).encode())
    assert caught.value.reason is DeadLetterReason.MALFORMED
    assert CANARY not in f"{caught.value!r} {caught.value.__context__!r}"


def test_migrations_are_numbered_without_holes() -> None:
    assert [each.number for each in migrations()] == list(range(1, len(migrations()) + 1))
    assert all(each.statements.startswith("-- ") for each in migrations())


@pytest.mark.parametrize("name", ["create_staging", "store_records"])
def test_the_staging_table_and_the_insert_have_the_records_columns(name: str) -> None:
    text = query(name)
    for column in COLUMNS:
        assert text.count(f"{column} ") + text.count(f"{column},") + text.count(f"{column}\n") >= 1
