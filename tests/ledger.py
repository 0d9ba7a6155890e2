"""A gap ledger on a real database, and taps that are made up."""

from __future__ import annotations

import time
from typing import Any

import asyncpg
import pytest

from ingestor.ports import ReceivedReport
from ingestor.postgres_store import PostgresStore
from schemas.heartbeat import (
    DroppedRange,
    Heartbeat,
    TapEpoch,
    TapReport,
    TapState,
    UnrecordedNumbers,
)
from schemas.record import Record
from tests.records import record

LEASE_MS = 60_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Tap:
    """One start of a tap that began `began_ago_ms` ago; its clock is the test's."""

    def __init__(self, name: str = "t-1", epoch: int = 7, began_ago_ms: int = 100_000) -> None:
        self.epoch = TapEpoch(name, epoch)
        self.started_ms = now_ms() - began_ago_ms
        self.beats = 0

    def record(self, number: int, at_ms: int, **changes: Any) -> Record:
        return record(
            at_ms,
            tap_id=self.epoch.id,
            tap_epoch=self.epoch.epoch,
            tap_seq=number,
            **{"received_ms": at_ms, **changes},
        )

    def records(self, first: int, last: int) -> list[Record]:
        """One record a millisecond, from the tap's start on."""
        return [self.record(number, self.started_ms + number) for number in range(first, last + 1)]

    def heartbeat(
        self,
        highest: int,
        at_ms: int,
        *,
        pending_from: int | None = None,
        since_ms: int | None = None,
        received_ms: int | None = None,
        state: TapState = TapState.ALIVE,
        dropped: tuple[DroppedRange, ...] = (),
        beat: int | None = None,
        collector: str | None = None,
    ) -> ReceivedReport:
        self.beats += 1
        heartbeat = Heartbeat(
            tap=self.epoch,
            beat=self.beats if beat is None else beat,
            at_ms=at_ms,
            started_ms=self.started_ms,
            highest=highest,
            pending_from=highest + 1 if pending_from is None else pending_from,
            pending_since_ms=at_ms if since_ms is None else since_ms,
            lease_ms=LEASE_MS,
            state=state,
            dropped=dropped,
        )
        return ReceivedReport(received_ms or at_ms, TapReport(1, heartbeat=heartbeat, collector=collector))

    def count(self, at_ms: int, **numbers: Any) -> ReceivedReport:
        return ReceivedReport(at_ms, TapReport(1, count=UnrecordedNumbers(self.epoch, **numbers)))

    def dropped(self, first: int, last: int, cause: str = "buffer_full") -> DroppedRange:
        return DroppedRange(first, last, cause, self.started_ms + first, self.started_ms + last)


def clock(at_ms: int, collector: str | None = None) -> ReceivedReport:
    """A collector's report that it is running."""
    return ReceivedReport(at_ms, TapReport(1, collector=collector))


class Ledger:
    """Writes as the ingestor does, reads as the administrator may."""

    def __init__(self, store: PostgresStore, connection: asyncpg.Connection) -> None:
        self.store = store
        self.connection = connection

    async def note(self, *reports: ReceivedReport) -> None:
        assert await self.store.note(reports, ()) == []

    async def gaps(self) -> list[tuple[Any, ...]]:
        """Return (first, last, count, cause) of every gap, lowest first."""
        rows = await self.connection.fetch(
            "SELECT first, last, count, cause FROM auditap.completeness_gaps ORDER BY tap_id, epoch, first"
        )
        return [tuple(row) for row in rows]

    async def spans(self) -> list[tuple[int, int | None]]:
        rows = await self.connection.fetch(
            "SELECT from_ms, to_ms FROM auditap.completeness_gaps ORDER BY tap_id, epoch, first"
        )
        return [tuple(row) for row in rows]

    async def complete_before(self) -> int | None:
        found: int | None = await self.connection.fetchval("SELECT auditap.complete_before()")
        return found

    async def log_ms(self) -> int:
        """Return the log's own time."""
        found: int = await self.connection.fetchval("SELECT received_ms FROM auditap.completeness_clock")
        return found


async def set_database_clock(ledger: Ledger, ahead_ms: int) -> None:
    """Let the database's clock be so many milliseconds ahead."""
    await ledger.connection.execute(
        "CREATE OR REPLACE FUNCTION auditap.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS"
        f" $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + {ahead_ms} $$"
    )


async def set_clocks(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, ahead_ms: int) -> None:
    """Let the clocks of the database and of the ingestor be so many milliseconds ahead."""
    await set_database_clock(ledger, ahead_ms)
    monkeypatch.setattr("ingestor.gap_statements._now_ms", lambda: now_ms() + ahead_ms)
