"""Flow files of mitmproxy and mitmdump: tnetstrings, one for each flow.

Known from mitmproxy's source (mitmproxy/io) and checked against files that mitmproxy 11 wrote. Of format version 4 (mitmproxy 4) to 21,
everything that a capture needs has the same names, but for the client's address. Later ones are read as long as these fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any, Final

from gateway_tap.body import RejectedBody, Rejection
from gateway_tap.formats.messages import (
    Message,
    capture_of,
    header_text,
    joined_headers,
    only_value,
    request_of,
    response_of,
)
from gateway_tap.formats.port import GatewayFormat, NoPair
from gateway_tap.formats.tnetstrings import NotTnetstring, next_frame, parse
from schemas.capture import Capture, Headers
from schemas.errors import RefusalReason, RefusedCapture

_VERSION_MIN: Final = 4
_ADDRESS_NAMES: Final = ("peername", "address", "ip_address")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_FRAME_BYTES_MAX: Final = 1 << 30


class _MitmproxyFormat:
    name: Final = "mitmproxy"

    def split(self, body: bytes, content_type: str, texts_max: int) -> Iterable[bytes]:  # noqa: ARG002  # no route takes it
        """See `GatewayFormat.split`. The content type is not looked at, and texts are split one by one."""
        return _frames(body)

    def decode(self, text: bytes) -> Capture:
        """See `GatewayFormat.decode`."""
        try:
            flow: Any = parse(text)
        except NotTnetstring:
            flow = None
        if not isinstance(flow, dict):
            raise RefusedCapture(RefusalReason.MALFORMED)
        return _capture(flow)


MITMPROXY: Final[GatewayFormat] = _MitmproxyFormat()


def _frames(body: bytes) -> Iterator[bytes]:
    source = BytesIO(body)
    while True:
        try:
            frame = next_frame(source, _FRAME_BYTES_MAX)
        except NotTnetstring:
            frame = b""
        if frame is None:
            return
        if not frame:
            raise RejectedBody(Rejection.ARRAY)
        yield frame


def _capture(flow: dict[str, Any]) -> Capture:
    version = flow.get("version")
    if not isinstance(version, int) or version < _VERSION_MIN:
        raise RefusedCapture(RefusalReason.INVALID, "version")
    if _text(flow, "type", "type") != "http":
        raise NoPair("type")
    for name in ("error", "websocket"):
        if flow.get(name) is not None:
            raise NoPair(name)
    if not isinstance(flow.get("response"), dict):
        raise NoPair("response")
    request, response = _part(flow, "request"), flow["response"]
    headers = _headers(request, "request")
    method = _text(request, "method", "request.method")
    if method == "CONNECT":
        raise NoPair("request.method")
    status = response.get("status_code")
    if not isinstance(status, int):
        raise RefusedCapture(RefusalReason.INVALID, "response.status_code")
    started_s = _seconds(request, "timestamp_start", "request.timestamp_start")
    ended_s = _seconds(response, "timestamp_end", "response.timestamp_end")
    if started_s is None:
        raise RefusedCapture(RefusalReason.INVALID, "request.timestamp_start")
    return capture_of(
        request_of(method, _url(request, headers), _message(request, headers, "request")),
        response_of(method, status, _message(response, _headers(response, "response"), "response")),
        captured_ms=started_s * 1000,
        duration_ms=None if ended_s is None else round((ended_s - started_s) * 1000, 3),
        client_ip=_client_ip(flow),
    )


def _message(message: dict[str, Any], headers: Headers, side: str) -> Message:
    content = message.get("content")
    if content is not None and not isinstance(content, bytes):
        raise RefusedCapture(RefusalReason.INVALID, f"{side}.content")
    # Without content, mitmproxy streamed the body and did not keep it.
    return Message(headers, content, is_cut=content is None, size_bytes=0)


def _url(request: dict[str, Any], headers: Headers) -> str:
    path = _text(request, "path", "request.path")
    scheme = _text(request, "scheme", "request.scheme")
    port = request.get("port")
    authority = only_value(headers, "host") or _text(request, "authority", "request.authority")
    if not authority:
        host = _text(request, "host", "request.host")
        bracketed = f"[{host}]" if ":" in host else host
        authority = bracketed if port == _DEFAULT_PORTS.get(scheme) else f"{bracketed}:{_port(port)}"
    return f"{scheme}://{authority}{path}"


def _port(port: Any) -> int:
    if isinstance(port, int) and 0 < port < 1 << 16:
        return port
    raise RefusedCapture(RefusalReason.INVALID, "request.port")


def _headers(message: dict[str, Any], side: str) -> Headers:
    lines = message.get("headers")
    if not isinstance(lines, list):
        raise RefusedCapture(RefusalReason.INVALID, f"{side}.headers")
    for line in lines:
        if not isinstance(line, list) or len(line) != 2 or not all(isinstance(each, bytes) for each in line):
            raise RefusedCapture(RefusalReason.INVALID, f"{side}.headers")
    named = ((header_text(name), header_text(value)) for name, value in lines)
    headers = joined_headers(named, f"{side}.headers")
    # mitmproxy keeps bodies without the framing of chunks.
    headers.pop("transfer-encoding", None)
    return headers


def _client_ip(flow: dict[str, Any]) -> str | None:
    connection = _part(flow, "client_conn")
    for name in _ADDRESS_NAMES:
        address = connection.get(name)
        if isinstance(address, list) and address:
            host = address[0]
            if isinstance(host, bytes):
                return header_text(host)
            return host if isinstance(host, str) else None
    return None


def _part(flow: dict[str, Any], name: str) -> dict[str, Any]:
    part = flow.get(name)
    if isinstance(part, dict):
        return part
    raise RefusedCapture(RefusalReason.INVALID, name)


def _text(part: dict[str, Any], name: str, path: str) -> str:
    """Return a text, which some versions have as bytes; empty if there is none."""
    value = part.get(name)
    if isinstance(value, bytes):
        return header_text(value)
    if value is None or isinstance(value, str):
        return value or ""
    raise RefusedCapture(RefusalReason.INVALID, path)


def _seconds(part: dict[str, Any], name: str, path: str) -> float | None:
    value = part.get(name)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    raise RefusedCapture(RefusalReason.INVALID, path)
