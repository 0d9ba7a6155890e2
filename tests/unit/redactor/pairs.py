"""Small documents and pairs for the redactor's tests, and what comes out of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from redactor.config import DocumentConfig, RedactionConfig
from redactor.document import LoadedDocument, parse_document
from redactor.redact import Redactor
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.event import AuditEvent, decode_event
from schemas.identity import new_id
from tests.agreeing import AgreeingRedactor

EVENT_ID = new_id(1_769_192_714_749)
JSON = "application/json"
TEXT: dict[str, Any] = {"type": "string"}
MARKED: dict[str, Any] = {"type": "string", "x-auditable": True}
DENIED: dict[str, Any] = {"type": "string", "x-sensitive": True}

NOTHING = object()

Node = dict[str, Any]


def an_object(**properties: Any) -> Node:
    return {"type": "object", "properties": properties}


def a_marked_object(**properties: Any) -> Node:
    return an_object(**properties) | {"x-auditable": True}


def body_of(schema: Any, media_type: str = JSON) -> Node:
    return {"content": {media_type: {"schema": schema}}}


def an_operation(request: Any = None, response: Any = None, **keywords: Any) -> Node:
    """An operation whose bodies have these schemas; the response's is that of status 200."""
    operation: Node = {
        "operationId": "op",
        "responses": {"200": {} if response is None else body_of(response)},
    }
    if request is not None:
        operation["requestBody"] = body_of(request)
    return operation | keywords


def a_document(paths: Node, version: str = "3.0.3", **keywords: Any) -> Node:
    return {"openapi": version, "info": {"title": "T", "version": "1"}, "paths": paths} | keywords


def loaded(document: Node, **settings: Any) -> LoadedDocument:
    config = DocumentConfig(path=Path("document.json"), **settings)
    return parse_document(config, json.dumps(document).encode())


def fail() -> None:
    raise AssertionError("redacting failed")


def a_redactor(*documents: Node | LoadedDocument, **settings: Any) -> AgreeingRedactor:
    """A redactor that does not hide its failures."""
    trees = [each if isinstance(each, LoadedDocument) else loaded(each) for each in documents]
    return AgreeingRedactor(trees, RedactionConfig(**settings), on_failure=fail)


def as_text(body: Any) -> str | None:
    return body.decode() if isinstance(body, bytes) else None if body is None else json.dumps(body)


def a_pair(
    *,
    method: str = "POST",
    url: str = "/things",
    body: Any = None,
    status: int = 200,
    answer: Any = None,
    request_headers: Headers | None = None,
    response_headers: Headers | None = None,
    **keywords: Any,
) -> Capture:
    """A pair of JSON bodies; bytes are a body's text as it stands, None is no body."""
    framing: Headers = {"Content-Type": JSON}
    return Capture(
        request=CapturedRequest(method, url, framing | (request_headers or {}), as_text(body)),
        response=CapturedResponse(status, framing | (response_headers or {}), as_text(answer)),
        **keywords,
    )


def event_of(redactor: Redactor, pair: Capture) -> AuditEvent:
    value = redactor.redact(pair, EVENT_ID)
    assert value is not None
    return decode_event(value)


def text_of(body: msgspec.Raw | msgspec.UnsetType) -> str | None:
    """The JSON text of a recorded body; None where none was recorded."""
    return None if isinstance(body, msgspec.UnsetType) else bytes(body).decode()


def kept_text(
    schema: Any, body: Any, status: int = 200, version: str = "3.0.3", **settings: Any
) -> str | None:
    """The JSON text recorded of a request's body under `schema`; None where the body vanished."""
    components = {"schemas": settings.pop("schemas", {})}
    document = a_document({"/things": {"post": an_operation(schema)}}, version, components=components)
    event = event_of(a_redactor(loaded(document, **settings)), a_pair(body=body, status=status))
    assert event.receipt.request.reason is None
    return text_of(event.resource.request)


def kept(schema: Any, body: Any, status: int = 200, version: str = "3.0.3", **settings: Any) -> Any:
    """What is recorded of a request's body under `schema`; NOTHING where the body vanished."""
    text = kept_text(schema, body, status, version, **settings)
    return NOTHING if text is None else json.loads(text)
