"""Capture: one request/response pair as taps send it. Mirrors `capture.schema.json`; tests keep the two in agreement.

A capture is not redacted. It exists only in the memory of tap and collector, so the repr of these types shows nothing of
their contents, and no error here holds a value.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from schemas.contracts import schema_path_of_first_error
from schemas.errors import RefusalReason, RefusedCapture

Headers = dict[str, str | list[str]]
_EPOCH_MAX = (1 << 63) - 1


class _Unprintable(msgspec.Struct, frozen=True, gc=False):
    """A struct whose repr shows nothing, so that no traceback and no log line can.

    `gc=False`: these hold texts and numbers and cannot be part of a cycle, so the garbage collector need not visit them.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return nothing: rich, which prints tracebacks with local variables, has a protocol of its own."""
        return []


class TapPosition(_Unprintable, frozen=True, gc=False):
    """Which tap captured the pair, and its sequence number. `seq` counts within one `epoch`, a run of the tap."""

    # In Python, `$` alone also matches before a trailing line end.
    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}$(?![\s\S])")]
    epoch: Annotated[int, msgspec.Meta(ge=0, le=_EPOCH_MAX)] | None = None
    seq: Annotated[int, msgspec.Meta(ge=0, le=_EPOCH_MAX)] | None = None


class CapturedRequest(_Unprintable, frozen=True, gc=False):
    """The request. A body that is not text is in `body_base64`. `url` is absolute, or a path with query.

    `not_read`: the service responded without reading the body to its end, and the tap did not get it either. Taps set
    `truncated` beside it, for collectors that do not know `not_read`.
    """

    method: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=65_536)]
    headers: Headers = {}
    body: str | None = None
    body_base64: str | None = None
    truncated: bool = False
    not_read: bool = False


class CapturedResponse(_Unprintable, frozen=True, gc=False):
    """The response. `complete`: it was sent to its end. `truncated`: it had a body that the tap did not copy whole."""

    status: Annotated[int, msgspec.Meta(ge=100, le=999)]
    headers: Headers = {}
    body: str | None = None
    body_base64: str | None = None
    truncated: bool = False
    complete: bool = True


class Capture(_Unprintable, frozen=True, gc=False):
    """One pair. Only `request.method`, `request.url` and `response.status` are required.

    `captured_at` is an RFC 3339 time with an offset.
    """

    request: CapturedRequest
    response: CapturedResponse
    id: Annotated[str, msgspec.Meta(min_length=32, max_length=36)] | None = None
    tap: TapPosition | None = None
    captured_at: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    duration_ms: float | None = None
    client_ip: Annotated[str, msgspec.Meta(max_length=64)] | None = None


# The same types, but refusing unknown fields: decoding with these first shows whether a capture has any.


class _StrictTapPosition(TapPosition, frozen=True, gc=False, forbid_unknown_fields=True):
    pass


class _StrictRequest(CapturedRequest, frozen=True, gc=False, forbid_unknown_fields=True):
    pass


class _StrictResponse(CapturedResponse, frozen=True, gc=False, forbid_unknown_fields=True):
    pass


class _StrictCapture(Capture, frozen=True, gc=False, forbid_unknown_fields=True):
    request: _StrictRequest
    response: _StrictResponse
    tap: _StrictTapPosition | None = None


_decoder = msgspec.json.Decoder(Capture)
_strict_decoder = msgspec.json.Decoder(_StrictCapture)


def body_bytes(message: CapturedRequest | CapturedResponse) -> bytes | None:
    """Return the body as it was on the wire, None if there was none.

    Raises ValueError, without the body, if `body_base64` is not base64 or both forms are present.
    """
    if message.body_base64 is None:
        return None if message.body is None else message.body.encode()
    if message.body is not None:
        raise ValueError("both body and body_base64")
    try:
        return base64.b64decode(message.body_base64, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise ValueError("body_base64 is not base64")


def decode_capture(line: bytes, *, explained: bool = True) -> Capture:
    """Return the capture in one JSON text. Unknown fields are ignored.

    Raises RefusedCapture: `malformed` if the text is not JSON in UTF-8, else `invalid`, if `explained` with the schema path
    of the first error. Finding that path takes a hundred times as long as decoding. Without it, a text that is
    not JSON is `invalid`, too, if it breaks the contract before it breaks off.
    """
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError:
        path = schema_path_of_first_error("capture", line) if explained else ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        path = None
    # Raised out here so that the decoder's error, which may hold the line, is not even its context.
    raise refusal_of(path)


def refusal_of(path: str | None) -> RefusedCapture:
    """Return the refusal of a text that breaks its contract at this schema path; None: the text is not JSON."""
    if path is None:
        return RefusedCapture(RefusalReason.MALFORMED)
    return RefusedCapture(RefusalReason.INVALID, path)


def decode_strict(line: bytes) -> Capture | None:
    """Return the capture in one JSON text; None if it is not a capture, or has unknown fields."""
    try:
        return _strict_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def split_ndjson(body: bytes) -> Iterator[bytes]:
    """Yield the lines that are not blank, without the space around them."""
    start = 0
    while start < len(body):
        # One by one: a list of all lines would be a second body in memory.
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        stripped = body[start:end].strip(b" \t\r")
        if stripped:
            yield stripped
        start = end + 1
