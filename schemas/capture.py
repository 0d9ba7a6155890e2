"""Capture: one request/response pair as taps send it. Mirrors `capture.schema.json`; tests hold the two to agree.

A capture is unredacted. It lives in the memory of tap and collector only: these types have no repr of their
contents, and nothing here puts a value into an error.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from schemas.errors import RefusalReason, RefusedCapture
from schemas.explain import schema_path_of_first_error

Headers = dict[str, str | list[str]]
_EPOCH_MAX = (1 << 63) - 1


class _Unprintable(msgspec.Struct, frozen=True, gc=False):
    """A struct whose repr shows nothing, so that no traceback or log line can.

    The collector of garbage passes these over: they hold texts and numbers, and never refer back.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show nothing to rich either."""
        return []


class TapPosition(_Unprintable, frozen=True, gc=False):
    """Which tap captured the pair, and where in its count. `seq` counts within one `epoch` (a start of the tap)."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}$(?![\s\S])")]
    epoch: Annotated[int, msgspec.Meta(ge=0, le=_EPOCH_MAX)] | None = None
    seq: Annotated[int, msgspec.Meta(ge=0, le=_EPOCH_MAX)] | None = None


class CapturedRequest(_Unprintable, frozen=True, gc=False):
    """The request. `body` is text, or `body_base64` stands in its place; `url` is absolute or a path with query."""

    method: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=65_536)]
    headers: Headers = {}
    body: str | None = None
    body_base64: str | None = None
    truncated: bool = False


class CapturedResponse(_Unprintable, frozen=True, gc=False):
    """The response. `complete` says whether it ended as it should; `truncated` whether the tap cut its body."""

    status: Annotated[int, msgspec.Meta(ge=100, le=999)]
    headers: Headers = {}
    body: str | None = None
    body_base64: str | None = None
    truncated: bool = False
    complete: bool = True


class Capture(_Unprintable, frozen=True, gc=False):
    """One pair. Only `request.method`, `request.url` and `response.status` are required."""

    request: CapturedRequest
    response: CapturedResponse
    id: Annotated[str, msgspec.Meta(min_length=32, max_length=36)] | None = None
    tap: TapPosition | None = None
    captured_at: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    duration_ms: float | None = None
    client_ip: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class _KnownTapPosition(TapPosition, frozen=True, gc=False, forbid_unknown_fields=True):
    """One that holds no field of another name."""


class _KnownRequest(CapturedRequest, frozen=True, gc=False, forbid_unknown_fields=True):
    """One that holds no field of another name."""


class _KnownResponse(CapturedResponse, frozen=True, gc=False, forbid_unknown_fields=True):
    """One that holds no field of another name."""


class _KnownCapture(Capture, frozen=True, gc=False, forbid_unknown_fields=True):
    """One that holds no field of another name."""

    request: _KnownRequest
    response: _KnownResponse
    tap: _KnownTapPosition | None = None


_decoder = msgspec.json.Decoder(Capture)
_known_decoder = msgspec.json.Decoder(_KnownCapture)


def body_bytes(message: CapturedRequest | CapturedResponse) -> bytes | None:
    """Return the body as it went over the wire, or None where there was none.

    Raises ValueError (without the body) where `body_base64` is not base64 or both forms are given.
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


def decode_capture(line: bytes) -> Capture:
    """Return the capture that one JSON text holds.

    Raises RefusedCapture: `malformed` where it is not JSON in UTF-8, `invalid` with the path of the first
    declared field that does not fit.
    """
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError:
        reason = RefusalReason.INVALID
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        reason = RefusalReason.MALFORMED
    # Raised out here so that the decoder's error, which may hold the line, is not even its context.
    path = schema_path_of_first_error("capture", line) if reason is RefusalReason.INVALID else ""
    raise RefusedCapture(reason, path)


def decode_known(line: bytes) -> Capture | None:
    """Return the capture that one JSON text holds, or None where it is none or holds fields that no capture has."""
    try:
        return _known_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def split_ndjson(body: bytes) -> Iterator[bytes]:
    """Yield the lines of NDJSON that are not blank, without their line ends."""
    for line in body.split(b"\n"):
        stripped = line.strip(b" \t\r")
        if stripped:
            yield stripped
