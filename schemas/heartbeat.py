"""Heartbeat: what a tap reports about its sequence numbers. TapReport: the log record in which a heartbeat, or what a
collector knows about sequence numbers, reaches the ingestor.

Heartbeat mirrors `heartbeat.schema.json`, TapReport mirrors `tap_report.schema.json`; tests keep them in agreement.

Sequence numbers count from 1 within an epoch, which is one run of a tap. Times are Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from schemas.capture import refusal_of
from schemas.contracts import schema_path_of_first_error
from schemas.errors import DeadLetterReason, UnprocessableEvent

# Beyond it, a JSON reader whose numbers are floats would confuse neighbours.
SEQ_MAX: Final = (1 << 53) - 1
"""The highest sequence number. A capture with a higher one is stored, but no gap is derived from it."""
REPORT_PREFIX: Final = b'{"report":'
"""The first bytes of every report on the log. No event begins with them, so readers can distinguish the two."""
UNRECORDED_RANGES_MAX: Final = 10_000
"""Ranges in one report of a collector."""
_EPOCH_MAX: Final = (1 << 63) - 1
_MS_MAX: Final = (1 << 48) - 1

_Seq = Annotated[int, msgspec.Meta(ge=1, le=SEQ_MAX)]
_Ms = Annotated[int, msgspec.Meta(ge=0, le=_MS_MAX)]


class TapState(StrEnum):
    """The state of a run."""

    ALIVE = "alive"
    ENDED = "ended"
    """Ended properly: the highest number is the last."""
    KILLED = "killed"
    """Crashed; the highest number is the last."""
    LOST = "lost"
    """Crashed together with its machine: there may be higher numbers than the highest known."""


class TapEpoch(msgspec.Struct, frozen=True):
    """One run of a tap."""

    # In Python, `$` alone also matches before a trailing line end.
    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}$(?![\s\S])")]
    epoch: Annotated[int, msgspec.Meta(ge=0, le=_EPOCH_MAX)]


class DroppedRange(msgspec.Struct, frozen=True):
    """Sequence numbers of dropped captures, and the times of their first and last request; all bounds are inclusive."""

    first: _Seq
    last: _Seq
    cause: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$(?![\s\S])")]
    from_ms: _Ms
    to_ms: _Ms


class Heartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run of a tap reports about itself; each statement stays true, so order and repetition do not matter.

    - `highest`: the highest sequence number assigned.
    - `pending_from`: a collector has acknowledged all lower numbers, or the tap has dropped them.
    - `pending_since_ms`: no capture with that number or a higher one is of an earlier time.
    - `dropped`: numbers whose captures were dropped. May be repeated.
    - `lease_ms`: the tap counts as gone after so long without a heartbeat.
    - `beat` numbers the heartbeats of an epoch from 1. It is 0 where a later run reports a crashed one.
    """

    tap: TapEpoch
    beat: Annotated[int, msgspec.Meta(ge=0, le=SEQ_MAX)]
    at_ms: _Ms
    started_ms: _Ms
    highest: Annotated[int, msgspec.Meta(ge=0, le=SEQ_MAX)]
    pending_from: Annotated[int, msgspec.Meta(ge=1, le=SEQ_MAX + 1)]
    pending_since_ms: _Ms
    lease_ms: Annotated[int, msgspec.Meta(ge=100, le=86_400_000)]
    state: TapState = TapState.ALIVE
    dropped: Annotated[tuple[DroppedRange, ...], msgspec.Meta(max_length=1000)] = ()


class UnrecordedNumbers(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sequence numbers of captures that reached a collector and become no record, so that they are not gaps.

    `excluded`: their operation is excluded by configuration; first and last of each range. `dropped`: they were refused.
    """

    tap: TapEpoch
    excluded: Annotated[tuple[tuple[_Seq, _Seq], ...], msgspec.Meta(max_length=UNRECORDED_RANGES_MAX)] = ()
    dropped: Annotated[tuple[DroppedRange, ...], msgspec.Meta(max_length=UNRECORDED_RANGES_MAX)] = ()


class TapReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """A log record that is not an event. Its JSON is internal to auditap.

    It holds a tap's heartbeat, or a collector's `count`. One with neither is the collector's own heartbeat: it moves the
    log's time on, by which leases run out. `collector` is the random id of the collector's run; older ones do not report it.
    """

    # First: msgspec writes fields in this order, and every report begins with REPORT_PREFIX.
    report: int
    heartbeat: Heartbeat | None = None
    count: UnrecordedNumbers | None = None
    collector: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?![\s\S])")] | None = None


REPORT_VERSION: Final = 1
_heartbeat_decoder = msgspec.json.Decoder(Heartbeat)
_report_decoder = msgspec.json.Decoder(TapReport)
_encoder = msgspec.json.Encoder()


def decode_heartbeat(line: bytes) -> Heartbeat:
    """Return the heartbeat that one JSON text holds.

    Raises RefusedCapture as `decode_capture` does, and `invalid` if ranges or numbers contradict one another.
    """
    try:
        heartbeat = _heartbeat_decoder.decode(line)
    except msgspec.ValidationError:
        path = schema_path_of_first_error("heartbeat", line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        path = None
    else:
        if _is_consistent(heartbeat):
            return heartbeat
        path = "$: order"
    raise refusal_of(path)


def encode_report(report: TapReport) -> bytes:
    """Return the report's JSON text. It begins with REPORT_PREFIX."""
    return _encoder.encode(report)


def decode_report(value: bytes) -> TapReport:
    """Return the report in a log record's value. Raises UnprocessableEvent (`malformed`)."""
    try:
        report = _report_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        report = None
    if report is None or not _is_consistent_report(report):
        raise UnprocessableEvent(DeadLetterReason.MALFORMED, "report")
    return report


def contiguous_ranges(seqs: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of each run of consecutive numbers. `seqs` must rise; repeated numbers are fine."""
    rising = iter(seqs)
    first = last = next(rising, None)
    if first is None or last is None:
        return
    for seq in rising:
        if seq > last + 1:
            yield first, last
            first = seq
        last = max(last, seq)
    yield first, last


def _is_consistent_report(report: TapReport) -> bool:
    if report.heartbeat is not None and not _is_consistent(report.heartbeat):
        return False
    count = report.count
    if count is None:
        return True
    return _is_ordered(count.dropped) and all(first <= last for first, last in count.excluded)


def _is_consistent(heartbeat: Heartbeat) -> bool:
    return (
        heartbeat.pending_from <= heartbeat.highest + 1
        and all(each.last <= heartbeat.highest for each in heartbeat.dropped)
        and _is_ordered(heartbeat.dropped)
    )


def _is_ordered(dropped: Iterable[DroppedRange]) -> bool:
    return all(each.first <= each.last for each in dropped)
