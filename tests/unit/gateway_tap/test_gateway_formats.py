"""What is special about one format. What all have in common: tests/contract/test_gateway_format_contract.py."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from gateway_tap.body import RejectedBody
from gateway_tap.formats.apisix import APISIX
from gateway_tap.formats.kong import KONG
from gateway_tap.formats.nginx_log import CONSUMER_HEADERS
from gateway_tap.formats.port import GatewayFormat
from gateway_tap.formats.tyk import TYK
from redactor.config import DocumentConfig, HeaderNames, RedactionConfig
from redactor.openapi.document import parse_document
from schemas.capture import Capture, body_bytes
from schemas.errors import RefusedCapture
from schemas.identity import new_id
from tests.agreeing import AgreeingRedactor
from tests.gateway_formats.encoders import apisix, cjson, kong, own, tyk
from tests.gateway_formats.pairs import PAIRS

NOW = "2026-01-23T18:25:14.749Z"  # 1769192714749


def entry(**parts: Any) -> dict[str, Any]:
    """Return a log entry of Kong's or APISIX', with these parts of `request`, `response` and itself."""
    request = {"method": "POST", "url": "http://h:80/a", "headers": {"host": "h"}, **parts.pop("request", {})}
    response = {"status": 200, "headers": {}, **parts.pop("response", {})}
    return {"request": request, "response": response, "started_at": 1, "start_time": 1, **parts}


def read(gateway_format: GatewayFormat, value: Any) -> Capture:
    return gateway_format.decode(cjson(value))


@pytest.mark.parametrize(
    ("cut", "headers"),
    [(True, {}), (True, {"transfer-encoding": "chunked"}), (False, {"content-length": "4"})],
)
def test_a_body_as_long_as_apisix_cuts_them_is_cut(cut: bool, headers: dict[str, str]) -> None:
    length = 524_288 if cut else 4
    for text in ("x" * length, "ü" * (length // 2)):
        captured = read(
            APISIX,
            entry(request={"body": text, "headers": headers}, response={"body": text, "headers": headers}),
        )
        assert captured.request.truncated is captured.response.truncated is cut
        assert read(KONG, entry(request={"body": text, "headers": headers})).request.truncated is False


@pytest.mark.parametrize(
    ("parts", "is_cut"),
    [
        ({"headers": {"content-length": "9"}}, True),
        ({"headers": {"content-length": "0"}}, False),
        ({"headers": {"content-length": "9", "x": ["1", "2"]}, "body": "123456789"}, False),
        ({"headers": {"content-length": "9"}, "body": "12345678"}, True),
        ({"headers": {"content-length": "9"}, "body": ""}, True),
        ({"headers": {"transfer-encoding": "chunked"}}, True),
        ({"headers": {}, "size": 40}, False),
        ({"headers": {}, "size": 90_000}, True),
        ({"headers": {}, "size": "90000"}, True),
        ({"headers": {}, "size": "a lot"}, False),
        ({"headers": {}, "size": 90_000, "body": "x" * 89_900}, False),
        ({"headers": {}, "size": 90_000, "body": "x" * 1_000}, True),
        # How long the head was is not known.
        ({"headers": {"authorization": "REDACTED"}, "size": 90_000}, False),
        ({"headers": {"content-length": "9" * 30}, "body": "x"}, False),
    ],
)
def test_a_request_body_that_is_not_there_is_not_taken_for_none(parts: dict[str, Any], is_cut: bool) -> None:
    assert read(KONG, entry(request=parts)).request.truncated is is_cut


@pytest.mark.parametrize(
    ("method", "status", "parts", "is_cut"),
    [
        ("POST", 200, {"headers": {"content-length": "9"}}, True),
        ("POST", 200, {"headers": {"content-length": "0"}}, False),
        ("POST", 204, {"headers": {}}, False),
        ("GET", 304, {"headers": {"content-length": "9"}}, False),
        ("HEAD", 200, {"headers": {"content-length": "9"}}, False),
        # It lasts until the connection ends, so there may have been one.
        ("GET", 200, {"headers": {}}, True),
        ("GET", 200, {"headers": {}, "size": 200}, False),
        ("GET", 200, {"headers": {}, "size": 9_000}, True),
    ],
)
def test_a_response_body_that_is_not_there_is_not_taken_for_none(
    method: str, status: int, parts: dict[str, Any], is_cut: bool
) -> None:
    captured = read(KONG, entry(request={"method": method}, response={"status": status, **parts}))
    assert captured.response.truncated is is_cut


@pytest.mark.parametrize(
    ("parts", "is_complete"),
    [
        ({"status": 499}, False),
        ({"headers": {"content-length": "5000"}, "size": 900, "body": "x"}, False),
        ({"headers": {"content-length": "5000"}, "size": 5_200, "body": "x" * 5_000}, True),
        ({"headers": {}, "size": 9}, True),
    ],
)
def test_a_response_that_did_not_reach_the_client_is_incomplete(
    parts: dict[str, Any], is_complete: bool
) -> None:
    assert read(KONG, entry(response=parts)).response.complete is is_complete


@pytest.mark.parametrize(
    ("coding", "body", "stands"),
    [
        ("gzip", '{"a": 1}', False),
        ("br", '{"a": 1}', False),
        ("identity", '{"a": 1}', True),
        ("gzip", gzip.compress(b"{}"), True),
        ("br, gzip", gzip.compress(b"{}"), True),
        ("gzip", b"\xff\x00", False),
        ("br", b"\xff\x00", True),
    ],
)
def test_a_coding_stands_only_where_the_body_is_in_it(coding: str, body: str | bytes, stands: bool) -> None:
    headers = {"content-encoding": coding, "content-length": "1000"}
    response = read(APISIX, entry(response={"headers": headers, "body": body})).response
    assert ("content-encoding" in response.headers) is stands
    assert body_bytes(response) == (body.encode() if isinstance(body, str) else body)
    # The length is that of what was sent.
    assert response.truncated is stands


def test_a_body_may_come_in_base64() -> None:
    content = gzip.compress(b"{}")
    encoded = {"body_base64": base64.b64encode(content).decode()}
    assert body_bytes(read(KONG, entry(request=encoded)).request) == content
    with pytest.raises(RefusedCapture, match=r"request\.body_base64"):
        read(KONG, entry(request={"body_base64": "c4n4ry!"}))


@pytest.mark.parametrize("gateway_format", [KONG, APISIX])
def test_the_consumer_is_where_only_the_gateway_can_put_it(gateway_format: GatewayFormat) -> None:
    forged = {
        "headers": {"Auditap-Consumer-Id": "eve", "auditap-consumer-username": "eve", "x-actor-id": "a"}
    }
    known = read(gateway_format, entry(response=forged, consumer={"id": "c1", "username": "bo", "tags": []}))
    assert known.response.headers == {
        "x-actor-id": "a",
        "auditap-consumer-id": "c1",
        "auditap-consumer-username": "bo",
    }
    assert read(gateway_format, entry(response=forged)).response.headers == {"x-actor-id": "a"}


@pytest.mark.parametrize(
    ("names", "actor"), [(HeaderNames(), {}), (HeaderNames(actor_id=CONSUMER_HEADERS[0]), {"id": "c1"})]
)
def test_a_consumer_becomes_an_actor_only_if_that_is_configured(
    names: HeaderNames, actor: dict[str, str]
) -> None:
    config = RedactionConfig(documents=(DocumentConfig(Path("a.json")),), headers=names)
    text = b'{"openapi": "3.1.0", "paths": {"/a": {"post": {"responses": {}}}}}'
    redactor = AgreeingRedactor([parse_document(config.documents[0], text)], config)
    forged = {"headers": {CONSUMER_HEADERS[0]: "eve"}}
    known = entry(request=forged, response=forged, consumer={"id": "c1", "username": "bo"})
    event = redactor.redact(read(KONG, known), new_id(0))
    assert event is not None
    assert json.loads(event).get("actor", {}) == actor
    unknown = redactor.redact(read(KONG, entry(request=forged, response=forged)), new_id(0))
    assert unknown is not None
    assert json.loads(unknown).get("actor", {}) == {}


def test_kongs_request_id_counts_and_not_the_clients() -> None:
    sent = {"headers": {"X-Request-Id": ["forged", "twice"]}}
    assert read(KONG, entry(request=sent)).request.headers == {"x-request-id": ["forged", "twice"]}
    assert read(KONG, entry(request={**sent, "id": "own"})).request.headers == {"x-request-id": "own"}


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        ({"url": "HTTPS://api:8443/b", "uri": "/a?b", "headers": {"host": "api.example.com"}}, "https://api.example.com/a?b"),
        ({"url": "http://api:8000/a", "headers": {"host": "[::1]:80"}}, "http://[::1]:80/a"),
        ({"url": "http://api:8000/a", "headers": {}}, "http://api:8000/a"),
        ({"url": "http://api:8000/a", "headers": {"host": ["one", "two"]}}, "http://api:8000/a"),
        ({"url": "", "uri": "/a", "headers": []}, "/a"),
        ({"url": "nonsense", "uri": "http://x/a"}, "http://x/a"),
    ],
)  # fmt: skip
def test_the_url_is_the_one_that_the_client_asked_for(parts: dict[str, Any], url: str) -> None:
    assert read(KONG, entry(request=parts)).request.url == url


def hec(**event: Any) -> bytes:
    return json.dumps(
        {
            "time": 1,
            "event": {"method": "POST", "path": "/a", "response_code": 200, "time_stamp": NOW, **event},
        },
        separators=(",", ":"),
    ).encode()


def wire(text: bytes) -> str:
    return base64.b64encode(text).decode()


def test_an_event_without_details_says_that_bodies_are_missing() -> None:
    captured = TYK.decode(hec(content_length=0))
    assert (captured.request.truncated, captured.response.truncated) == (False, True)
    assert TYK.decode(hec(content_length=5)).request.truncated
    assert TYK.decode(hec(content_length=-1)).request.truncated
    assert not TYK.decode(hec(response_code=204)).response.truncated


def test_a_request_whose_head_is_cut_keeps_no_bodies() -> None:
    """Headers that are missing may ask for another method."""
    head = b"POST /a?b=1 HTTP/1.1\r\nX: y\r\nX-HTTP-Method-Override: DELETE\r\n\r\n"
    for raw in (wire(head)[:40], ""):
        captured = TYK.decode(
            hec(raw_path="/a", raw_request=raw, raw_response=wire(b"HTTP/1.1 200 OK\r\n\r\n{}"))
        )
        assert captured.request.url == "/a/."
    lines = {f"x-{number}": "" for number in range(99)}
    for gateway_format in (KONG, APISIX):
        assert read(gateway_format, entry(request={"headers": lines})).request.url == "http://h:80/a"
        cut = read(gateway_format, entry(request={"headers": {**lines, "x": ["1"]}}))
        assert cut.request.url == "http://h:80/a/."


def test_chunks_are_joined_and_trailers_left_out() -> None:
    response = wire(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: c4n4ry\r\n\r\n"
    )
    captured = TYK.decode(hec(raw_response=response))
    assert captured.response.body == "abcde"
    assert captured.response.headers == {"trailer": "T"}
    assert not captured.response.truncated
    # The pump cuts the base64 text.
    for kept in range(1, len(response) - 20):
        cut = TYK.decode(hec(raw_response=response[:kept])).response
        assert cut.truncated
        assert "abcde".startswith(cut.body or "")


def test_only_the_first_message_of_an_event_counts() -> None:
    request = wire(b"POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nabGET /b HTTP/1.1\r\nX: y\r\n\r\n")
    captured = TYK.decode(hec(raw_request=request)).request
    assert (captured.method, captured.url, captured.body) == ("POST", "/a", "ab")
    assert captured.headers == {"content-length": "2"}


@pytest.mark.parametrize(
    "event",
    [
        {"raw_request": "c4n4ry c4n4ry"},
        {"raw_request": wire(b"c4n4ry")},
        {"raw_response": wire(b"c4n4ry\r\n\r\n")},
        {"raw_request": wire(b"GET / HTTP/1.1\r\n" + b"c4n4ry: a\r\n" * 1_001 + b"\r\n")},
        {"time_stamp": "c4n4ry"},
        {"response_code": 10**9},
        {"method": "c4n4ry" * 20},
        {"ip_address": "c4n4ry" * 20},
    ],
)
def test_an_event_that_cannot_be_read_is_refused_without_its_values(event: dict[str, Any]) -> None:
    with pytest.raises(RefusedCapture) as refused:
        TYK.decode(hec(**event))
    assert "c4n4ry" not in repr(refused.value) + repr(refused.value.__context__)


def test_events_stand_one_after_the_other_with_anything_between_them() -> None:
    events = [hec(path=path) for path in ('}{"', "\\", "}", '{"time":')]
    for between in (b"", b"\n", b" \r\n\t"):
        assert list(TYK.split(between.join(events), "", 5)) == events
    with pytest.raises(RejectedBody):
        TYK.split(b'{"time":' * 101, "", 100)


def test_an_entry_of_another_gateway_is_refused() -> None:
    for sent, gateway_format in (
        (kong, APISIX),
        (kong, TYK),
        (apisix, KONG),
        (apisix, TYK),
        (tyk, KONG),
        (own, KONG),
    ):
        with pytest.raises(RefusedCapture):
            gateway_format.decode(sent(PAIRS[0]))


@pytest.mark.parametrize("headers", [{f"h{number}": "" for number in range(1_001)}, {"h": [""] * 1_001}])
def test_more_headers_than_any_gateway_takes_are_refused(headers: dict[str, Any]) -> None:
    for side in ("request", "response"):
        with pytest.raises(RefusedCapture, match=rf"{side}\.headers: length"):
            read(KONG, entry(**{side: {"headers": headers}}))


def test_a_body_in_more_chunks_than_are_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = wire(head + b"1\r\na\r\n" * 4 + b"0\r\n\r\n")
    assert TYK.decode(hec(raw_response=response)).response.truncated is False
    monkeypatch.setattr("gateway_tap.formats.http_wire._CHUNKS_MAX", 3)
    captured = TYK.decode(hec(raw_response=response)).response
    assert (captured.body, captured.truncated) == ("aaa", True)


def test_older_apisix_sends_lines_as_json() -> None:
    texts = [apisix(pair) for pair in PAIRS]
    assert list(APISIX.split(b"\n".join(texts), "application/json", 100)) == texts


def test_a_time_that_lua_multiplied_is_rounded() -> None:
    """`ngx.req.start_time() * 1000` is often a little less than the milliseconds."""
    assert read(APISIX, entry(start_time=1769192714748.9998)).captured_at == NOW
    assert read(KONG, entry(started_at=1769192714749)).captured_at == NOW


@pytest.mark.parametrize("nested", [{"time": 5}, [{"time": 5}], [{}, {"time": 5}]])
def test_an_object_within_an_event_is_no_event(nested: Any) -> None:
    events = [hec(geo=nested), hec(geo=nested)]
    assert list(TYK.split(b"".join(events), "", 10)) == events
