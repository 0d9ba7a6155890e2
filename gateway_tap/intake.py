"""Intake: JSON texts into captures. This is where a capture is first decoded.

A text that is not a capture is refused alone, with a reason that holds nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway_tap.body import Refusal, RejectedBody, Rejection, split_texts
from gateway_tap.limits import CAPTURES_MAX, IntakeLimits
from schemas.capture import Capture, TapPosition, decode_capture, decode_strict
from schemas.errors import RefusalReason, RefusedCapture

EXPLANATIONS_MAX: Final = 100
"""For how many refused captures of a batch the schema path is searched. Validating is a hundred times slower than decoding."""
EXPLAINED_BYTES_MAX: Final = 32 * 1024
"""In how many bytes of a batch it is searched: 120 ms at the very worst, during which the event loop stands still."""


@dataclass(frozen=True)
class CaptureBatch:
    """What one body holds, each item with the index of its text. The repr shows nothing of it."""

    captures: list[tuple[int, Capture]] = field(default_factory=list, repr=False)
    refusals: list[Refusal] = field(default_factory=list, repr=False)
    refused_positions: list[TapPosition] = field(default_factory=list, repr=False)
    """Taps and sequence numbers of refused captures, if they can be read: these numbers are accounted for."""
    with_unknown_fields: list[int] = field(default_factory=list)
    """Indexes of captures with unknown fields. These fields are ignored; perhaps they are misspelt."""


def read_batch(
    body: bytes,
    content_type: str,
    limits: IntakeLimits,
    *,
    captures_max: int = CAPTURES_MAX,
    explanations_max: int = EXPLANATIONS_MAX,
    explained_bytes_max: int = EXPLAINED_BYTES_MAX,
) -> CaptureBatch:
    """Return the captures in an inflated body of this `content_type` (a header value). Raises RejectedBody."""
    batch = CaptureBatch()
    for _ in read_into(
        batch,
        body,
        content_type,
        limits,
        captures_max=captures_max,
        explanations_max=explanations_max,
        explained_bytes_max=explained_bytes_max,
    ):
        pass
    return batch


def read_into(
    batch: CaptureBatch,
    body: bytes,
    content_type: str,
    limits: IntakeLimits,
    *,
    captures_max: int = CAPTURES_MAX,
    explanations_max: int = EXPLANATIONS_MAX,
    explained_bytes_max: int = EXPLAINED_BYTES_MAX,
) -> Iterator[None]:
    """Read the body as `read_batch` does, into `batch`, and yield before each capture."""
    texts = split_texts(body, content_type, captures_max)
    decoder = _ExplainingDecoder(limits.line_bytes_max, explanations_max, explained_bytes_max)
    for index, text in enumerate(texts):
        if index == captures_max:
            raise RejectedBody(Rejection.CAPTURES)
        yield
        try:
            capture, has_unknown_fields = decoder.decode(text)
        except RefusedCapture as refused:
            batch.refusals.append(Refusal(index, refused.reason, refused.path))
            batch.refused_positions.extend(_position(text, limits.line_bytes_max))
            continue
        batch.captures.append((index, capture))
        if has_unknown_fields:
            batch.with_unknown_fields.append(index)


class _ExplainingDecoder:
    """Decodes captures, and finds the schema path of what it refuses while the budget of the batch lasts."""

    def __init__(self, line_bytes_max: int, explanations_max: int, explained_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._explanations_left = explanations_max
        self._explained_bytes_left = explained_bytes_max

    def decode(self, text: bytes) -> tuple[Capture, bool]:
        """Return the capture, and whether it has unknown fields. Raises RefusedCapture."""
        if len(text) > self._line_bytes_max:
            raise RefusedCapture(RefusalReason.TOO_LARGE)
        # Strict first: nearly all captures fit, and one decoding is enough for them.
        capture = decode_strict(text)
        if capture is not None:
            return capture, False
        return self._decode_with_unknown_fields(text), True

    def _decode_with_unknown_fields(self, text: bytes) -> Capture:
        if self._explanations_left <= 0 or len(text) > self._explained_bytes_left:
            return decode_capture(text, explained=False)
        try:
            return decode_capture(text)
        except RefusedCapture:
            self._explanations_left -= 1
            self._explained_bytes_left -= len(text)
            raise


class _Positioned(msgspec.Struct, frozen=True):
    tap: TapPosition


_position_decoder = msgspec.json.Decoder(_Positioned)


def _position(text: bytes, bytes_max: int) -> list[TapPosition]:
    """Return the tap, epoch and sequence number of a refused capture; nothing if it has none or is too long to look."""
    if len(text) > bytes_max:
        return []
    try:
        tap = _position_decoder.decode(text).tap
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return [] if tap.epoch is None or tap.seq is None else [tap]
