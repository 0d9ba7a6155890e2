"""The count: what was accepted against what is stored, and what was buried."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import msgspec

from tests.faults.load import Load
from tests.faults.system import System

_STORED = """
SELECT tap_seq, count(*), bool_or(resource_id IS DISTINCT FROM lpad(to_hex(tap_seq), 32, '0')) AS mixed
FROM auditap.audit_records WHERE tap_id = $1 GROUP BY tap_seq
"""
_NOTED = "SELECT lower(run) AS first, upper(run) AS until FROM auditap.tap_epochs, unnest(seen) AS run WHERE tap_id = $1"
_REPORTED = "SELECT coalesce(sum(count), 0) FROM auditap.completeness_gaps WHERE tap_id = $1"
_BURIED = "SELECT event, reason FROM auditap.dead_letters WHERE position($1::bytea IN event) > 0 AND state <> 'stored'"


@dataclass(frozen=True)
class Count:
    """What became of one load. Every number counts captures, each once, but `records`, which counts rows."""

    offered: int
    accepted: int
    records: int
    dead_letters: int
    duplicates: int
    """Stored more than once, or both stored and buried."""
    lost: int
    """Accepted, and neither stored nor buried."""
    strangers: int
    """Stored, and never offered; or with another capture's resource."""
    unanswered: int
    """Stored or buried, although the sender went away before it heard so."""
    gaps: int
    """Accepted, and missing by the log's own account of what taps numbered."""
    reported: int
    """Missing by what the log tells its users."""
    reasons: Counter[str]
    """Of the dead letters."""

    @property
    def balanced(self) -> bool:
        return self.accepted + self.unanswered == self.records + self.dead_letters and not (
            self.duplicates or self.lost or self.strangers or self.gaps or self.reported
        )

    def __str__(self) -> str:
        kept = f"accepted {self.accepted} = records {self.records} + dead letters {self.dead_letters}"
        more = f" - unanswered {self.unanswered}" if self.unanswered else ""
        wrong = f"duplicates {self.duplicates}, lost {self.lost}, strangers {self.strangers}, gaps {max(self.gaps, self.reported)}"
        return f"{kept}{more}, {wrong}"


class _Tap(msgspec.Struct):
    id: str | None = None
    seq: int | None = None


class _Event(msgspec.Struct):
    tap: _Tap


_event_decoder = msgspec.json.Decoder(_Event)


async def count(system: System, load: Load) -> Count:
    """Count what is there now."""
    rows = await system.pipeline.fetch(_STORED, load.tap)
    stored = {row["tap_seq"]: row["count"] for row in rows}
    buried: dict[int, str] = {}
    for row in await system.pipeline.fetch(_BURIED, load.tap.encode()):
        tap = _event_decoder.decode(row["event"]).tap
        if tap.id == load.tap and tap.seq is not None:
            buried[tap.seq] = row["reason"]
    noted: set[int] = set()
    for row in await system.pipeline.fetch(_NOTED, load.tap):
        noted.update(range(row["first"], row["until"]))
    kept = stored.keys() | buried.keys()
    return Count(
        offered=load.offered,
        accepted=len(load.accepted),
        records=sum(stored.values()),
        dead_letters=len(buried),
        duplicates=sum(times > 1 for times in stored.values()) + len(stored.keys() & buried.keys()),
        lost=len(load.accepted - kept),
        strangers=sum(row["mixed"] for row in rows) + sum(not 0 < number <= load.offered for number in kept),
        reported=int((await system.pipeline.fetch(_REPORTED, load.tap))[0][0]),
        gaps=len(load.accepted - noted),
        unanswered=len(kept - load.accepted),
        reasons=Counter(buried.values()),
    )


async def settled(system: System, load: Load, within_s: float = 60) -> Count:
    """Wait until everything accepted is stored or buried, or the time is over; return the count."""
    deadline = time.monotonic() + within_s
    while (found := await _kept(system, load)) < len(load.accepted) and time.monotonic() < deadline:
        await system.pause(0.1 + found / 500_000)
    return await count(system, load)


async def _kept(system: System, load: Load) -> int:
    """About how many captures of the load are stored or buried: quick to count."""
    rows = await system.pipeline.fetch(
        "SELECT (SELECT count(*) FROM auditap.audit_records WHERE tap_id = $1)"
        " + (SELECT count(*) FROM auditap.dead_letters WHERE position($2::bytea IN event) > 0 AND state <> 'stored')",
        load.tap,
        load.tap.encode(),
    )
    return int(rows[0][0])
