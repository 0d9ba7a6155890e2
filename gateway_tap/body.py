"""The body of a POST request: inflated, then split into the JSON texts that it holds. Nothing of them is decoded here."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from schemas.capture import split_ndjson
from schemas.errors import PermanentError, RefusalReason

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
_IDENTITY_ENCODINGS: Final = frozenset({"", "identity"})
_GZIP_ENCODINGS: Final = frozenset({"gzip", "x-gzip"})
_COMMAS_PER_TEXT_MAX: Final = 100
_BLANK_LINES_PER_TEXT_MAX: Final = 2
# Possessive: giving spaces back, one by one, would take a tenth of a second where a body is nothing else.
_OBJECT: Final = re.compile(rb"[ \t\r\n]*+\{")

_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class Rejection(StrEnum):
    """Why a whole body is rejected; the value is the sentence for the sender."""

    GZIP = "the body is not one whole gzip stream"
    ARRAY = "the body is neither a JSON array nor a JSON object"
    MEDIA_TYPE = "send application/x-ndjson, application/json or text/plain (NDJSON)"
    CONTENT_ENCODING = "send Content-Encoding gzip or none"
    BATCH_BYTES = "the body is longer than the limit for a batch"
    INFLATED_BYTES = "the inflated body is longer than the limit"
    CAPTURES = "the batch holds more captures than the limit"


class RejectedBody(PermanentError):
    """The body cannot be split into texts, or is over a limit, so none of its captures can be accepted."""

    def __init__(self, reason: Rejection) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True, order=True)
class Refusal:
    """One text that is refused, while others of the same body are accepted.

    `index` counts from 0 the elements of the array, or the lines that are not blank. `path` is a schema path.
    """

    index: int
    reason: RefusalReason
    path: str


def inflate(body: bytes, content_encoding: str, inflated_bytes_max: int) -> bytes:
    """Return the body as it was before `content_encoding` (a header value; empty if there is none).

    Never holds more than `inflated_bytes_max` of it. Raises RejectedBody.
    """
    encoding = content_encoding.strip().lower()
    if encoding in _IDENTITY_ENCODINGS:
        return body
    if encoding not in _GZIP_ENCODINGS:
        raise RejectedBody(Rejection.CONTENT_ENCODING)
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        # One byte more than is allowed shows that there is more, without inflating it.
        inflated = inflater.decompress(body, inflated_bytes_max + 1)
    except zlib.error:
        raise RejectedBody(Rejection.GZIP) from None
    if len(inflated) > inflated_bytes_max:
        raise RejectedBody(Rejection.INFLATED_BYTES)
    # What a cut stream has lost must not pass for a shorter batch.
    if not inflater.eof or inflater.unused_data:
        raise RejectedBody(Rejection.GZIP)
    return inflated


def split_texts(body: bytes, content_type: str, texts_max: int) -> Iterable[bytes]:
    """Return the JSON texts in an inflated body: its lines, or the elements of its array, as `content_type` says.

    Memory is bounded by `texts_max`, but more lines than that may be returned. Raises RejectedBody.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _NDJSON_TYPES:
        return _lines(body, texts_max)
    if media_type == _JSON_TYPE:
        return _elements(body, texts_max)
    raise RejectedBody(Rejection.MEDIA_TYPE)


def is_object(body: bytes) -> bool:
    """Whether the first text of a body is an object, and not an array of them."""
    return _OBJECT.match(body) is not None


def _lines(body: bytes, texts_max: int) -> Iterable[bytes]:
    # Counted first: a body of line ends alone would otherwise become a list eight times its size.
    if body.count(b"\n") > texts_max * (1 + _BLANK_LINES_PER_TEXT_MAX):
        raise RejectedBody(Rejection.CAPTURES)
    return split_ndjson(body)


def _elements(body: bytes, texts_max: int) -> Iterable[bytes]:
    """Return the texts of an array's elements, or the body itself if it is an object."""
    if is_object(body):
        return [body]
    # An element takes 66 bytes while the array is split, and `[0,0,…` has one for every two bytes. Counting commas
    # first bounds that; no batch of real captures has so many.
    if body.count(b",") > texts_max * _COMMAS_PER_TEXT_MAX:
        raise RejectedBody(Rejection.CAPTURES)
    try:
        elements = _array_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        elements = None
    if elements is None:
        # Raised out here so that the decoder's error, which may hold the body, is not even its context.
        raise RejectedBody(Rejection.ARRAY)
    # Before the first is returned: the others would stay in memory while it is handled.
    if len(elements) > texts_max:
        raise RejectedBody(Rejection.CAPTURES)
    return (bytes(element) for element in elements)
