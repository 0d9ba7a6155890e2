"""The count: what was accepted against what is stored, and what was dead-lettered."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, fields

import msgspec

from tests.faults.load import Load
from tests.faults.system import System

_STORED = """
SELECT tap_seq, count(*), bool_or(resource_id IS DISTINCT FROM lpad(to_hex(tap_seq), 32, '0')) AS mixed
FROM auditap.audit_records WHERE tap_id = $1 GROUP BY tap_seq
"""
_NOTED = "SELECT lower(run) AS first, upper(run) AS until FROM auditap.tap_epochs, unnest(seen) AS run WHERE tap_id = $1"
_REPORTED = "SELECT coalesce(sum(count), 0) FROM auditap.completeness_gaps WHERE tap_id = $1"
_DEAD_LETTERS = "SELECT event, reason FROM auditap.dead_letters WHERE position($1::bytea IN event) > 0 AND state <> 'stored'"


@dataclass(frozen=True)
class Count:
    """What became of one load. Every number counts captures, each once, but `records`, which counts rows."""

    offered: int
    accepted: int
    records: int
    dead_letters: int
    duplicates: int
    """Stored more than once, or both stored and dead-lettered."""
    lost: int
    """Accepted, and neither stored nor dead-lettered."""
    strangers: int
    """Stored, and never offered; or with another capture's resource."""
    unanswered: int
    """Stored or dead-lettered, although the sender went away before the answer."""
    gaps: int
    """Accepted, and missing by the log's own account of what taps numbered."""
    reported: int
    """Missing by the gaps that the log API serves."""
    reasons: Counter[str]
    """Of the dead letters."""

    @property
    def balanced(self) -> bool:
        return self.accepted + self.unanswered == self.records + self.dead_letters and not (
            self.duplicates or self.lost or self.strangers or self.gaps or self.reported
        )

    def __add__(self, other: Count) -> Count:
        """Return what became of both loads together."""
        numbers = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        return Count(**numbers)

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
    dead_lettered: dict[int, str] = {}
    for row in await system.pipeline.fetch(_DEAD_LETTERS, load.tap.encode()):
        tap = _event_decoder.decode(row["event"]).tap
        if tap.id == load.tap and tap.seq is not None:
            dead_lettered[tap.seq] = row["reason"]
    noted: set[int] = set()
    for row in await system.pipeline.fetch(_NOTED, load.tap):
        noted.update(range(row["first"], row["until"]))
    kept = stored.keys() | dead_lettered.keys()
    return Count(
        offered=load.offered,
        accepted=len(load.accepted),
        records=sum(stored.values()),
        dead_letters=len(dead_lettered),
        duplicates=sum(times > 1 for times in stored.values()) + len(stored.keys() & dead_lettered.keys()),
        lost=len(load.accepted - kept),
        strangers=sum(row["mixed"] for row in rows) + sum(not 0 < number <= load.offered for number in kept),
        reported=int((await system.pipeline.fetch(_REPORTED, load.tap))[0][0]),
        gaps=len(load.accepted - noted),
        unanswered=len(kept - load.accepted),
        reasons=Counter(dead_lettered.values()),
    )


async def count_when_stored(system: System, load: Load, within_s: float = 120) -> Count:
    """Wait until the count is balanced, or the time is over; return it."""
    deadline = time.monotonic() + within_s
    while (stored := await kept(system, load)) < len(load.accepted) and time.monotonic() < deadline:
        await system.pause(0.1 + stored / 500_000)
    # As many may be stored as were accepted, and not the same ones: what was not accepted before its sender went away.
    while not (found := await count(system, load)).balanced and time.monotonic() < deadline:
        await system.pause(0.5 + stored / 100_000)
    return found


async def kept(system: System, load: Load) -> int:
    """About how many captures of the load are stored or dead-lettered: quick to count."""
    rows = await system.pipeline.fetch(
        "SELECT (SELECT count(*) FROM auditap.audit_records WHERE tap_id = $1)"
        " + (SELECT count(*) FROM auditap.dead_letters WHERE position($2::bytea IN event) > 0 AND state <> 'stored')",
        load.tap,
        load.tap.encode(),
    )
    return int(rows[0][0])
