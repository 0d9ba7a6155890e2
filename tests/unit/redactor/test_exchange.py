"""What is recorded of the exchange itself: nothing by default, and where it is configured, what is certain."""

from __future__ import annotations

import base64
import math
from typing import Any

import msgspec
import pytest

from redactor.decode.url import parse_host, valid_host
from redactor.pipeline.redactor import Redactor
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.event import DURATION_MS_MAX, AuditEvent, Exchange
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.pairs import EVENT_ID, a_pair, a_redactor, event_of

DOCUMENT = a_document({"/things": {"post": an_operation(), "get": an_operation()}})


# Without it, the fast path leaves the whole exchange to the reference.
LENGTH: Headers = {"content-length": "1"}


def keeping() -> Redactor:
    return a_redactor(DOCUMENT, exchange_facts_kept=True)


def exchange(pair: Capture, redactor: Redactor | None = None) -> Exchange:
    found = event_of(redactor or keeping(), pair).exchange
    assert found is not None
    return found


def response(
    status: int = 200, headers: Headers | None = None, method: str = "POST", **fields: Any
) -> Capture:
    return Capture(
        CapturedRequest(method, "https://api.example.com/things"),
        CapturedResponse(status, headers or {}, **fields),
    )


def test_by_default_nothing_of_it_leaves() -> None:
    pair = a_pair(url="https://api.example.com/things", answer={"a": 1}, duration_ms=12.4)
    plain, keeps = a_redactor(DOCUMENT).redact(pair, EVENT_ID), keeping().redact(pair, EVENT_ID)
    assert plain is not None
    assert keeps is not None
    assert (
        keeps == plain[:-1] + b',"exchange":{"host":"api.example.com","duration_ms":12,"response_bytes":8}}'
    )


@pytest.mark.parametrize(
    ("url", "headers", "host"),
    [
        ("https://api.example.com/things", {}, "api.example.com"),
        ("HTTPS://user:secret@API.Example.com.:8443/things#x", {}, "api.example.com"),
        ("https://api.example.com/things", {"host": "other.example"}, "api.example.com"),
        ("/things", {"Host": "API.example.com:80"}, "api.example.com"),
        ("/things", {"host": "a.example", "Host": "b.example"}, None),
        ("/things", {"host": ["a.example", "a.example"]}, None),
        ("/things", {}, None),
        ("/things", {"host": "user@a.example"}, None),
        ("https://\N{KELVIN SIGN}.example/things", {}, None),
        ("/things", {"host": "\N{KELVIN SIGN}.example"}, None),
        ("/things", {"x-forwarded-host": "a.example"}, None),
        ("https://unknown.invalid/things", {"host": "a.example"}, None),
        ("https://a.example\\@b.example/things", {}, None),
        ("https://a b/things", {}, None),
        ("https:///things", {}, None),
        ("https://10.0.0.1:8080/things", {}, "10.0.0.1"),
        ("https://10.0.0.256/things", {}, None),
        ("https://010.0.0.1/things", {}, None),
        ("https://[2001:DB8:0::1]:443/things", {}, "[2001:db8::1]"),
        ("https://[2001:db8::1::2]/things", {}, None),
        ("https://my_service:8000/things", {}, "my_service"),
        ("https://xn--bcher-kva.example/things", {}, "xn--bcher-kva.example"),
        ("https://bücher.example/things", {}, None),
        ("https://-a.example/things", {}, None),
        ("https://a..example/things", {}, None),
        (f"https://{'a' * 63}.example/things", {}, f"{'a' * 63}.example"),
        (f"https://{'a' * 64}.example/things", {}, None),
        (f"https://{'a.' * 126}a/things", {}, "a." * 126 + "a"),
        (f"https://{'a.' * 127}a/things", {}, None),
        ("https://secret%2Ename/things", {}, None),
    ],
)
def test_a_host_is_recorded_if_it_is_one(url: str, headers: Headers, host: str | None) -> None:
    redactor = keeping()
    pair = a_pair(url=url, request_headers=headers, response_headers=LENGTH)
    for _ in range(2):  # also where it is known
        assert exchange(pair, redactor).host == host


def test_one_host_is_not_taken_for_another_that_begins_alike() -> None:
    redactor = keeping()
    for url in ("https://api.example.com/things", "https://api.example.co", "https://api.example.comm"):
        pair = a_pair(url=url, response_headers=LENGTH)
        assert exchange(pair, redactor).host == url.split("/")[2]


def test_an_address_has_one_form() -> None:
    assert valid_host(parse_host("[::FFFF:10.0.0.1]:80")) == "[::ffff:a00:1]"
    assert valid_host("") is None


@pytest.mark.parametrize(
    ("measured", "recorded"),
    [
        (None, None),
        (0, 0),
        (0.4, 0),
        (12.6, 13),
        (-0.1, None),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (DURATION_MS_MAX, DURATION_MS_MAX),
        (DURATION_MS_MAX + 1, None),
        (1e300, None),
    ],
)
def test_a_duration_is_recorded_if_it_can_be_one(measured: float | None, recorded: int | None) -> None:
    assert exchange(a_pair(duration_ms=measured)).duration_ms == recorded


COMPRESSED = base64.b64encode(b"\x1f\x8b" + bytes(38)).decode()


@pytest.mark.parametrize(
    ("pair", "size"),
    [
        (response(body="abc"), 3),
        (response(body="äöü€😀"), 13),
        (response(body=""), 0),
        (response(body_base64=COMPRESSED, headers={"content-encoding": "gzip"}), 40),
        (response(body_base64=COMPRESSED, headers={"content-encoding": "gzip", "content-length": "40"}), 40),
        # What a gateway has inflated is as long as it was sent.
        (response(body="inflated", headers={"content-length": "6"}), 6),
        (response(body_base64=""), 0),
        (response(body_base64="YQ=="), 1),
        (response(body_base64="YWI="), 2),
        (response(body_base64="YWI"), None),
        (response(body="a", body_base64="YQ=="), None),
        (response(headers={"Content-Length": "812"}, method="GET"), 812),
        (response(headers={"content-length": " 812\t"}, method="GET"), 812),
        (response(headers={"content-length": ["812"]}, method="GET"), 812),
        (response(headers={"content-length": "0"}), 0),
        (response(headers={"content-length": "812"}, truncated=True), 812),
        (response(truncated=True, body="cut"), None),
        # Nothing tells how long it was.
        (response(method="GET"), None),
        (response(), None),
        (response(headers={"content-length": "812", "transfer-encoding": "chunked"}, method="GET"), None),
        (response(headers={"content-length": "812"}, complete=False), None),
        (response(body="abc", complete=False), None),
        *(
            (response(headers={"content-length": text}), None)
            for text in ("-1", "+1", "1.0", "1e3", "٣", "", "x")
        ),
        (response(headers={"content-length": "9007199254740991"}), 9007199254740991),
        (response(headers={"content-length": "9007199254740992"}), None),
        (response(headers={"content-length": "1" * 17}), None),
        (response(headers={"content-length": ["1", "1"]}), None),
        (response(headers={"content-length": "1", "Content-Length": "1"}), None),
        # There is no content, and the length is that of another response.
        (response(headers={"content-length": "812"}, method="HEAD"), 0),
        (response(204), 0),
        (response(304, {"content-length": "812"}, "GET"), 0),
        # What passes afterwards belongs to another protocol.
        (response(101, {"content-length": "812"}, "GET"), None),
        (response(200, {"content-length": "812"}, "CONNECT"), None),
        (response(503, {"content-length": "7"}), 7),
        (response(999, {"content-length": "7"}), 7),
    ],
)
def test_the_size_of_a_response_is_recorded_where_something_tells_it(pair: Capture, size: int | None) -> None:
    assert exchange(pair).response_bytes == size


def without(event: AuditEvent) -> AuditEvent:
    return msgspec.structs.replace(event, exchange=None)


@pytest.mark.parametrize(
    "pair",
    [
        a_pair(url="https://a.example/things"),
        a_pair(url="https://a.example/things", method="GET"),
        a_pair(url="https://a.example/nothing"),
        a_pair(url="https://a.example//things/"),
        a_pair(url="https://a.example/things", method="PUT"),
        a_pair(url="https://a.example/things?_method=PUT"),
    ],
)
def test_every_event_has_it_and_nothing_else_differs(pair: Capture) -> None:
    kept = event_of(keeping(), pair)
    assert kept.exchange == Exchange("a.example")
    assert without(kept) == event_of(a_redactor(DOCUMENT), pair)


def test_what_a_denied_header_says_is_not_recorded_in_another_form() -> None:
    operation = an_operation()
    operation["parameters"] = [
        {"name": "Host", "in": "header", "schema": {"type": "string", "x-sensitive": True}}
    ]
    operation["responses"]["200"]["headers"] = {
        "Content-Length": {"x-sensitive": True, "schema": {"type": "integer"}}
    }
    document = a_document({"/things": {"post": operation, "get": an_operation()}})
    redactor = a_redactor(document, exchange_facts_kept=True)
    headers: Headers = {"content-length": "812"}
    pair = a_pair(url="https://a.example/things", answer={}, response_headers=headers, duration_ms=1)
    assert exchange(pair, redactor) == Exchange(None, 1, None)
    lenient = a_pair(url="https://a.example//things", answer={}, response_headers=headers, duration_ms=1)
    assert exchange(lenient, redactor) == Exchange(None, 1, None)
    # The same headers elsewhere are not denied.
    other = a_pair(method="GET", url="https://a.example/things", response_headers=headers)
    assert exchange(other, redactor) == Exchange("a.example", None, 812)


def test_of_a_pair_that_cannot_be_redacted_nothing_is_read() -> None:
    redactor = Redactor(a_redactor(DOCUMENT).documents, keeping().config)
    impossible: Any = 1
    request = CapturedRequest("POST", impossible)
    broken = msgspec.structs.replace(a_pair(url="https://a.example/things"), request=request)
    assert event_of(redactor, broken).exchange is None
