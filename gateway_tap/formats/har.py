"""HAR 1.2 files, as browsers and proxies export them (http://www.softwareishard.com/blog/har-12-spec).

An entry's bodies are inflated and without the framing of chunks, while the headers that describe both still stand. What tools do
beside the specification: HTTP/2's pseudo-headers stand among the headers, several header lines are one with line ends in it
(Chromium), a body is cut at a limit (Firefox) or missing, and the status is 0 where there was no response.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final
from urllib.parse import urlencode

import msgspec

from auditap_tap.config import METHODS_WITHOUT_BODIES
from gateway_tap.body import RejectedBody, Rejection, split_texts
from gateway_tap.formats.contracts import decode_text
from gateway_tap.formats.messages import (
    Message,
    byte_length,
    capture_of,
    declared_length,
    from_base64,
    joined_headers,
    request_of,
    response_of,
)
from gateway_tap.formats.port import GatewayFormat, NoPair
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.errors import RefusalReason, RefusedCapture
from schemas.identity import parse_rfc3339_ms

_DELIMITERS: Final = frozenset("/?&;=%#")
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
_CODINGS_WITHOUT_MAGIC: Final = frozenset({"br", "deflate"})
_SWITCHING: Final = 101
_NULL: Final = msgspec.Raw(b"null")

_Size = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)] | None


class _NameValue(msgspec.Struct, frozen=True, gc=False):
    name: str
    value: str | None = None


class _PostData(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    mime_type: str | None = None
    text: str | None = None
    params: list[_NameValue] | None = None
    encoding: str | None = None


class _Request(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    method: str
    url: str
    headers: list[_NameValue] = []
    post_data: _PostData | None = None
    body_size: _Size = None


class _Content(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    size: _Size = None
    mime_type: str | None = None
    text: str | None = None
    encoding: str | None = None


class _Response(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    status: int
    headers: list[_NameValue] = []
    content: _Content = _Content()
    body_size: _Size = None


class _Entry(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    started_date_time: str
    request: _Request
    response: _Response
    time: _Size = None
    web_socket_messages: msgspec.Raw = msgspec.field(default=_NULL, name="_webSocketMessages")


class _Log(msgspec.Struct, frozen=True, gc=False):
    entries: msgspec.Raw


class _File(msgspec.Struct, frozen=True, gc=False):
    log: _Log


_file_decoder: Final = msgspec.json.Decoder(_File)
_entry_decoder: Final = msgspec.json.Decoder(_Entry)


class _HarFormat:
    name: Final = "har"

    def split(self, body: bytes, content_type: str, texts_max: int) -> Iterable[bytes]:  # noqa: ARG002  # no route takes it
        """See `GatewayFormat.split`. The content type is not looked at."""
        try:
            entries = decode_text(_file_decoder, body).log.entries
        except RefusedCapture:
            entries = None
        if entries is None:
            raise RejectedBody(Rejection.ARRAY)
        return split_texts(bytes(entries), "application/json", texts_max)

    def decode(self, text: bytes) -> Capture:
        """See `GatewayFormat.decode`."""
        entry = decode_text(_entry_decoder, text)
        if entry.response.status == 0:
            raise NoPair("response.status")
        if entry.response.status == _SWITCHING or bytes(entry.web_socket_messages) != b"null":
            raise NoPair("_webSocketMessages")
        started_ms = parse_rfc3339_ms(entry.started_date_time)
        if started_ms is None:
            raise RefusedCapture(RefusalReason.INVALID, "startedDateTime: format")
        return capture_of(
            _request(entry.request),
            _response(entry.request.method, entry.response),
            captured_ms=started_ms,
            # -1: it is not known.
            duration_ms=entry.time if entry.time is not None and entry.time >= 0 else None,
        )


HAR: Final[GatewayFormat] = _HarFormat()


def _request(request: _Request) -> CapturedRequest:
    data = request.post_data or _PostData()
    headers = _headers(request.headers, data.mime_type, "request.headers: length")
    content = _content(data.text, data.encoding, "request.postData.text: base64")
    is_cut = False
    if not content and data.params:
        # The parts of a multipart form, its files above all, are in `text` alone.
        is_form = (data.mime_type or "").startswith(_FORM_TYPE)
        content = urlencode([(each.name, each.value or "") for each in data.params]) if is_form else None
        is_cut = not is_form
    elif content is None:
        is_cut = (request.body_size or 0) > 0
    message = Message(headers, content, is_cut, size_bytes=0)
    return request_of(request.method, _url(request), message, is_inflated=True)


def _url(request: _Request) -> str:
    """Return the URL without the fragment that browsers may write, which was not sent.

    What a proxy has seen in the target is not cut off: services read it as more of the path or the query.
    """
    url, _, fragment = request.url.partition("#")
    is_page = request.method in METHODS_WITHOUT_BODIES
    return url if is_page or _DELIMITERS.isdisjoint(fragment) else request.url


def _response(method: str, response: _Response) -> CapturedResponse:
    kept = response.content
    headers = _headers(response.headers, kept.mime_type, "response.headers: length")
    content = _content(kept.text, kept.encoding, "response.content.text: base64")
    size_bytes = kept.size or 0
    is_cut = size_bytes > (byte_length(content) if content else 0)
    if content:
        # Some proxies write the size on the wire, which exceeds that of a short body.
        is_size_encoded = "content-encoding" in headers and size_bytes in (
            response.body_size,
            declared_length(headers),
        )
        is_cut = is_cut and not is_size_encoded
        headers = _without_undone_coding(headers)
    # An empty body is known to be empty only by its size.
    known_size = None if kept.size is None or size_bytes else 0
    return response_of(method, response.status, Message(headers, content, is_cut, known_size))


def _content(text: str | None, encoding: str | None, path: str) -> str | bytes | None:
    if text is not None and encoding == "base64":
        return from_base64(text, path)
    return text


def _headers(lines: list[_NameValue], mime_type: str | None, path: str) -> Headers:
    named = ((line.name, value) for line in lines for value in (line.value or "").split("\n"))
    headers = joined_headers(named, path)
    headers.pop("transfer-encoding", None)
    if "content-type" not in headers and mime_type and "/" in mime_type:
        headers["content-type"] = mime_type
    return headers


def _without_undone_coding(headers: Headers) -> Headers:
    """Return the headers without a coding of which the content itself does not show that it is undone, as all are in HAR."""
    codings = headers.get("content-encoding")
    if isinstance(codings, str) and codings.strip().lower() in _CODINGS_WITHOUT_MAGIC:
        return {
            name: value
            for name, value in headers.items()
            if name not in ("content-encoding", "content-length")
        }
    return headers
