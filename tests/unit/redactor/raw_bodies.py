"""Bodies as they go over the wire, and what is recorded of them."""

from __future__ import annotations

import base64
import json
from typing import Any

from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.event import BodyReason
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.pairs import a_redactor, event_of, text_of
from tests.unit.redactor.schemas import Node

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
BOUNDARY = "XX"


def recorded_of(
    schema: Any,
    body: bytes,
    media_type: str = "application/json",
    *,
    declared: str | None = None,
    encoding: Node | None = None,
    codings: str | list[str] | None = None,
    version: str = "3.0.3",
    **settings: Any,
) -> Any:
    """What is recorded of a request's raw body, or the reason why nothing is; None where the body vanished."""
    media: Node = {"schema": schema} | ({} if encoding is None else {"encoding": encoding})
    content = {declared or media_type.partition(";")[0]: media}
    document = a_document(
        {"/things": {"post": an_operation() | {"requestBody": {"content": content}}}}, version
    )
    headers: Headers = {"content-type": media_type}
    if codings is not None:
        headers["content-encoding"] = codings
    request = CapturedRequest("POST", "/things", headers, body_base64=base64.b64encode(body).decode())
    event = event_of(a_redactor(document, **settings), Capture(request, CapturedResponse(200)))
    reason = event.receipt.request.reason
    text = text_of(event.resource.request)
    return reason if isinstance(reason, BodyReason) else None if text is None else json.loads(text)


def a_part(name: str, content: bytes | str, *headers: str, disposition: str = "") -> bytes:
    """One part of a form, from its delimiter on."""
    lines = [f'Content-Disposition: form-data; name="{name}"{disposition}', *headers]
    raw = content.encode() if isinstance(content, str) else content
    return b"--XX\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + raw + b"\r\n"


def a_form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"
