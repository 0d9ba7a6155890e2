"""Tyk Pump's Splunk pump: events for Splunk's HTTP Event Collector.

Known from the sources of Tyk Pump (pumps/splunk.go, analytics/analytics.go) and of Tyk's gateway (handler_success.go,
handler_error.go), not run against a real Tyk. An event is `{"time": …, "event": {…}}`; with `enable_batch`, a request to the collector
has several without anything between them. `raw_request` and `raw_response` are HTTP/1 as the gateway sent it on and received
it, in base64; they are empty unless Tyk records details, cut at the pump's `max_record_size`. `time_stamp` is when the response had
been sent, `request_time` the milliseconds that it took. The pump sends no Content-Type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from gateway_tap.body import RejectedBody, Rejection
from gateway_tap.formats.contracts import decode_text
from gateway_tap.formats.http_wire import read_request, read_response
from gateway_tap.formats.messages import Message, capture_of, from_base64, request_of, response_of
from gateway_tap.formats.nginx_log import Milliseconds
from gateway_tap.formats.port import GatewayFormat
from schemas.capture import Capture, CapturedRequest, CapturedResponse
from schemas.errors import RefusalReason, RefusedCapture
from schemas.identity import parse_rfc3339_ms

_EVENT_START: Final = b'{"time":'
_SPACE: Final = b" \t\r\n"
_SPACE_BYTES_MAX: Final = 8
"""Between two events, where something has written them in lines."""


class _Event(msgspec.Struct, frozen=True, gc=False):
    method: str
    response_code: int
    time_stamp: str
    path: str = ""
    raw_path: str = ""
    request_time: Milliseconds | None = None
    content_length: int = 0
    raw_request: str = ""
    raw_response: str = ""
    ip_address: str | None = None


class _HecEvent(msgspec.Struct, frozen=True, gc=False):
    event: _Event


_decoder: Final = msgspec.json.Decoder(_HecEvent)


class _TykFormat:
    name: Final = "tyk"

    def split(self, body: bytes, content_type: str, texts_max: int) -> Iterable[bytes]:  # noqa: ARG002  # none is sent
        """See `GatewayFormat.split`. The content type is not looked at."""
        if body.count(_EVENT_START) > texts_max:
            raise RejectedBody(Rejection.CAPTURES)
        return _events(body)

    def decode(self, text: bytes) -> Capture:
        """See `GatewayFormat.decode`."""
        event = decode_text(_decoder, text).event
        request = _request(event)
        return capture_of(
            request,
            _response(event),
            captured_ms=_started_ms(event),
            duration_ms=event.request_time,
            client_ip=event.ip_address,
        )


TYK: Final[GatewayFormat] = _TykFormat()


def _events(body: bytes) -> Iterator[bytes]:
    start = 0
    at = body.find(_EVENT_START, 1)
    while at > 0:
        # No JSON string can hold these bytes, because its quotation marks are escaped. So an object begins here, and it is an
        # event if another object ends before it.
        if body[max(start, at - _SPACE_BYTES_MAX) : at].rstrip(_SPACE).endswith(b"}"):
            yield body[start:at].strip(_SPACE)
            start = at
        at = body.find(_EVENT_START, at + 1)
    if rest := body[start:].strip(_SPACE):
        yield rest


def _started_ms(event: _Event) -> float:
    ended_ms = parse_rfc3339_ms(event.time_stamp)
    if ended_ms is None:
        raise RefusedCapture(RefusalReason.INVALID, "event.time_stamp: format")
    return ended_ms - (event.request_time or 0)


def _request(event: _Event) -> CapturedRequest:
    wire, is_cut = _wire(event.raw_request, "event.raw_request: base64")
    read = read_request(wire, "event.raw_request: http")
    if read is None:
        # -1: of a length that was not known in advance.
        message = Message({}, is_cut=event.content_length != 0 or wire != b"")
        # Unless the head was recorded and cut, Tyk records no details, and there is no body of a response either.
        is_head_cut = wire != b"" or event.raw_response != ""
        return request_of(event.method, event.raw_path or event.path, message, is_head_cut=is_head_cut)
    return request_of(read.method, read.target, read.message._replace(is_cut=read.message.is_cut or is_cut))


def _response(event: _Event) -> CapturedResponse:
    wire, is_cut = _wire(event.raw_response, "event.raw_response: base64")
    read = read_response(wire, "event.raw_response: http")
    if read is None:
        return response_of(event.method, event.response_code, Message({}, is_cut=True))
    return response_of(event.method, read.status, read.message._replace(is_cut=read.message.is_cut or is_cut))


def _wire(encoded: str, path: str) -> tuple[bytes, bool]:
    """Return the bytes of a raw message, and whether the pump cut it, which it does to the base64 text."""
    surplus = len(encoded) % 4
    return from_base64(encoded[: len(encoded) - surplus], path), surplus != 0
