"""Whatever a pair holds, redacting ends with an event that fits its contract, or the line is refused with a reason."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from redactor.pipeline.redactor import redact_lines
from schemas.capture import Capture, CapturedRequest, CapturedResponse
from schemas.contracts import validator
from schemas.errors import RefusalReason, RefusedCapture
from schemas.event import decode_event
from tests.fuzz.shapes import BODIES, FORM, HEADERS, JSON, MULTIPART, NDJSON, PATHS, QUERIES, redactor
from tests.unit.redactor.pairs import EVENT_ID

REDACTOR = redactor()
SMALL = {name: body for name, (body, _) in BODIES.items() if len(body) < 2_000}
MEDIA = st.sampled_from(
    [JSON, NDJSON, FORM, f"{MULTIPART}; boundary=b", MULTIPART, "text/plain", "a/b+json", ""]
)
NAMES = st.sampled_from(
    [
        "content-type",
        "Content-Type",
        "content-encoding",
        "x-actor-id",
        "user-agent",
        "cf-ray",
        "host",
        "x-http-method",
    ]
)
TEXTS = st.text(st.characters(codec=None), max_size=20)
VALUES = st.sampled_from(["gzip", "br", "deflate", "zstd", "identity, gzip", JSON, "a.example"]) | TEXTS
PIECES = st.sampled_from(
    [
        *(
            b"--b\r\n",
            b"--b--",
            b"--b",
            b"\r\n\r\n",
            b"\r\n",
            b'Content-Disposition: form-data; name="name"',
            b"name=a&",
            b"%41",
            b"&",
        ),
        *(
            b'{"name":',
            b'"a"',
            b"}",
            b"[",
            b"]",
            b",",
            b"\n",
            b"\xff",
            b"\0",
            b"\xef\xbb\xbf",
            b"1e5",
            b"null",
            b'"\\ud800"',
        ),
        *(
            b'{"name": "a"}',
            b'{"tags": ["a", 1]}',
            b'{"tree": {"below": [{}]}}',
            b'{"either": {"name": "a", "size": 1}}',
        ),
    ]
)
BODY = (
    st.none()
    | st.binary(max_size=40)
    | st.lists(PIECES, max_size=12).map(b"".join)
    | st.sampled_from(list(SMALL.values()))
)
URLS = (
    st.sampled_from([url for url, _ in PATHS.values()])
    | st.sampled_from([f"/things?{query}" for query, _ in QUERIES.values()])
    | st.text(st.characters(codec=None), min_size=1, max_size=30).map("/things".__add__)
    | st.text(st.characters(codec=None), min_size=1, max_size=30)
    | st.lists(
        st.sampled_from(
            ["/things", "/", "?", "q=", "a", "%", "%2", "#", "@", ":", "//", "[", "]", "&", "tags=a"]
        ),
        min_size=1,
    ).map("".join)
)
HEADER_SETS = st.dictionaries(
    NAMES | TEXTS, VALUES | st.lists(VALUES, max_size=3), max_size=4
) | st.sampled_from([headers for headers, _ in HEADERS.values() if len(str(headers)) < 2_000])


@st.composite
def captures(draw: st.DrawFn) -> Capture:
    def message() -> dict[str, Any]:
        body = draw(BODY)
        headers = {"content-type": draw(MEDIA), **draw(HEADER_SETS)}
        packed = None if body is None else base64.b64encode(body).decode()
        if draw(st.integers(0, 9)) == 0:
            packed = draw(st.text(max_size=8))
        return {"headers": headers, "body_base64": packed, "truncated": draw(st.integers(0, 19)) == 0}

    method = draw(st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "CONNECT"]) | TEXTS.filter(bool))
    request = CapturedRequest(method, draw(URLS), **message())
    response = CapturedResponse(
        draw(st.sampled_from([200, 101, 404, 500]) | st.integers(100, 999)), **message()
    )
    return Capture(request, response, client_ip=draw(st.none() | TEXTS))


@given(captures())
def test_any_pair_becomes_an_event(pair: Capture) -> None:
    output = REDACTOR.redact(pair, EVENT_ID)
    assert output is not None
    receipt = decode_event(output).receipt
    validator("audit_event").validate(json.loads(output))
    event(f"{receipt.unmatched or receipt.request.reason or 'kept'}")


def line_of(pair: Capture) -> bytes:
    """Write a pair as a tap might, lone surrogates and all."""
    request = {name: getattr(pair.request, name) for name in pair.request.__struct_fields__}
    response = {name: getattr(pair.response, name) for name in pair.response.__struct_fields__}
    return json.dumps({"request": request, "response": response, "client_ip": pair.client_ip}).encode()


@given(st.binary(max_size=200) | captures().map(line_of))
def test_any_line_becomes_an_event_or_a_reason(line: bytes) -> None:
    refused: list[RefusedCapture] = []
    written = list(redact_lines(REDACTOR, [line], lambda _, why: refused.append(why)))
    assert len(written) + len(refused) == 1
    assert all(why.reason in RefusalReason for why in refused)
