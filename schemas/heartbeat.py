"""Heartbeat: what a numbering tap says of itself, and TapReport, in which that and a collector's own count travel on
the log. Heartbeat mirrors `heartbeat.schema.json`, TapReport `tap_report.schema.json`; tests hold them to agree.

Numbers count from 1 within an epoch (one start of a tap). Times are Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from schemas.errors import BuriedEvent, DeadLetterReason, RefusalReason, RefusedCapture
from schemas.explain import schema_path_of_first_error

NUMBER_MAX: Final = (1 << 53) - 1
"""No tap counts further; what claims to is stored, and not counted."""
REPORT_PREFIX: Final = b'{"report":'
"""How the value of every report on the log begins, and no event's."""
COUNT_RANGES_MAX: Final = 10_000
"""As many one report of a collector takes."""
_EPOCH_MAX: Final = (1 << 63) - 1
_MS_MAX: Final = (1 << 48) - 1

_Number = Annotated[int, msgspec.Meta(ge=1, le=NUMBER_MAX)]
_Ms = Annotated[int, msgspec.Meta(ge=0, le=_MS_MAX)]


class TapState(StrEnum):
    """What became of an epoch."""

    ALIVE = "alive"
    ENDED = "ended"
    """Cleanly: the highest number is the last."""
    KILLED = "killed"
    """Cut off; the highest number is the last."""
    LOST = "lost"
    """Cut off with its machine: there may be higher numbers."""


class TapEpoch(msgspec.Struct, frozen=True):
    """One start of a tap."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}$(?![\s\S])")]
    epoch: Annotated[int, msgspec.Meta(ge=0, le=_EPOCH_MAX)]


class DroppedRange(msgspec.Struct, frozen=True):
    """Numbers from `first` to `last` whose captures were given up, of requests between two times, all included."""

    first: _Number
    last: _Number
    cause: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$(?![\s\S])")]
    from_ms: _Ms
    to_ms: _Ms


class Heartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """All numbers below `pending_from` were acknowledged by a collector or dropped; no capture with that or a higher
    number is earlier than `pending_since_ms`. `beat` orders an epoch's heartbeats; a later start speaks for one that
    was cut off with 0.
    """

    tap: TapEpoch
    beat: Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
    at_ms: _Ms
    started_ms: _Ms
    highest: Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
    pending_from: Annotated[int, msgspec.Meta(ge=1, le=NUMBER_MAX + 1)]
    pending_since_ms: _Ms
    lease_ms: Annotated[int, msgspec.Meta(ge=100, le=86_400_000)]
    state: TapState = TapState.ALIVE
    dropped: Annotated[tuple[DroppedRange, ...], msgspec.Meta(max_length=1000)] = ()


class CollectorCount(msgspec.Struct, frozen=True, omit_defaults=True):
    """Numbers that a collector saw and that become no record: `excluded` by configuration (first and last of each
    range), or `dropped`.
    """

    tap: TapEpoch
    excluded: Annotated[tuple[tuple[_Number, _Number], ...], msgspec.Meta(max_length=COUNT_RANGES_MAX)] = ()
    dropped: Annotated[tuple[DroppedRange, ...], msgspec.Meta(max_length=COUNT_RANGES_MAX)] = ()


class TapReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One log record that is no event: a tap's heartbeat, a collector's count, or, with neither, the word of a
    collector that it is there.
    """

    report: int
    heartbeat: Heartbeat | None = None
    count: CollectorCount | None = None


REPORT_VERSION: Final = 1
_heartbeat_decoder = msgspec.json.Decoder(Heartbeat)
_report_decoder = msgspec.json.Decoder(TapReport)
_encoder = msgspec.json.Encoder()


def decode_heartbeat(line: bytes) -> Heartbeat:
    """Return the heartbeat that one JSON text holds.

    Raises RefusedCapture as `decode_capture` does; `invalid` too where ranges or numbers contradict one another.
    """
    try:
        heartbeat = _heartbeat_decoder.decode(line)
    except msgspec.ValidationError:
        reason = RefusalReason.INVALID
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        reason = RefusalReason.MALFORMED
    else:
        if _consistent(heartbeat):
            return heartbeat
        raise RefusedCapture(RefusalReason.INVALID, "numbers: order")
    path = schema_path_of_first_error("heartbeat", line) if reason is RefusalReason.INVALID else ""
    raise RefusedCapture(reason, path)


def encode_report(report: TapReport) -> bytes:
    """Return the report's JSON text, which begins with REPORT_PREFIX."""
    return _encoder.encode(report)


def decode_report(value: bytes) -> TapReport:
    """Return the report that a log record's value holds. Raises BuriedEvent (`malformed`)."""
    try:
        report = _report_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        report = None
    if report is None or not _sound(report):
        raise BuriedEvent(DeadLetterReason.MALFORMED, "report")
    return report


def ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield rising numbers, repeated or not, as the first and last of each run without a hole."""
    first = last = None
    for number in numbers:
        if last is not None and number <= last + 1:
            last = max(last, number)
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last


def _sound(report: TapReport) -> bool:
    count = report.count
    return (report.heartbeat is None or _consistent(report.heartbeat)) and (
        count is None or (_in_order(count.dropped) and all(first <= last for first, last in count.excluded))
    )


def _consistent(heartbeat: Heartbeat) -> bool:
    return (
        heartbeat.pending_from <= heartbeat.highest + 1
        and all(each.last <= heartbeat.highest for each in heartbeat.dropped)
        and _in_order(heartbeat.dropped)
    )


def _in_order(dropped: Iterable[DroppedRange]) -> bool:
    return all(each.first <= each.last for each in dropped)
