"""Gaps and the completeness watermark as the API returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas.identity import rfc3339_ms


class Gap(NamedTuple):
    """A range of a tap's sequence numbers, or of a log partition's offsets, that is missing. Times are Unix milliseconds.

    `first` and `last` are the ends of the range and `size` is its length; `last` and `size` are None if the end is unknown.
    `from_ms` is 0 if the start of the time span is unknown, `to_ms` is None if its end is.
    """

    tap_id: str | None
    epoch: int | None
    log: str | None
    partition: int | None
    first: int
    last: int | None
    size: int | None
    from_ms: int
    to_ms: int | None
    cause: str


class Gaps(NamedTuple):
    """The first gaps of a time range, the number of all gaps in it, and the number of captures missing in all of them."""

    gaps: Sequence[Gap]
    total: int
    missing: int


class TapCounts(NamedTuple):
    """How many tap epochs have a valid lease, how many are gone, and how many taps send no sequence numbers.

    Gone, here `expired`, are those whose lease expired, and those that a later run reported as killed or lost.

    Of the epochs, how many the watermark leaves out because their tap has too many (surplus) or was retired.
    """

    alive: int
    expired: int
    unnumbered: int
    surplus: int
    retired: int


def gap_json(gap: Gap) -> dict[str, Any]:
    return {
        "cause": gap.cause,
        "tap": None if gap.tap_id is None else {"id": gap.tap_id, "epoch": gap.epoch},
        "log": None if gap.log is None else {"name": gap.log, "partition": gap.partition},
        "first": gap.first,
        "last": gap.last,
        "count": gap.size,
        "from": _timestamp(gap.from_ms or None),
        "to": _timestamp(gap.to_ms),
    }


def completeness_info(found: Gaps, taps: TapCounts, watermark_ms: int | None) -> dict[str, Any]:
    """Return the `result_info` of a response about gaps."""
    return {
        "count": len(found.gaps),
        "complete": len(found.gaps) == found.total,
        "gaps": found.total,
        "missing": found.missing,
        "complete_before": _timestamp(watermark_ms),
        "taps": taps._asdict(),
    }


def _timestamp(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339_ms(at_ms)
