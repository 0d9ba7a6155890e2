from __future__ import annotations

import dataclasses
import gzip
import json
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway_tap.body import RejectedBody
from gateway_tap.formats.own import OWN
from gateway_tap.intake import read_batch
from gateway_tap.limits import IntakeLimits
from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import parse_document
from schemas.capture import Capture, body_bytes
from schemas.contracts import schema_path_of_first_error
from schemas.errors import RefusedCapture
from schemas.event import decode_event
from schemas.identity import new_id, parse_rfc3339_ms
from tests.agreeing import AgreeingRedactor
from tests.gateway_formats.encoders import FORMATS, FormatUnderTest
from tests.gateway_formats.pairs import PAIRS, Pair

CANARY = "c4n4ry-5up3r-53cr3t"
LIMITS = IntakeLimits()
EVENT_ID = new_id(1_769_192_714_749)

every_format = pytest.mark.parametrize("under_test", FORMATS, ids=str)
CARRIED = [(each, pair) for each in FORMATS for pair in PAIRS if pair.needs <= each.abilities]
BEYOND = [(each, pair) for each in FORMATS for pair in PAIRS if not pair.needs <= each.abilities]


def named(value: Any) -> str:
    return str(value) if isinstance(value, FormatUnderTest) else value.name


def inflated(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def visible(capture: Capture, *, has_origin: bool = True) -> dict[str, Any]:
    """Return what the captures of one pair have in common, whatever their format; a body is compared as bytes."""
    parts: dict[str, Any] = msgspec.to_builtins(capture)
    for side, message in (("request", capture.request), ("response", capture.response)):
        del parts[side]["body_base64"]
        parts[side]["body"] = body_bytes(message) or None
        parts[side]["headers"] = {name.lower(): value for name, value in message.headers.items()}
    parts["captured_at"] = parse_rfc3339_ms(parts["captured_at"])
    if not has_origin:
        parts["request"]["url"] = parts["request"]["url"].removeprefix("https://api.example.com")
    return parts


def expected(under_test: FormatUnderTest, pair: Pair) -> dict[str, Any]:
    parts = visible(pair.capture, has_origin=under_test.has_origin)
    if not under_test.has_client_ip:
        parts["client_ip"] = None
    return parts


@pytest.fixture(scope="module")
def redactor() -> AgreeingRedactor:
    marked = {"type": "string", "x-auditable": True}
    body = {"type": "object", "properties": {"status": marked, "card_number": {"type": "string"}}}
    content = {"content": {"application/json": {"schema": body}}}
    operation = {
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": marked},
            {"name": "note", "in": "query", "schema": marked},
        ],
        "requestBody": content,
        "responses": {"200": content},
    }
    operations = {name: {**operation, "operationId": name} for name in ("post", "get", "delete", "head")}
    document = {
        "openapi": "3.1.0",
        "servers": [{"url": "https://api.example.com"}],
        "paths": {"/orders/{id}": operations},
    }
    config = DocumentConfig(Path("orders.json"))
    return AgreeingRedactor(
        [parse_document(config, json.dumps(document).encode())], RedactionConfig(documents=(config,))
    )


@pytest.mark.parametrize(("under_test", "pair"), CARRIED, ids=named)
def test_a_pair_becomes_the_capture_that_a_perfect_tap_makes(under_test: FormatUnderTest, pair: Pair) -> None:
    assert visible(
        under_test.format.decode(under_test.encode(pair)), has_origin=under_test.has_origin
    ) == expected(under_test, pair)


@pytest.mark.parametrize(("under_test", "pair"), CARRIED, ids=named)
def test_a_pair_becomes_the_event_that_a_perfect_tap_leads_to(
    under_test: FormatUnderTest, pair: Pair, redactor: AgreeingRedactor
) -> None:
    perfect = pair.capture if under_test.has_client_ip else replace(pair.capture, client_ip=None)
    event = redactor.redact(under_test.format.decode(under_test.encode(pair)), EVENT_ID)
    assert event == redactor.redact(perfect, EVENT_ID)
    assert event is not None
    assert b"4111" not in event


@pytest.mark.parametrize(("under_test", "pair"), BEYOND, ids=named)
def test_a_body_that_the_format_cannot_carry_does_not_read_as_none(
    under_test: FormatUnderTest, pair: Pair
) -> None:
    capture = under_test.format.decode(under_test.encode(pair))
    sides = ((capture.request, pair.request_body), (capture.response, pair.response_body))
    for message, whole in sides:
        # Some formats have bodies inflated.
        kept = body_bytes(message) or b""
        assert message.truncated or kept in (whole or b"", inflated(whole or b""))
    assert capture.request.method == pair.method
    assert capture.response.status == pair.status


@pytest.mark.parametrize("under_test", [each for each in FORMATS if each.format is not OWN], ids=str)
@pytest.mark.parametrize("more", [(), [("X-Header", "1")] * 1_000], ids=["URL", "headers"])
def test_a_request_of_which_not_all_is_known_keeps_its_account_and_no_bodies(
    under_test: FormatUnderTest, more: Sequence[tuple[str, str]], redactor: AgreeingRedactor
) -> None:
    """What was cut off may ask for another method, whose operation is another allow-list."""
    pair = PAIRS[0]
    if more:
        pair = dataclasses.replace(pair, request_headers=(*pair.request_headers, *more))
    else:
        pair = dataclasses.replace(pair, target=f"{pair.target}&{'x' * 70_000}&_method=DELETE")
    try:
        capture = under_test.format.decode(under_test.encode(pair))
    except RefusedCapture:
        assert more
        return
    event = decode_event(redactor.redact(capture, EVENT_ID) or b"")
    assert (event.receipt.operation, event.receipt.altered) == ("post", True)
    assert event.resource.id == "1042"
    assert event.resource.request is event.resource.response is msgspec.UNSET


@pytest.mark.parametrize("under_test", [each for each in FORMATS if each.format is not OWN], ids=str)
def test_what_follows_a_hash_belongs_to_the_target(
    under_test: FormatUnderTest, redactor: AgreeingRedactor
) -> None:
    pair = dataclasses.replace(PAIRS[0], target="/orders/1042#/../../orders/7")
    event = decode_event(redactor.redact(under_test.format.decode(under_test.encode(pair)), EVENT_ID) or b"")
    assert event.receipt.unmatched is not None


@every_format
def test_a_batch_is_split_into_its_pairs(under_test: FormatUnderTest) -> None:
    texts = [under_test.encode(pair) for pair in PAIRS]
    body, content_type = under_test.join(texts)
    batch = read_batch(body, content_type, LIMITS, gateway_format=under_test.format)
    assert batch.refusals == []
    read_from_batch = [visible(capture) for _, capture in batch.captures]
    assert read_from_batch == [visible(under_test.format.decode(text)) for text in texts]
    with pytest.raises(RejectedBody):
        read_batch(body, content_type, LIMITS, gateway_format=under_test.format, captures_max=len(texts) - 1)


@every_format
def test_one_pair_needs_no_batch(under_test: FormatUnderTest) -> None:
    text = under_test.encode(PAIRS[0])
    joined, content_type = under_test.join([text])
    body = joined if under_test.is_in_file else text
    batch = read_batch(body, content_type, LIMITS, gateway_format=under_test.format)
    assert len(batch.captures) == 1


@every_format
def test_a_capture_fits_its_contract(under_test: FormatUnderTest) -> None:
    for pair in PAIRS:
        assert_fits(under_test.format.decode(under_test.encode(pair)))


def assert_fits(capture: Capture) -> None:
    text = msgspec.json.encode(capture)
    assert schema_path_of_first_error("capture", text) == ""
    assert msgspec.to_builtins(msgspec.json.decode(text, type=Capture)) == msgspec.to_builtins(capture)


def read(under_test: FormatUnderTest, body: bytes, content_type: str) -> None:
    """Read a body; fail if an error other than a refusal comes up, or if anything shown holds the canary."""
    try:
        batch = read_batch(body, content_type, LIMITS, gateway_format=under_test.format, captures_max=100)
    except RejectedBody as rejected:
        assert_holds_nothing(rejected)
        return
    assert CANARY not in repr(batch) + repr(batch.captures) + repr(batch.refusals)
    for _, capture in batch.captures:
        assert_fits(capture)


def assert_holds_nothing(error: BaseException) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    assert CANARY not in shown
    assert error.__context__ is None or isinstance(error.__context__, RefusedCapture)


def decode_or_refuse(under_test: FormatUnderTest, text: bytes) -> None:
    try:
        capture = under_test.format.decode(text)
    except RefusedCapture as refused:
        assert_holds_nothing(refused)
        return
    assert CANARY not in repr(capture)
    assert_fits(capture)


@every_format
@given(body=st.binary(max_size=300), content_type=st.sampled_from(["", "application/json", "text/plain"]))
@example(body=b"", content_type="application/json")
@example(body=b"[" * 100_000, content_type="application/json")
@example(body=b"{" * 1_000, content_type="")
@example(body=b'{"time":' * 1_000, content_type="")
def test_no_bytes_raise_anything_but_a_refusal(
    under_test: FormatUnderTest, body: bytes, content_type: str
) -> None:
    read(under_test, body, content_type)
    decode_or_refuse(under_test, body)


HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    10**400,
    1e308,
    CANARY,
    CANARY * 10_000,
    "\x00\r\n\x7f",
    f"%%%{CANARY}",
    [],
    [CANARY],
    [[CANARY]],
    {},
    {CANARY: CANARY},
    {CANARY: [{CANARY: None}]},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value within a JSON value."""
    yield path
    if isinstance(value, dict):
        for name, each in value.items():
            yield from places(each, (*path, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from places(each, (*path, index))


def with_value(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    copied = value.copy()
    copied[path[0]] = with_value(copied[path[0]], path[1:], other)
    return copied


@every_format
def test_no_value_in_any_field_raises_anything_but_a_refusal(under_test: FormatUnderTest) -> None:
    for pair in (PAIRS[0], PAIRS[6]):
        valid = under_test.parse(under_test.encode(pair))
        for path in places(valid):
            for other in HOSTILE:
                decode_or_refuse(under_test, under_test.write(with_value(valid, path, other)))


@every_format
@given(data=st.data())
def test_no_cut_or_changed_text_raises_anything_but_a_refusal(
    under_test: FormatUnderTest, data: st.DataObject
) -> None:
    text = under_test.encode(data.draw(st.sampled_from(PAIRS)))
    at = data.draw(st.integers(0, len(text)))
    until = data.draw(st.integers(at, len(text)))
    changed = text[:at] + data.draw(st.binary(max_size=4)) + text[until:]
    decode_or_refuse(under_test, changed)
    body, content_type = under_test.join([text, changed, text])
    read(under_test, body, content_type)


@every_format
def test_a_field_that_stands_twice_does_no_harm(under_test: FormatUnderTest) -> None:
    text = under_test.encode(PAIRS[0])
    for found in re.finditer(rb'"[a-z_]+":', text):
        decode_or_refuse(under_test, text[: found.start()] + found[0] + b"1," + text[found.start() :])
