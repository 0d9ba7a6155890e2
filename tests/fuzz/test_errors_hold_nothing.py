"""No exception that the redactor raises for a body holds any of it: not its text, its cause, nor its context."""

from __future__ import annotations

import pytest

from redactor.decode.content_encodings import decode_content
from redactor.decode.json import Unusable, read_json
from redactor.decode.multipart import split_parts
from schemas.capture import CapturedRequest, body_bytes, decode_capture
from schemas.errors import RefusedCapture
from schemas.event import decode_event
from tests.canary.tokens import SECRET
from tests.fuzz.shapes import BODIES

BROKEN = [f'{{"{SECRET}": {SECRET}'.encode(), f'"{SECRET}\\ud800"'.encode(), SECRET.encode() + b"\xff"]


def assert_holds_nothing(error: BaseException) -> None:
    assert error.__cause__ is None
    assert error.__context__ is None
    assert SECRET not in repr([error, error.args, vars(error), getattr(error, "__notes__", [])])


@pytest.mark.parametrize("body", [*BROKEN, *(body for body, _ in BODIES.values() if len(body) < 1_000)])
def test_of_a_body(body: bytes) -> None:
    try:
        read_json(body, 4)
    except Unusable as unusable:
        assert_holds_nothing(unusable)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", SECRET])
@pytest.mark.parametrize("body", BROKEN)
def test_of_an_encoded_body(coding: str, body: bytes) -> None:
    with pytest.raises(Unusable) as raised:
        decode_content(body, [coding], 1_000)
    assert_holds_nothing(raised.value)


@pytest.mark.parametrize(
    "body", [*BROKEN, b"--b\r\n" + BROKEN[0] + b"\r\n\r\n\r\n--b--", b"--b\r\n\r\n\r\n\r\n--b--"]
)
def test_of_a_form(body: bytes) -> None:
    with pytest.raises(Unusable) as raised:
        list(split_parts(body, "b", 10))
    assert_holds_nothing(raised.value)


@pytest.mark.parametrize(
    "line", [*BROKEN, f'{{"request": {{"method": ["{SECRET}"]}}}}'.encode(), f'["{SECRET}"]'.encode()]
)
def test_of_a_capture(line: bytes) -> None:
    with pytest.raises(RefusedCapture) as raised:
        decode_capture(line)
    assert_holds_nothing(raised.value)


def test_of_a_body_in_two_forms() -> None:
    for request in (
        CapturedRequest("GET", "/", {}, SECRET, SECRET),
        CapturedRequest("GET", "/", {}, None, SECRET[:5]),
    ):
        with pytest.raises(ValueError, match=r"^[a-z0-9_ ]+$") as raised:
            body_bytes(request)
        assert_holds_nothing(raised.value)


@pytest.mark.parametrize("value", BROKEN)
def test_of_an_event(value: bytes) -> None:
    with pytest.raises(Exception, match="malformed") as raised:
        decode_event(value)
    assert_holds_nothing(raised.value)
