"""Log lines of HAProxy, as deploy/auditap_gateways/haproxy/haproxy.cfg writes them: a syslog header (RFC 5424) and a JSON object.

Known from HAProxy's configuration manual, and run against HAProxy 2.6.

HAProxy writes `-` for what it does not have. `target` is in base64, and so is `head`, the lines of the headers that are copied.
`bytes` is how long a body was, once all of it has passed; `body`, in base64, is left out if it is longer than auditap.lua copies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Final
from urllib.parse import quote

import msgspec

from gateway_tap.body import split_texts
from gateway_tap.formats.contracts import decode_text
from gateway_tap.formats.messages import (
    CLIENT_CLOSED,
    Message,
    capture_without_some_bodies,
    from_base64,
    header_text,
    joined_headers,
    request_of,
    response_of,
    text_or_bytes,
)
from gateway_tap.formats.port import NoPair
from schemas.capture import Capture, Headers, TapPosition
from schemas.errors import RefusalReason, RefusedCapture

_JSON_BEGINS: Final = b'{"number":'
_POSITION: Final = re.compile(rb'{"number":"([0-9]{1,18})","began":([0-9]{1,18}),')
_RING_WAS_FULL: Final = re.compile(rb" - - [0-9]{1,18} events? dropped\Z")
"""A line of HAProxy's own, for lines that its ring had no room for."""
_ABSENT: Final = "-"
_METHOD_CHARS_MAX: Final = 64
_URL_SAFE: Final = "!$%&'()*+,/:;=@[]~?"
_TIME: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_NO_STATUS: Final = -1
_ENDED_IN_DATA: Final = "D"
"""The second letter of `end`, HAProxy's termination state: the session ended while the response was being sent."""
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class _LoggedMessage(msgspec.Struct, frozen=True, gc=False):
    head: str = _ABSENT
    bytes: str = _ABSENT
    body: str = _ABSENT


class _LogEntry(msgspec.Struct, frozen=True, gc=False):
    """`at`: when the request began (Unix ms). `ms`: how long it took. `tls`: 1 for HTTPS. `status`: -1 without a response."""

    number: str
    began: int
    method: str
    target: str
    status: int
    at: str
    ms: Milliseconds = 0
    client: str = ""
    tls: int = 0
    end: str = "--"
    request: _LoggedMessage = _LoggedMessage()
    response: _LoggedMessage = _LoggedMessage()


_decoder = msgspec.json.Decoder(_LogEntry)


class HaproxyFormat:
    """The format. `position` numbers what HAProxy sends; an epoch is one process of it."""

    name: Final = "haproxy"

    def split(self, body: bytes, content_type: str, texts_max: int) -> Iterable[bytes]:
        """See `GatewayFormat.split`."""
        return split_texts(body, content_type, texts_max)

    def decode(self, text: bytes) -> Capture:
        """See `GatewayFormat.decode`."""
        begins = text.find(_JSON_BEGINS)
        if begins < 0:
            if _RING_WAS_FULL.search(text):
                # The numbers of the lines around it say what is missing.
                raise NoPair("events dropped")
            raise RefusedCapture(RefusalReason.MALFORMED)
        entry = decode_text(_decoder, text[begins:])
        if entry.at == _ABSENT:
            # What a client sent was no request that HAProxy could read.
            raise NoPair("at")
        if entry.request.head == _ABSENT:
            # Without its headers, another operation might seem to have been asked for.
            raise RefusedCapture(RefusalReason.INVALID, "request.head: required")
        request_headers = _headers(entry.request, "request.head")
        url = _url(entry, request_headers)
        request = request_of(
            entry.method[:_METHOD_CHARS_MAX], url, _message(entry.request, request_headers, "request.body")
        )
        status = CLIENT_CLOSED if entry.status == _NO_STATUS else entry.status
        is_complete = entry.status != _NO_STATUS and entry.end[1:2] != _ENDED_IN_DATA
        response_headers = _headers(entry.response, "response.head")
        message = _message(entry.response, response_headers, "response.body")
        response = response_of(entry.method, status, message, is_complete=is_complete)
        return capture_without_some_bodies(
            request,
            response,
            captured_ms=_milliseconds(entry.at),
            duration_ms=entry.ms,
            client_ip=entry.client,
        )

    def position(self, text: bytes) -> TapPosition | None:
        """See `LineFormat.position`."""
        found = _POSITION.search(text)
        return found and TapPosition(self.name, int(found[2]), int(found[1]))


HAPROXY: Final = HaproxyFormat()


def _headers(message: _LoggedMessage, path: str) -> Headers:
    if message.head == _ABSENT:
        return {}
    split = (line.partition(b":") for line in from_base64(message.head, path).split(b"\r\n") if line)
    lines = ((header_text(name), header_text(value.strip(b" \t"))) for name, _, value in split)
    return joined_headers(lines, path)


def _url(entry: _LogEntry, headers: Headers) -> str:
    # Clients may send any bytes.
    target = quote(from_base64(entry.target, "target"), safe=_URL_SAFE)
    host = headers.get("host")
    if not isinstance(host, str) or not target.startswith("/"):
        return target
    return f"{'https' if entry.tls else 'http'}://{host}{target}"


def _milliseconds(text: str) -> int:
    if not _TIME.fullmatch(text):
        raise RefusedCapture(RefusalReason.INVALID, "at")
    return int(text)


def _message(logged: _LoggedMessage, headers: Headers, path: str) -> Message:
    """Return a message. How many bytes its body had is only logged once all of it has passed."""
    body = None
    if logged.body not in {_ABSENT, ""}:
        body = text_or_bytes(from_base64(logged.body, path))
    return Message(headers, body, is_cut=body is None and logged.bytes != "0")
