"""Intake: the body of a request into captures. This is where a capture is first decoded, by the format of its route.

A text that is not a capture is refused alone, with a reason that holds nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway_tap.body import Refusal, RejectedBody, Rejection
from gateway_tap.formats.own import OWN
from gateway_tap.formats.port import GatewayFormat
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

    def name_tap(self, tap_id: str | None) -> None:
        """Let the captures be of this tap: gateways cannot say which one they are. None leaves them without one."""
        if tap_id is not None:
            tap = TapPosition(tap_id)
            self.captures[:] = [(index, replace(capture, tap=tap)) for index, capture in self.captures]


def read_batch(
    body: bytes,
    content_type: str,
    limits: IntakeLimits,
    *,
    gateway_format: GatewayFormat = OWN,
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
        gateway_format=gateway_format,
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
    gateway_format: GatewayFormat = OWN,
    captures_max: int = CAPTURES_MAX,
    explanations_max: int = EXPLANATIONS_MAX,
    explained_bytes_max: int = EXPLAINED_BYTES_MAX,
) -> Iterator[None]:
    """Read the body as `read_batch` does, into `batch`, and yield before each capture."""
    texts = gateway_format.split(body, content_type, captures_max)
    decode = _decoder(gateway_format, explanations_max, explained_bytes_max)
    line_bytes_max = limits.line_bytes_max
    for index, text in enumerate(texts):
        if index == captures_max:
            raise RejectedBody(Rejection.CAPTURES)
        yield
        if len(text) > line_bytes_max:
            batch.refusals.append(Refusal(index, RefusalReason.TOO_LARGE, ""))
            continue
        try:
            capture, has_unknown_fields = decode(text)
        except RefusedCapture as refused:
            batch.refusals.append(Refusal(index, refused.reason, refused.path))
            if gateway_format is OWN:
                batch.refused_positions.extend(_position(text))
            continue
        batch.captures.append((index, capture))
        if has_unknown_fields:
            batch.with_unknown_fields.append(index)


def _decoder(
    gateway_format: GatewayFormat, explanations_max: int, explained_bytes_max: int
) -> Callable[[bytes], tuple[Capture, bool]]:
    """Return what decodes the texts of one batch: to the capture, and whether it has fields that may be misspelt."""
    # Gateways send far more fields than a capture has, and what is wrong with their texts is known without a search.
    if gateway_format is OWN:
        return _ExplainingDecoder(explanations_max, explained_bytes_max).decode
    return lambda text: (gateway_format.decode(text), False)


class _ExplainingDecoder:
    """Decodes captures in auditap's own format, and finds the schema path of what it refuses while the budget of the batch lasts."""

    def __init__(self, explanations_max: int, explained_bytes_max: int) -> None:
        self._explanations_left = explanations_max
        self._explained_bytes_left = explained_bytes_max

    def decode(self, text: bytes) -> tuple[Capture, bool]:
        """Return the capture, and whether it has unknown fields. Raises RefusedCapture."""
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


def _position(text: bytes) -> list[TapPosition]:
    """Return the tap, epoch and sequence number of a refused capture; nothing if it has none."""
    try:
        tap = _position_decoder.decode(text).tap
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return [] if tap.epoch is None or tap.seq is None else [tap]
