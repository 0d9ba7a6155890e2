"""Captures out of what other formats know of a pair: URL, headers, body, and whether the body is whole.

Formats differ in what they keep from a capture: bodies are cut without a word, inflated while `content-encoding` still stands,
or not sent at all. What is missing must not read as "there was no body", so it becomes `truncated`.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec.structs import replace

from auditap_tap.config import METHODS_WITHOUT_BODIES
from auditap_tap.encoding import altered_url, bounded_url
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.errors import RefusalReason, RefusedCapture
from schemas.identity import rfc3339_ms

# The bounds of schemas/capture.schema.json. Its types check them only where they are decoded from JSON.
_METHOD_CHARS_MAX: Final = 64
_ADDRESS_CHARS_MAX: Final = 64
_STATUS_RANGE: Final = range(100, 1000)
CLIENT_CLOSED: Final = 499
"""nginx' status for a client that left before there was a response."""
HEADER_LINES_MAX: Final = 1_000
"""No gateway takes so many; nginx' own limit for Lua is 100."""
_LENGTH_DIGITS_MAX: Final = 18
_FIRST_LINE_BYTES: Final = 32
"""What the first line has beside method and target, the version and a reason, and the empty line."""
_UNLISTED_HEAD_BYTES: Final = 1024
"""Headers that a gateway adds after it has listed them, such as Date and Server."""
_MASKED: Final = "REDACTED"
"""What Kong writes in place of a header with credentials."""

_BODILESS_STATUS: Final = frozenset({204, 304})
_ORIGIN: Final = re.compile(r"(https?)://([^/?#]*)(.*)", re.DOTALL | re.IGNORECASE)
# How streams in these codings begin. Of the others, nothing is known.
_CODING_MAGIC: Final = {"gzip": b"\x1f\x8b", "x-gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}


class Message(NamedTuple):
    """What a format knows of a request or a response. The repr shows nothing of it.

    `headers` has lower-case names. `content`: the body, text if the format has it as text; None if the format has none.
    `is_cut`: whether the format itself says, or lets conclude, that `content` is not the whole body. `size_bytes`: of the
    message with its head, as the gateway counted it; None if it did not.
    """

    headers: Headers
    content: str | bytes | None = None
    is_cut: bool = False
    size_bytes: float | None = None

    def __repr__(self) -> str:
        return "<Message>"


def request_of(
    method: str, url: str, message: Message, *, is_inflated: bool = False, is_head_cut: bool = False
) -> CapturedRequest:
    """Return the request. `truncated` where `message` shows that there was more of a body. Raises RefusedCapture.

    `is_inflated`: whoever wrote the format undid the content's coding. Otherwise the header is the client's word, true or not.
    `is_head_cut`: the format does not have all headers, or not the query. Then, or if the URL is too long, it is an `altered_url`.
    """
    _require(0 < len(method) <= _METHOD_CHARS_MAX, "request.method: length")
    _require(url != "", "request.url: length")
    # A hash within a request target is no fragment: gateways and services take what follows it for more of the path.
    url = url.replace("#", "%23")
    url = altered_url(url) if is_head_cut else bounded_url(url)
    headers, is_undone = _with_true_coding(message) if is_inflated else (message.headers, False)
    is_cut = message.is_cut
    if message.content is None:
        # By HTTP/1, a request without either header has no body (RFC 9112, section 6.3). By HTTP/2, it may have one.
        declares = _declares_body(headers)
        is_cut = is_cut or (_exceeds(message, len(method) + len(url)) if declares is None else declares)
    elif not is_undone:
        is_cut = is_cut or _lacks_some(message, message.content)
    text, encoded = _body_fields(message.content)
    return CapturedRequest(method, url, headers, text, encoded, is_cut)


def response_of(method: str, status: int, message: Message, *, is_complete: bool = True) -> CapturedResponse:
    """Return the response to a request of this method. `truncated` as in `request_of`. Raises RefusedCapture.

    Gateways compress after they have logged the body, or inflate it before, so it may be in no coding any more.
    """
    _require(status in _STATUS_RANGE, "response.status: range")
    headers, is_undone = _with_true_coding(message)
    is_cut = message.is_cut
    if is_bodiless(method, status):
        # The length in its head, if any, is that of another response.
        is_cut = False
    elif not message.content:
        # A response without either header lasts until the connection ends.
        declares = _declares_body(headers)
        unknown = message.size_bytes is None or _exceeds(message, _UNLISTED_HEAD_BYTES)
        is_cut = is_cut or (unknown if declares is None else declares)
    elif not is_undone:
        is_cut = is_cut or _lacks_some(message, message.content)
    text, encoded = _body_fields(message.content)
    return CapturedResponse(status, headers, text, encoded, is_cut, is_complete)


def capture_of(
    request: CapturedRequest,
    response: CapturedResponse,
    *,
    captured_ms: float | None = None,
    duration_ms: float | None = None,
    client_ip: str | None = None,
) -> Capture:
    """Return the capture of a pair that began at `captured_ms` (Unix milliseconds). Raises RefusedCapture."""
    _require(client_ip is None or len(client_ip) <= _ADDRESS_CHARS_MAX, "client_ip: length")
    if captured_ms is not None:
        _require(math.isfinite(captured_ms), "captured_at: range")
    return Capture(
        request,
        response,
        captured_at=None if captured_ms is None else rfc3339_ms(round(captured_ms)),
        duration_ms=duration_ms if duration_ms is not None and math.isfinite(duration_ms) else None,
        client_ip=client_ip or None,
    )


def capture_without_some_bodies(
    request: CapturedRequest,
    response: CapturedResponse,
    *,
    captured_ms: float,
    duration_ms: float,
    client_ip: str,
) -> Capture:
    """Return the same as `capture_of` for gateways that do not copy bodies of METHODS_WITHOUT_BODIES, whatever a head declares."""
    if request.method in METHODS_WITHOUT_BODIES:
        request = replace(request, truncated=False)
        response = replace(response, truncated=False)
    return capture_of(
        request, response, captured_ms=captured_ms, duration_ms=duration_ms, client_ip=client_ip
    )


def joined_headers(lines: Iterable[tuple[str, str]], path: str = "headers: length") -> Headers:
    """Return headers from their lines, in order; one that stands on several lines becomes a list. Names in lower case.

    Pseudo-headers of HTTP/2, which begin with a colon, are left out. Raises RefusedCapture with this path if there are more than
    `HEADER_LINES_MAX`.
    """
    headers: Headers = {}
    for number, (line_name, value) in enumerate(lines):
        _require(number < HEADER_LINES_MAX, path)
        name = line_name.lower()
        if name.startswith(":"):
            continue
        earlier = headers.get(name)
        if earlier is None:
            headers[name] = value
        elif isinstance(earlier, list):
            earlier.append(value)
        else:
            headers[name] = [earlier, value]
    return headers


def only_value(headers: Headers, name: str) -> str | None:
    """Return the value of the header `name` (lower case) if it stands exactly once."""
    value = headers.get(name)
    if isinstance(value, list):
        return value[0] if len(value) == 1 else None
    return value


def url_as_sent(url: str, target: str | None, headers: Headers) -> str:
    """Return the absolute URL: scheme of `url`, the Host header as the client sent it, and the request target.

    Gateways write the port on which they listen into `url`, which clients do not see. Without an absolute `url` or a Host
    header, what there is.
    """
    origin = _ORIGIN.fullmatch(url)
    if origin is None:
        return target or url
    authority = only_value(headers, "host") or origin[2]
    path = target if target is not None and target.startswith("/") else origin[3]
    return f"{origin[1].lower()}://{authority}{path}"


def is_bodiless(method: str, status: int) -> bool:
    """Whether a response with this status, to a request of this method, has no body whatever its head declares."""
    return method == "HEAD" or status < 200 or status in _BODILESS_STATUS


def byte_length(content: str | bytes) -> int:
    """Return how many bytes the content has as UTF-8."""
    return len(content) if isinstance(content, bytes) or content.isascii() else len(content.encode())


def text_or_bytes(content: bytes) -> str | bytes:
    """Return the text if the bytes are UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def header_text(value: bytes) -> str:
    """Return a header's text: UTF-8, else Latin-1, which every sequence of bytes is."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def from_base64(text: str, path: str) -> bytes:
    """Return what `text` holds. Raises RefusedCapture with this path if it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        pass
    raise RefusedCapture(RefusalReason.INVALID, path)


def _require(holds: bool, path: str) -> None:
    if not holds:
        raise RefusedCapture(RefusalReason.INVALID, path)


def _body_fields(content: str | bytes | None) -> tuple[str | None, str | None]:
    """Return `body` and `body_base64`, one of which is None."""
    if isinstance(content, bytes):
        content = text_or_bytes(content)
    if isinstance(content, bytes):
        return None, base64.b64encode(content).decode()
    return content, None


def _with_true_coding(message: Message) -> tuple[Headers, bool]:
    """Return the headers, without `content-encoding` where the content is not in that coding any more, and whether it is not."""
    headers = message.headers
    codings = headers.get("content-encoding")
    if not (message.content and codings and _is_coding_undone(codings, message.content)):
        return headers, False
    return {name: value for name, value in headers.items() if name != "content-encoding"}, True


def _is_coding_undone(codings: str | list[str], content: str | bytes) -> bool:
    lines = [codings] if isinstance(codings, str) else codings
    outermost = ",".join(lines).rpartition(",")[2].strip().lower()
    if outermost in ("", "identity"):
        return False
    # No stream of gzip or zstd is text, and hardly one of the others.
    if isinstance(content, str):
        return True
    magic = _CODING_MAGIC.get(outermost)
    return magic is not None and not content.startswith(magic)


def declared_length(headers: Headers) -> int | None:
    """Return the length in bytes that the one content-length header declares, if it is one."""
    declared = only_value(headers, "content-length")
    if declared is None or not (
        declared.isascii() and declared.isdecimal() and len(declared) <= _LENGTH_DIGITS_MAX
    ):
        return None
    return int(declared)


def _declares_body(headers: Headers) -> bool | None:
    """Whether the head says that a body follows; None if it says nothing."""
    if "transfer-encoding" in headers:
        return True
    length = declared_length(headers)
    return None if length is None else length > 0


def _lacks_some(message: Message, content: str | bytes) -> bool:
    """Whether the content is shorter than its head declares or, if that declares nothing, than the message's size shows."""
    content_bytes = byte_length(content)
    length = declared_length(message.headers)
    if length is not None:
        return content_bytes < length
    # An eighth for the framing of chunks.
    return _exceeds(message, content_bytes + content_bytes // 8 + _UNLISTED_HEAD_BYTES)


def _exceeds(message: Message, size_bytes: int) -> bool:
    """Whether the message was larger than its head, as far as that is known, and so many bytes."""
    if message.size_bytes is None:
        return False
    head_bytes = _FIRST_LINE_BYTES
    for name, value in message.headers.items():
        for each in [value] if isinstance(value, str) else value:
            # How long the head was is not known then.
            if each == _MASKED:
                return False
            head_bytes += len(name) + len(each.encode()) + 4
    return message.size_bytes > head_bytes + size_bytes
