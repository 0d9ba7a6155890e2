"""Polling with `since` at "complete before" misses no record, however late and in what order taps, captures and
heartbeats arrive.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

import pytest

from auditap.database.connection import administrator
from ingestor.config import GapLedgerWaits
from ingestor.ports import ReceivedReport
from ingestor.postgres_store import PostgresStore
from schemas.heartbeat import TapState
from schemas.identity import first_id_at
from schemas.record import Record
from tests.audit_database import migrated
from tests.ledger import Ledger, Tap, clock, now_ms

WAITS = GapLedgerWaits(watermark_lag_ms=20_000, gap_wait_ms=60_000, watermark_hold_ms=3_600_000)
LASTS_MS = 400_000
BEAT_MS = 5_000


class Arrival(NamedTuple):
    """Something that is ingested at a time (ms from the beginning)."""

    at_ms: float
    order: int
    records: tuple[Record, ...] = ()
    reports: tuple[ReceivedReport, ...] = ()
    polls: bool = False


class Life(NamedTuple):
    """When a tap's requests begin and when a collector acknowledges them (ms from the beginning); what it drops."""

    requests: list[float]
    acknowledged: list[float]
    dropped: set[int]


@dataclass
class World:
    """What happens, drawn from a seed. Times are ms from `began_ms`, so long ago that all of it is over."""

    drawn: random.Random
    began_ms: int
    arrivals: list[Arrival] = field(default_factory=list)

    def arrives(self, at_ms: float, *things: Record | ReceivedReport, polls: bool = False) -> None:
        records = tuple(each for each in things if isinstance(each, Record))
        reports = tuple(
            each._replace(received_ms=self.began_ms + int(at_ms))
            for each in things
            if isinstance(each, ReceivedReport)
        )
        heapq.heappush(self.arrivals, Arrival(at_ms, len(self.arrivals), records, reports, polls))

    def tap(self, name: str) -> None:
        """Let a tap run: it starts at some time, and may send nothing at first, be cut off, or end."""
        drawn = self.drawn
        begins_ms = drawn.uniform(0, LASTS_MS / 2)
        ends_ms = begins_ms + drawn.uniform(0, LASTS_MS)
        silent_ms = drawn.choice([0, 0, 0, 100_000])
        tap = Tap(name)
        tap.started_ms = self.began_ms + int(begins_ms)
        requests = sorted(drawn.uniform(begins_ms, ends_ms) for _ in range(drawn.randrange(1, 60)))
        life = Life(
            requests,
            [at_ms + drawn.choice([5, 50, 3_000, 40_000]) for at_ms in requests],
            {number for number in range(1, len(requests) + 1) if drawn.random() < 0.1},
        )
        for number, at_ms in enumerate(requests, 1):
            if number in life.dropped and drawn.random() < 0.9:
                continue
            # Now and then the log holds something back for longer than anyone waits.
            late_ms = drawn.choice([1, 100, 100, 1_000, 1_000, 30_000, 150_000])
            arrives_ms = max(life.acknowledged[number - 1], begins_ms + silent_ms) + late_ms
            self.arrives(arrives_ms, tap.record(number, self.began_ms + int(at_ms)))
        beat_ms: float = begins_ms
        while beat_ms < ends_ms:
            arrives_ms = max(beat_ms, begins_ms + silent_ms) + drawn.choice([0, 10, 500, 10_000])
            if beat_ms == begins_ms:
                arrives_ms = beat_ms + silent_ms
            self.arrives(arrives_ms, self._heartbeat(tap, beat_ms, life))
            beat_ms += BEAT_MS
        if drawn.random() < 0.5:
            over_ms = max(life.acknowledged) + 1
            heartbeat = self._heartbeat(tap, over_ms, life, state=TapState.ENDED)
            self.arrives(over_ms + drawn.choice([0, 10_000]), heartbeat)

    def _heartbeat(
        self, tap: Tap, at_ms: float, life: Life, *, state: TapState = TapState.ALIVE
    ) -> ReceivedReport:
        highest = sum(began_ms <= at_ms for began_ms in life.requests)
        pending = [number for number in range(1, highest + 1) if life.acknowledged[number - 1] > at_ms]
        first = pending[0] if pending else highest + 1
        since_ms = life.requests[first - 1] if pending else at_ms
        return tap.heartbeat(
            highest,
            self.began_ms + int(at_ms),
            pending_from=first,
            since_ms=self.began_ms + int(since_ms),
            state=state,
            dropped=tuple(tap.dropped(number, number) for number in sorted(life.dropped) if number < first),
        )

    def liar(self, name: str) -> None:
        """Let a tap claim in every heartbeat that a request is pending since 1970."""
        tap, began_ms = Tap(name), self.drawn.uniform(0, LASTS_MS)
        tap.started_ms = 0
        for step in range(self.drawn.randrange(1, 6)):
            at_ms = began_ms + step * BEAT_MS
            self.arrives(at_ms, tap.heartbeat(step + 1, 0, pending_from=1, since_ms=0))

    def in_order(self) -> Iterator[Arrival]:
        while self.arrivals:
            yield heapq.heappop(self.arrivals)


def drawn_world(seed: int) -> World:
    world = World(random.Random(seed), now_ms() - 3_000_000)
    for number in range(world.drawn.randrange(1, 6)):
        world.tap(f"t-{number}")
    if world.drawn.random() < 0.5:
        world.liar("liar")
    for tick_ms in range(0, 3 * LASTS_MS, 2_000):
        world.arrives(tick_ms, clock(0))
    at_ms = 0.0
    while at_ms < 3 * LASTS_MS:
        at_ms += world.drawn.choice([500, 5_000, 60_000])
        world.arrives(at_ms, polls=True)
    return world


@pytest.fixture
async def ledger(database: str) -> AsyncIterator[Ledger]:
    audit = await migrated(database)
    store = await PostgresStore.connect(audit.writer_dsn, connections_max=2, command_timeout_ms=60_000)
    async with administrator(audit.admin_dsn) as connection:
        await store.refresh_gap_ledger(WAITS)
        yield Ledger(store, connection)
    await store.close()


class Poller:
    """Reads whatever is there since the time that the last read was complete before."""

    def __init__(self, ledger: Ledger, since_ms: int) -> None:
        self._ledger = ledger
        self._since_ms = since_ms
        self.read: set[UUID] = set()
        self.advanced = 0
        self.earliest_ms = since_ms

    async def poll(self) -> None:
        complete_ms = await self._ledger.complete_before()
        # What was held back has been seen: the hold is over as early as it may be.
        await self._ledger.connection.execute("DELETE FROM auditap.late_arrivals")
        rows = await self._ledger.connection.fetch(
            "SELECT id FROM auditap.audit_records WHERE id >= $1", first_id_at(self._since_ms)
        )
        self.read |= {row["id"] for row in rows}
        if complete_ms is not None:
            self.earliest_ms = min(self.earliest_ms, complete_ms)
            self.advanced += complete_ms > self._since_ms
            self._since_ms = complete_ms


@pytest.mark.parametrize("seed", range(8))
async def test_a_poller_misses_nothing(ledger: Ledger, seed: int) -> None:
    world = drawn_world(seed)
    poller = Poller(ledger, world.began_ms)
    stored: set[UUID] = set()
    for arrival in world.in_order():
        if arrival.records:
            await ledger.store.store(arrival.records)
            stored |= {record.id for record in arrival.records}
        if arrival.reports:
            await ledger.note(*arrival.reports)
        if arrival.polls:
            await poller.poll()
    await poller.poll()
    assert stored - poller.read == set()
    assert poller.advanced > 10
    # No heartbeat takes it back further than an hour before the log's own time.
    assert poller.earliest_ms >= world.began_ms - 3_600_000
