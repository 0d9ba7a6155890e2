"""The SQL statements that write to the gap ledger. Each calls a database function: no role may change its tables directly."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ingestor.ports import LostOffsets, ReceivedReport
from ingestor.sequence_numbers import SequenceNumbers, multirange_of
from schemas.heartbeat import DroppedRange, Heartbeat, UnrecordedNumbers


class Connection(Protocol):
    """A database connection within a transaction."""

    async def execute(self, query: str, /, *arguments: Any) -> str:
        """Run one statement and return its status."""


async def note_sequence_numbers(connection: Connection, seen: SequenceNumbers) -> None:
    """Note sequence numbers as seen, in the transaction that stores or dead-letters their events.

    It must be the last statement of that transaction, because it locks rows that other batches wait for.
    """
    if seen.numbered:
        columns = [list(column) for column in zip(*seen.numbered, strict=True)]
        await connection.execute("SELECT auditap.note_numbers($1, $2, $3, $4, $5, $6)", *columns)
    if seen.unnumbered:
        await connection.execute("SELECT auditap.note_unnumbered($1, $2)", seen.unnumbered, _now_ms())


async def note_reports(
    connection: Connection, reports: Sequence[tuple[int, ReceivedReport]], lost: Sequence[LostOffsets]
) -> None:
    """Note reports, which must be sorted by `lock_order`, and lost offsets."""
    for partition, first, last, to_ms in lost:
        await connection.execute(
            "SELECT auditap.note_lost_offsets($1, $2, $3, $4, NULL, $5, $6)",
            partition.log,
            partition.number,
            first,
            last,
            to_ms,
            partition.log_id,
        )
    for _, (received_ms, report) in reports:
        if report.heartbeat is not None:
            await _note_heartbeat(connection, report.heartbeat, received_ms, report.collector)
        if report.count is not None:
            await _note_count(connection, report.count, received_ms)
    if reports:
        latest_ms = max(received.received_ms for _, received in reports)
        collectors = _latest_by_collector(received for _, received in reports)
        await connection.execute(
            "SELECT auditap.note_time($1, $2, $3, $4)",
            latest_ms,
            list(collectors),
            list(collectors.values()),
            _now_ms(),
        )


def _latest_by_collector(reports: Iterable[ReceivedReport]) -> dict[str, int]:
    """Return the time of the latest report of each collector. Those of older versions do not say who they are."""
    latest: dict[str, int] = {}
    for received_ms, report in reports:
        if report.collector is not None:
            latest[report.collector] = max(received_ms, latest.get(report.collector, 0))
    return latest


async def _note_heartbeat(
    connection: Connection, heartbeat: Heartbeat, received_ms: int, collector: str | None
) -> None:
    await connection.execute(
        "SELECT auditap.note_heartbeat($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        heartbeat.tap.id,
        heartbeat.tap.epoch,
        heartbeat.beat,
        heartbeat.at_ms,
        heartbeat.started_ms,
        heartbeat.highest,
        heartbeat.pending_from,
        heartbeat.pending_since_ms,
        heartbeat.lease_ms,
        heartbeat.state,
        received_ms,
        *_columns(heartbeat.dropped),
        collector,
    )


async def _note_count(connection: Connection, count: UnrecordedNumbers, received_ms: int) -> None:
    await connection.execute(
        "SELECT auditap.note_count($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        count.tap.id,
        count.tap.epoch,
        multirange_of(count.excluded),
        received_ms,
        *_columns(count.dropped),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _columns(dropped: Sequence[DroppedRange]) -> list[list[object]]:
    return [
        [getattr(each, name) for each in dropped] for name in ("first", "last", "cause", "from_ms", "to_ms")
    ]


def lock_order(indexed: tuple[int, ReceivedReport]) -> tuple[str, int]:
    """Return the sort key of an indexed report: tap and epoch, as for sequence numbers, or two transactions would deadlock."""
    report = indexed[1].report
    tap = report.heartbeat.tap if report.heartbeat else report.count.tap if report.count else None
    return ("", 0) if tap is None else (tap.id, tap.epoch)
