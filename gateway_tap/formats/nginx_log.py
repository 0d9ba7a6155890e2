"""What the log entries of Kong and APISIX share: both are tables that Lua code in nginx encodes with cjson.

`request.size` and `response.size` are nginx's `$request_length` and `$bytes_sent`: of the whole message, with its head.
`request.url` is `$scheme://$host:$server_port$request_uri`.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from gateway_tap.formats.messages import (
    CLIENT_CLOSED,
    Message,
    byte_length,
    capture_of,
    declared_length,
    from_base64,
    header_text,
    is_bodiless,
    joined_headers,
    request_of,
    response_of,
    text_or_bytes,
    url_as_sent,
)
from schemas.capture import Capture, Headers
from schemas.errors import RefusalReason, RefusedCapture

CONSUMER_HEADERS: Final = ("auditap-consumer-id", "auditap-consumer-username")
"""Response headers under which the consumer that the gateway recognised stands in the capture."""
_HEADER_LINES_LOGGED_MAX: Final = 100
"""How many header lines nginx' Lua module hands out, unless Kong is configured otherwise. What a request has beyond is not logged."""

LuaHeaders = dict[str, str | list[str]] | list[None]
"""An empty table is an array in some encoders."""
Milliseconds = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
_Size = float | str | None


class LoggedRequest(msgspec.Struct, frozen=True, gc=False):
    """`request` of a log entry."""

    method: str
    url: str = ""
    uri: str | None = None
    headers: LuaHeaders = {}
    size: _Size = None
    body: str | None = None
    body_base64: str | None = None
    id: str | None = None


class LoggedResponse(msgspec.Struct, frozen=True, gc=False):
    """`response` of a log entry."""

    status: int
    headers: LuaHeaders = {}
    size: _Size = None
    body: str | None = None
    body_base64: str | None = None


class Consumer(msgspec.Struct, frozen=True, gc=False):
    """Whom the gateway recognised. It says so in its log, and signs nothing."""

    id: str | None = None
    username: str | None = None


class Entry(msgspec.Struct, frozen=True, gc=False):
    """The parts of a log entry that a capture has a use for."""

    request: LoggedRequest
    response: LoggedResponse
    client_ip: str | None = None
    consumer: Consumer | None = None


def entry_capture(
    entry: Entry,
    *,
    is_bytes: bool,
    started_ms: float,
    duration_ms: float | None,
    body_bytes_cap: int | None = None,
) -> Capture:
    """Return the capture of a log entry. Raises RefusedCapture.

    `is_bytes`: each character of the entry's strings stands for one byte. `body_bytes_cap`: a body of this length, in bytes, was
    cut by the gateway.
    """
    request, response = entry.request, entry.response
    request_headers = _headers(request.headers, "request.headers: length", is_bytes=is_bytes)
    if request.id:
        # The gateway's own id, which its other logs have too. A client chose the one in the header.
        request_headers["x-request-id"] = request.id
    response_headers = _headers(response.headers, "response.headers: length", is_bytes=is_bytes)
    for name, value in zip(CONSUMER_HEADERS, _consumer(entry.consumer), strict=True):
        response_headers.pop(name, None)
        if value:
            response_headers[name] = value
    url, uri = (_text(each, is_bytes=is_bytes) for each in (request.url, request.uri or ""))
    request_message = _message(
        request, request_headers, "request", is_bytes=is_bytes, body_bytes_cap=body_bytes_cap
    )
    response_message = _message(
        response, response_headers, "response", is_bytes=is_bytes, body_bytes_cap=body_bytes_cap
    )
    return capture_of(
        request_of(
            request.method,
            url_as_sent(url, uri or None, request_headers),
            request_message,
            is_head_cut=_line_count(request.headers) >= _HEADER_LINES_LOGGED_MAX,
        ),
        response_of(
            request.method,
            response.status,
            response_message,
            is_complete=_is_complete(request.method, response, response_message),
        ),
        captured_ms=started_ms,
        duration_ms=duration_ms,
        client_ip=entry.client_ip,
    )


def _message(
    logged: LoggedRequest | LoggedResponse,
    headers: Headers,
    side: str,
    *,
    is_bytes: bool,
    body_bytes_cap: int | None,
) -> Message:
    content: str | bytes | None = logged.body
    if logged.body_base64 is not None:
        content = from_base64(logged.body_base64, f"{side}.body_base64: base64")
    elif logged.body is not None and is_bytes:
        content = text_or_bytes(_bytes_of(logged.body, f"{side}.body: bytes"))
    is_cut = body_bytes_cap is not None and content is not None and byte_length(content) == body_bytes_cap
    return Message(headers, content, is_cut, _size(logged.size))


def _is_complete(method: str, response: LoggedResponse, message: Message) -> bool:
    """Return False where the client was gone: nginx's status for that, or fewer bytes sent than the response declared."""
    if response.status == CLIENT_CLOSED:
        return False
    length = declared_length(message.headers)
    if length is None or message.size_bytes is None or is_bodiless(method, response.status):
        return True
    return message.size_bytes >= length


def _consumer(consumer: Consumer | None) -> tuple[str | None, str | None]:
    return (None, None) if consumer is None else (consumer.id, consumer.username)


def _headers(headers: LuaHeaders, path: str, *, is_bytes: bool) -> Headers:
    if isinstance(headers, list):
        return {}
    lines: list[tuple[str, str]] = []
    for name, value in headers.items():
        values = [value] if isinstance(value, str) else value
        lines += ((name, _text(each, is_bytes=is_bytes)) for each in values)
    return joined_headers(lines, path)


def _line_count(headers: LuaHeaders) -> int:
    values = headers.values() if isinstance(headers, dict) else ()
    return sum(1 if isinstance(value, str) else len(value) for value in values)


def _text(value: str, *, is_bytes: bool) -> str:
    if not is_bytes:
        return value
    try:
        return header_text(value.encode("latin-1"))
    except UnicodeEncodeError:
        return value


def _bytes_of(value: str, path: str) -> bytes:
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        pass
    raise RefusedCapture(RefusalReason.INVALID, path)


def _size(size: _Size) -> float | None:
    """Return the size in bytes, which older versions write as text."""
    if isinstance(size, str):
        return float(size) if size.isascii() and size.isdecimal() and len(size) <= 18 else None
    return size
