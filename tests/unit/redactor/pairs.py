"""Small pairs for the redactor's tests, and what is recorded of them."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from redactor.config import RedactionConfig
from redactor.openapi.document import OpenApiDocument
from redactor.pipeline.redactor import Redactor
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.event import AuditEvent, decode_event
from schemas.identity import new_id
from tests.agreeing import AgreeingRedactor
from tests.unit.redactor.documents import JSON, a_document, an_operation, loaded
from tests.unit.redactor.schemas import Node

EVENT_ID = new_id(1_769_192_714_749)

NOTHING = object()


def fail() -> None:
    raise AssertionError("redacting failed")


def a_redactor(*documents: Node | OpenApiDocument, **settings: Any) -> AgreeingRedactor:
    """A redactor that does not hide its failures."""
    trees = [each if isinstance(each, OpenApiDocument) else loaded(each) for each in documents]
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
