"""Intake: the bytes of one POST body → captures, and for each line that is none a reason without its content."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from schemas.capture import Capture, TapPosition, decode_capture, decode_known, split_ndjson
from schemas.errors import PermanentError, RefusalReason, RefusedCapture

_NDJSON_TYPES: Final = frozenset(
    {
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "text/plain",
    }
)
_JSON_TYPE: Final = "application/json"
_PLAIN_ENCODINGS: Final = frozenset({"", "identity"})
_GZIP_ENCODINGS: Final = frozenset({"gzip", "x-gzip"})
_COMMAS_PER_CAPTURE_MAX: Final = 100
_BLANK_LINES_PER_CAPTURE_MAX: Final = 2
_OBJECT: Final = re.compile(rb"[ \t\r\n]*\{")

_decoder = msgspec.json.Decoder(Capture)
_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True)
class IntakeLimits:
    """What one request to the collector, and all of them together, may take."""

    batch_bytes_max: int = 16 * 1024 * 1024
    """Length of a body as it arrives."""
    inflated_bytes_max: int = 32 * 1024 * 1024
    """Length of a body after gzip is undone."""
    line_bytes_max: int = 4 * 1024 * 1024
    captures_max: int = 10_000
    explanations_max: int = 100
    """How many refused lines of a batch are told where they break the contract."""
    explained_bytes_max: int = 32 * 1024
    """How many bytes of a batch are searched for it: 120 ms at the very worst."""
    requests_max: int = 64
    """Requests in flight at once; more are answered 503."""
    in_flight_bytes_max: int = 128 * 1024 * 1024
    """Bytes of bodies in memory at once; more are answered 503."""
    read_ms_max: int = 10_000
    """Time for a body to arrive."""


class Unusable(StrEnum):
    """Why a whole body cannot be used; the value is the sentence for the sender."""

    GZIP = "the body is not one whole gzip stream"
    ARRAY = "the body is neither a JSON array nor a JSON object"
    MEDIA_TYPE = "send application/x-ndjson, application/json or text/plain (NDJSON)"
    CONTENT_ENCODING = "send Content-Encoding gzip or none"
    BATCH_BYTES = "the body is longer than the limit for a batch"
    INFLATED_BYTES = "the inflated body is longer than the limit"
    CAPTURES = "the batch holds more captures than the limit"


class UnusableBatch(PermanentError):
    """No line of the body can be told from another, or the body is over a limit."""

    def __init__(self, reason: Unusable) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True, order=True)
class Refusal:
    """`index` counts from 0 the elements of the array, or the lines that are not blank."""

    index: int
    reason: RefusalReason
    path: str


@dataclass(frozen=True)
class Batch:
    """What one body held, each with its index. Shows nothing of it."""

    captures: list[tuple[int, Capture]] = field(default_factory=list, repr=False)
    refusals: list[Refusal] = field(default_factory=list, repr=False)
    refused_positions: list[TapPosition] = field(default_factory=list, repr=False)
    """Where refused lines stood in their taps' counts, as far as they tell."""
    with_unknown_fields: list[int] = field(default_factory=list)
    """The indexes of captures that hold fields which no capture has: passed over, and perhaps misspelt."""


def inflate(body: bytes, content_encoding: str, limits: IntakeLimits) -> bytes:
    """Return the body as it was before `content_encoding` (a header value; empty where there is none).

    Never holds more than `inflated_bytes_max` of it. Raises UnusableBatch.
    """
    encoding = content_encoding.strip().lower()
    if encoding in _PLAIN_ENCODINGS:
        return body
    if encoding not in _GZIP_ENCODINGS:
        raise UnusableBatch(Unusable.CONTENT_ENCODING)
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        inflated = inflater.decompress(body, limits.inflated_bytes_max + 1)
    except zlib.error:
        raise UnusableBatch(Unusable.GZIP) from None
    if len(inflated) > limits.inflated_bytes_max:
        raise UnusableBatch(Unusable.INFLATED_BYTES)
    if not inflater.eof or inflater.unused_data:
        raise UnusableBatch(Unusable.GZIP)
    return inflated


def read_batch(body: bytes, content_type: str, limits: IntakeLimits) -> Batch:
    """Return what an inflated body holds, decided by `content_type` (a header value).

    A line or element that is no capture is refused alone. Raises UnusableBatch.
    """
    return _Reader(limits).read(texts_of(body, content_type, limits))


def texts_of(body: bytes, content_type: str, limits: IntakeLimits) -> Iterable[bytes]:
    """Return the JSON texts that an inflated body holds, decided by `content_type`. Raises UnusableBatch."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _NDJSON_TYPES:
        return _lines(body, limits)
    if media_type == _JSON_TYPE:
        return _elements(body, limits)
    raise UnusableBatch(Unusable.MEDIA_TYPE)


def _lines(body: bytes, limits: IntakeLimits) -> Iterable[bytes]:
    # Counted first: a body of line ends alone would otherwise become a list eight times its size.
    if body.count(b"\n") > limits.captures_max * (1 + _BLANK_LINES_PER_CAPTURE_MAX):
        raise UnusableBatch(Unusable.CAPTURES)
    return split_ndjson(body)


def _elements(body: bytes, limits: IntakeLimits) -> Iterable[bytes]:
    """Return the texts of an array's elements, or the body itself where it is an object."""
    if _OBJECT.match(body):
        return [body]
    # Each element costs 66 bytes while it is told apart, and `[0,0,…` has one for every two bytes; counting
    # commas first bounds that, and no batch of real captures has so many.
    if body.count(b",") > limits.captures_max * _COMMAS_PER_CAPTURE_MAX:
        raise UnusableBatch(Unusable.CAPTURES)
    try:
        elements = _array_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        elements = None
    if elements is None:
        raise UnusableBatch(Unusable.ARRAY)
    return (bytes(element) for element in elements)


class _Reader:
    """Decodes the lines of one batch; explaining what is refused has a budget for the whole of it."""

    def __init__(self, limits: IntakeLimits) -> None:
        self._limits = limits
        self._explanations_left = limits.explanations_max
        self._explained_bytes_left = limits.explained_bytes_max

    def read(self, lines: Iterable[bytes]) -> Batch:
        batch = Batch()
        for index, line in enumerate(lines):
            if index == self._limits.captures_max:
                raise UnusableBatch(Unusable.CAPTURES)
            try:
                batch.captures.append((index, self._decode(batch, index, line)))
            except RefusedCapture as refused:
                batch.refusals.append(Refusal(index, refused.reason, refused.path))
                batch.refused_positions.extend(_position(line, self._limits.line_bytes_max))
        return batch

    def _decode(self, batch: Batch, index: int, line: bytes) -> Capture:
        """Return the capture; raises RefusedCapture, with a path while the budget lasts."""
        if len(line) > self._limits.line_bytes_max:
            raise RefusedCapture(RefusalReason.TOO_LARGE)
        capture = decode_known(line)
        if capture is None:
            capture = self._explained(line)
            batch.with_unknown_fields.append(index)
        return capture

    def _explained(self, line: bytes) -> Capture:
        if self._explanations_left > 0 and len(line) <= self._explained_bytes_left:
            try:
                return decode_capture(line)
            except RefusedCapture:
                self._explanations_left -= 1
                self._explained_bytes_left -= len(line)
                raise
        return _decode_unexplained(line)


class _Numbered(msgspec.Struct, frozen=True):
    tap: TapPosition


_numbered_decoder = msgspec.json.Decoder(_Numbered)


def _position(line: bytes, bytes_max: int) -> list[TapPosition]:
    """Return where a line that is no capture stands in its tap's count, if it is short enough to look and tells."""
    if len(line) > bytes_max:
        return []
    try:
        tap = _numbered_decoder.decode(line).tap
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return [] if tap.epoch is None or tap.seq is None else [tap]


def _decode_unexplained(line: bytes) -> Capture:
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError:
        reason = RefusalReason.INVALID
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        reason = RefusalReason.MALFORMED
    # Raised out here so that the decoder's error, which may hold the line, is not even its context.
    raise RefusedCapture(reason)
