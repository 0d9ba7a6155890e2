"""The runs of taps as the API returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas.identity import rfc3339_ms


class CauseCount(NamedTuple):
    """The gaps of one cause, and the captures missing in them; None if a gap has no end yet."""

    cause: str
    gaps: int
    missing: int | None


class TapRun(NamedTuple):
    """One run of a tap, or a tap without sequence numbers (`epoch` and `captures` None). Times are Unix milliseconds.

    `heartbeat_ms`: its last heartbeat. `silent_ms`: for how long nothing of it has been noted, by the database's clock.
    `latest_ms`: the latest capture that it reported, by the tap's clock. `captures`: its highest sequence number.
    `holds_at_ms`: where it holds the watermark, None if it does not.
    """

    tap_id: str
    epoch: int | None
    state: str
    surplus: bool
    retired: bool
    heartbeat_ms: int | None
    silent_ms: int
    latest_ms: int
    captures: int | None
    holds_at_ms: int | None
    gaps: Sequence[CauseCount] = ()


class TapRuns(NamedTuple):
    """The first runs, and the number of all runs."""

    runs: Sequence[TapRun]
    total: int


def tap_run_json(run: TapRun) -> dict[str, Any]:
    missing = [each.missing for each in run.gaps if each.missing is not None]
    return {
        "id": run.tap_id,
        "epoch": run.epoch,
        "state": run.state,
        "surplus": run.surplus,
        "retired": run.retired,
        "last_heartbeat": _timestamp(run.heartbeat_ms),
        "lag_ms": run.silent_ms,
        "last_capture": _timestamp(run.latest_ms),
        "captures": run.captures,
        "missing": sum(missing) if len(missing) == len(run.gaps) else None,
        "gaps": [each._asdict() for each in run.gaps],
        "holds_watermark_at": _timestamp(run.holds_at_ms),
    }


def taps_info(found: TapRuns, watermark_ms: int | None) -> dict[str, Any]:
    """Return the `result_info` of a response about taps."""
    return {
        "count": len(found.runs),
        "complete": len(found.runs) == found.total,
        "runs": found.total,
        "complete_before": _timestamp(watermark_ms),
    }


def _timestamp(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339_ms(max(at_ms, 0))
