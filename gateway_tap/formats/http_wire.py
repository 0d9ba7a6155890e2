"""HTTP/1 messages as they were on the wire, or cut off anywhere: head and body, without the framing of chunks."""

from __future__ import annotations

from contextlib import suppress
from typing import Final, NamedTuple

import httptools

from gateway_tap.formats.messages import HEADER_LINES_MAX, Message, header_text, joined_headers
from schemas.errors import RefusalReason, RefusedCapture

_CHUNKS_MAX: Final = 50_000
"""Of one byte each, three million fit into an event; each is a call."""
_Parser = httptools.HttpRequestParser | httptools.HttpResponseParser


class WireRequest(NamedTuple):
    """A request, and the target on its first line. The repr shows nothing of it."""

    method: str
    target: str
    message: Message

    def __repr__(self) -> str:
        return "<WireRequest>"


class WireResponse(NamedTuple):
    """A response. The repr shows nothing of it."""

    status: int
    message: Message

    def __repr__(self) -> str:
        return "<WireResponse>"


class _Enough(Exception):
    """Ends the parsing; httptools turns it into an error of its own."""


class _FirstMessage:
    """What httptools' parser calls while it reads. It reads the first message, and not more than the bounds allow."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.parser: _Parser | None = None
        self.first: str | int | None = None
        """The method or the status, once the head is there."""
        self.target = b""
        self.lines: list[tuple[str, str]] = []
        self.chunks: list[bytes] = []
        self.is_complete = False

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise _Enough

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come after the head.
        if self.first is not None:
            return
        if len(self.lines) > HEADER_LINES_MAX:
            raise _Enough
        self.lines.append((header_text(name), header_text(value)))

    def on_headers_complete(self) -> None:
        if isinstance(self.parser, httptools.HttpRequestParser):
            self.first = self.parser.get_method().decode("latin-1")
        elif self.parser is not None:
            self.first = self.parser.get_status_code()

    def on_body(self, chunk: bytes) -> None:
        if len(self.chunks) == _CHUNKS_MAX:
            raise _Enough
        self.chunks.append(chunk)

    def on_message_complete(self) -> None:
        self.is_complete = True

    def message(self, *, is_whole: bool) -> Message:
        headers = joined_headers(self.lines, self.path)
        # The framing is gone, and with it the header that describes it.
        headers.pop("transfer-encoding", None)
        content = b"".join(self.chunks) if self.chunks else None
        return Message(headers, content, is_cut=not is_whole, size_bytes=0)


def read_request(wire: bytes, path: str) -> WireRequest | None:
    """Return a request; None if its head is cut off. Raises RefusedCapture with `path` if it is none."""
    reading = _FirstMessage(path)
    _read(httptools.HttpRequestParser(reading), reading, wire, path)
    if reading.first is None:
        return None
    message = reading.message(is_whole=reading.is_complete)
    return WireRequest(str(reading.first), header_text(reading.target), message)


def read_response(wire: bytes, path: str) -> WireResponse | None:
    """Return a response; None if its head is cut off. Raises RefusedCapture with `path` if it is none."""
    reading = _FirstMessage(path)
    _read(httptools.HttpResponseParser(reading), reading, wire, path)
    if reading.first is None:
        return None
    # Without a length, the response lasts until its bytes end.
    has_length = any(name.lower() in ("content-length", "transfer-encoding") for name, _ in reading.lines)
    message = reading.message(is_whole=reading.is_complete or not has_length)
    return WireResponse(int(reading.first), message)


def _read(parser: _Parser, reading: _FirstMessage, wire: bytes, path: str) -> None:
    reading.parser = parser
    is_http = False
    # What follows a whole message, or a switch of protocols, does not belong to it.
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        parser.feed_data(wire)
        is_http = True
    reading.parser = None
    if reading.first is None and not is_http:
        raise RefusedCapture(RefusalReason.INVALID, path)
