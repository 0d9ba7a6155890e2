"""Caddy's access log in JSON, as deploy/auditap_gateways/caddy/Caddyfile has it written: one object on each line.

Run against Caddy 2.11. `req_body` and `resp_body` are base64, and left out where the Caddyfile does not ask for them. `ts` is when
the line was written, at the end of the request. `duration` is 0 where Caddy broke off the response. `size` counts the bytes of the
response's body that were sent. Caddy itself masks credentials.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Final

import msgspec

from gateway_tap.body import split_texts
from gateway_tap.formats.contracts import decode_text
from gateway_tap.formats.messages import (
    CLIENT_CLOSED,
    HEADER_LINES_MAX,
    Message,
    capture_without_some_bodies,
    declared_length,
    from_base64,
    is_bodiless,
    joined_headers,
    request_of,
    response_of,
    text_or_bytes,
)
from schemas.capture import Capture, Headers, TapPosition

_BODY_BYTES_MAX: Final = 256 * 1024
_NO_STATUS: Final = 0

_Seconds = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
_Lines = dict[str, list[str]]


class _LoggedRequest(msgspec.Struct, frozen=True, gc=False):
    method: str
    uri: str
    host: str = ""
    client_ip: str = ""
    headers: _Lines = {}
    tls: msgspec.Raw = msgspec.Raw()


class _LogEntry(msgspec.Struct, frozen=True, gc=False):
    ts: _Seconds
    request: _LoggedRequest
    status: int
    duration: _Seconds = 0
    size: int = 0
    bytes_read: int = 0
    resp_headers: _Lines = {}
    req_body: str | None = None
    resp_body: str | None = None


_decoder = msgspec.json.Decoder(_LogEntry)


class CaddyFormat:
    """The format. Caddy does not number what it writes."""

    name: Final = "caddy"

    def split(self, body: bytes, content_type: str, texts_max: int) -> Iterable[bytes]:
        """See `GatewayFormat.split`."""
        return split_texts(body, content_type, texts_max)

    def decode(self, text: bytes) -> Capture:
        """See `GatewayFormat.decode`."""
        entry = decode_text(_decoder, text)
        logged = entry.request
        headers = _headers(logged.headers)
        if logged.host:
            headers["host"] = logged.host
        request_message = _message(headers, entry.req_body, entry.bytes_read, "req_body")
        # Caddy writes headers in any order, so those beyond the bound may be any.
        is_head_cut = sum(map(len, logged.headers.values())) > HEADER_LINES_MAX
        request = request_of(logged.method, _url(logged), request_message, is_head_cut=is_head_cut)
        status = CLIENT_CLOSED if entry.status == _NO_STATUS else entry.status
        response_headers = _headers(entry.resp_headers)
        response_message = _message(response_headers, entry.resp_body, entry.size, "resp_body")
        is_complete = entry.duration > 0 and _is_all_sent(logged.method, status, response_headers, entry.size)
        response = response_of(logged.method, status, response_message, is_complete=is_complete)
        return capture_without_some_bodies(
            request,
            response,
            captured_ms=round((entry.ts - entry.duration) * 1000),
            duration_ms=entry.duration * 1000,
            client_ip=logged.client_ip,
        )

    def position(self, text: bytes) -> TapPosition | None:  # noqa: ARG002  it is in no text
        """See `LineFormat.position`."""
        return None


CADDY: Final = CaddyFormat()


def _headers(lines: _Lines) -> Headers:
    each = ((name, value) for name, values in lines.items() for value in values)
    return joined_headers(islice(each, HEADER_LINES_MAX))


def _url(logged: _LoggedRequest) -> str:
    if not logged.host or not logged.uri.startswith("/"):
        return logged.uri
    scheme = "http" if bytes(logged.tls) in {b"", b"null"} else "https"
    return f"{scheme}://{logged.host}{logged.uri}"


def _message(headers: Headers, encoded: str | None, size_bytes: int, path: str) -> Message:
    """Return a message. `size_bytes`: how long its body was; the line may not hold it."""
    if encoded is None or len(encoded) * 3 // 4 - 2 > _BODY_BYTES_MAX:
        return Message(headers, is_cut=size_bytes > 0, size_bytes=size_bytes)
    return Message(headers, text_or_bytes(from_base64(encoded, path)) or None, size_bytes=size_bytes)


def _is_all_sent(method: str, status: int, headers: Headers, sent_bytes: int) -> bool:
    """Whether all of the response was sent, as far as its head tells how long it is."""
    if status == CLIENT_CLOSED:
        return False
    length = declared_length(headers)
    return length is None or sent_bytes >= length or is_bodiless(method, status)
