"""Documents with one operation, pairs sent to it, and what the redactor makes of them."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cramjam
from hypothesis import strategies as st

from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import parse_document
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.identity import new_id
from tests.agreeing import AgreeingRedactor as Redactor
from tests.property.documents import Draw, Node, secrets

EVENT_ID = new_id(1_769_192_714_749)
JSON = "application/json"
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda content: bytes(cramjam.brotli.compress(content)),
    "zstd": lambda content: bytes(cramjam.zstd.compress(content)),
}


class Sent(NamedTuple):
    """A body before it is encoded, and its media type."""

    content: bytes
    media_type: str = JSON


def a_document(
    version: str,
    request: Node,
    response: Node,
    components: dict[str, Node],
    media_type: str = JSON,
    *,
    encoding: Node | None = None,
) -> Node:
    """A document whose one operation has these schemas; the request's under `media_type`, with this `encoding`."""
    marked = {"type": "string", "x-auditable": True}
    operation = {
        "operationId": "op",
        "parameters": [
            {"name": "q", "in": "query", "schema": marked},
            {"name": "secret", "in": "query", "schema": {"type": "string"}},
        ],
        "requestBody": {"content": {media_type: {"schema": request, "encoding": encoding or {}}}},
        "responses": {"200": {"content": {JSON: {"schema": response}}}},
    }
    path = "/accounts/{account_id}/things/{name}"
    return {"openapi": version, "paths": {path: {"post": operation}}, "components": {"schemas": components}}


def as_json(draw: Draw, body: Any) -> Sent:
    """Write a body in one of the ways that JSON allows."""
    indent = draw(st.sampled_from([None, 1]))
    return Sent(json.dumps(body, ensure_ascii=draw(st.booleans()), indent=indent).encode())


def as_lines(draw: Draw, bodies: list[Any]) -> Sent:
    """Write bodies as lines, with blank ones between them."""
    ends = st.sampled_from(["\n", "\r\n", "\n\n", " \n"])
    lines = [json.dumps(each, ensure_ascii=draw(st.booleans())) + draw(ends) for each in bodies]
    return Sent("".join(lines).encode(), "application/x-ndjson")


@st.composite
def urls(draw: Draw) -> str:
    """Draw a URL whose account and `q` are always the same, and all else is secret."""
    secret = st.text("xyz", min_size=1, max_size=3)
    pairs = draw(st.lists(st.tuples(st.sampled_from(["secret", "other", "q2", "x[]"]), secret), max_size=3))
    query = draw(st.permutations([*(f"{name}={value}" for name, value in pairs), "q=kept"]))
    userinfo = draw(st.sampled_from(["", "user:xyz@"]))
    origin = draw(st.sampled_from(["", f"https://{userinfo}example.com"]))
    fragment = draw(st.sampled_from(["", "#xyz"]))
    return f"{origin}/accounts/a1/things/{draw(secret)}?{'&'.join(query)}{fragment}"


@st.composite
def headers(draw: Draw, media_type: str = JSON) -> Headers:
    """Draw the headers that are kept among others that are not."""
    others = draw(st.dictionaries(st.sampled_from(["authorization", "Cookie", "x-other", "etag"]), secrets()))
    return {**others, "content-type": media_type, "x-actor-id": "u1"}


@st.composite
def messages(draw: Draw, sent: Sent) -> dict[str, Any]:
    """Draw headers and body of a message; the body as text or not, encoded or not."""
    fields = draw(headers(sent.media_type))
    coding = draw(st.sampled_from([None, None, *CODINGS]))
    if coding is None and draw(st.booleans()):
        return {"headers": fields, "body": sent.content.decode()}
    if coding is not None:
        fields["content-encoding"] = coding
    content = sent.content if coding is None else CODINGS[coding](sent.content)
    return {"headers": fields, "body_base64": base64.b64encode(content).decode()}


@st.composite
def pairs(draw: Draw, request: Sent, response: Sent) -> Capture:
    return Capture(
        CapturedRequest("POST", draw(urls()), **draw(messages(request))),
        CapturedResponse(200, **draw(messages(response))),
        duration_ms=draw(st.none() | st.floats(0, 10)),
    )


def fail() -> None:
    raise AssertionError("redacting failed")


def a_redactor(document: Node, config: RedactionConfig = RedactionConfig(), **settings: Any) -> Redactor:  # noqa: B008  immutable
    loaded = parse_document(DocumentConfig(Path("d.json"), **settings), json.dumps(document).encode())
    return Redactor([loaded], config, on_failure=fail)


def redacted(document: Node, *pairs: Capture) -> list[bytes]:
    """The events of pairs, in order; each of them from a redactor that has seen the ones before it."""
    redactor = a_redactor(document)
    values = [redactor.redact(pair, EVENT_ID) for pair in pairs]
    return [value for value in values if value is not None]
