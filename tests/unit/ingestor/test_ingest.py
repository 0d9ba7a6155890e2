"""The ingestor's loop on a log and a store in memory, with one thing going wrong at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import pytest

from ingestor.config import IngestorConfig
from ingestor.ingest import Ingestor
from ingestor.ports import Batch, LostOffsets, Partition, RevokeListener, SourceEvent, StoreOutcome
from schemas.errors import DeadLetterReason
from schemas.event import EncodedEvent, RawRequest, encode_event
from schemas.heartbeat import REPORT_PREFIX, TapReport, encode_report
from schemas.identity import new_id
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.fakes.event_log import MemoryEventLog, MemorySource
from tests.fakes.record_store import MemoryRecordStore
from tests.records import event

NOW = 1_769_192_714_749
CONFIG = IngestorConfig(
    batch_events_max=20,
    batches_in_flight_max=4,
    commit_interval_ms=1,
    revoke_wait_ms=100,
    drain_wait_ms=500,
    retry_wait_ms_initial=1,
    retry_wait_ms_max=5,
)


class NoEnrichment:
    async def enrich(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)


class WatchedSource(MemorySource):
    """Counts calls, and checks at every commit that what it covers is stored or buried."""

    def __init__(self, log: MemoryEventLog, listener: RevokeListener, store: MemoryRecordStore) -> None:
        super().__init__(log, "group", listener)
        self.fetches: list[int] = []
        self._store = store

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        self.fetches.append(events_max)
        return await super().fetch(events_max)

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        for partition, position in positions.items():
            for each in self._log.lanes[partition][:position]:
                buried = (*partition, each.offset) in self._store.letters
                noted = each.value in {encode_report(one.report) for one in self._store.reports}
                assert buried or noted or UUID(ids_of([each.value])[0]) in self._store.records
        await super().commit(positions)


class SlowStore(MemoryRecordStore):
    """Takes a random time for each batch, so that batches finish in any order."""

    def __init__(self, seed: int, wait_ms_max: float) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._wait_ms_max = wait_ms_max
        self.under_way = 0
        self.under_way_max = 0

    async def store(self, records: Sequence[Record]) -> StoreOutcome:
        self.under_way += 1
        self.under_way_max = max(self.under_way, self.under_way_max)
        try:
            await asyncio.sleep(self._random.random() * self._wait_ms_max / 1000)
            return await super().store(records)
        finally:
            self.under_way -= 1


def ids_of(values: Sequence[bytes]) -> list[str]:
    return [value[7:39].decode() for value in values]


def filled(log: MemoryEventLog, count: int) -> None:
    for number in range(count):
        one = event(NOW - number)
        log.append([EncodedEvent(one.id, encode_event(one), NOW)])


@asynccontextmanager
async def ingesting(
    log: MemoryEventLog,
    store: MemoryRecordStore,
    config: IngestorConfig = CONFIG,
    connect: Callable[[RevokeListener], WatchedSource] | None = None,
) -> AsyncIterator[WatchedSource]:
    sources: list[WatchedSource] = []

    def connected(listener: RevokeListener) -> WatchedSource:
        sources.append(connect(listener) if connect else WatchedSource(log, listener, store))
        return sources[0]

    ingestor = Ingestor(
        connect=connected,
        enrichment=NoEnrichment(),
        store=store,
        dead_letters=store,
        completeness=store,
        config=config,
        metrics=Metrics(),
        clock_ms=lambda: NOW,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(ingestor.run(stop))
    try:
        yield sources[0]
    finally:
        stop.set()
        await running


async def until_stored(store: MemoryRecordStore, count: int) -> None:
    async with asyncio.timeout(20):
        while len(store.records) < count:
            await asyncio.sleep(0.001)


def committed(log: MemoryEventLog) -> int:
    return sum(log.committed.values())


async def test_every_event_is_stored_and_committed_at_the_end() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 500)
    async with ingesting(log, store):
        await until_stored(store, 500)
    assert committed(log) == 500


@pytest.mark.parametrize("seed", range(5))
async def test_batches_finish_in_any_order_and_no_hole_is_committed(seed: int) -> None:
    log, store = MemoryEventLog(lanes=3), SlowStore(seed, wait_ms_max=10)
    filled(log, 600)
    async with ingesting(log, store):
        await until_stored(store, 600)
    assert committed(log) == 600
    assert 1 < store.under_way_max <= CONFIG.batches_in_flight_max


async def test_what_comes_shortly_after_a_small_batch_makes_one_batch() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 1)
    async with ingesting(log, store, replace(CONFIG, gather_ms=300)) as source:
        await until_stored(store, 1)
        for _ in range(10):
            filled(log, 1)
            await asyncio.sleep(0.001)
        taken = len(source.fetches)
        await until_stored(store, 11)
    assert source.fetches[:taken].count(CONFIG.batch_events_max) == 1
    assert len(source.fetches) < 10


async def test_after_a_full_batch_the_next_one_begins_at_once() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 5 * CONFIG.batch_events_max)
    async with ingesting(log, store, replace(CONFIG, gather_ms=3_600_000)):
        await until_stored(store, 5 * CONFIG.batch_events_max)


async def test_while_the_store_is_away_polling_goes_on_and_nothing_more_is_taken() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 500)
    store.away = True
    async with ingesting(log, store) as source:
        async with asyncio.timeout(10):
            while source.fetches.count(0) < 20:
                await asyncio.sleep(0.001)
        taken = [size for size in source.fetches if size]
        assert len(taken) == CONFIG.batches_in_flight_max
        assert committed(log) == 0
        store.away = False
        await until_stored(store, 500)
    assert committed(log) == 500


async def test_while_the_log_is_away_the_ingestor_waits_for_it() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 50)
    async with ingesting(log, store):
        await until_stored(store, 50)
        log.away = True
        await asyncio.sleep(0.05)
        filled(log, 50)
        log.away = False
        await until_stored(store, 100)
    assert committed(log) == 100


async def test_a_rebalance_commits_what_is_stored_and_loses_nothing() -> None:
    log, store = MemoryEventLog(lanes=3), SlowStore(1, wait_ms_max=5)
    filled(log, 600)
    async with ingesting(log, store) as source:
        for stored in (50, 200, 400):
            await until_stored(store, stored)
            await source.rebalance()
        await until_stored(store, 600)
    assert committed(log) == 600


async def test_a_batch_that_hangs_when_partitions_go_is_dropped_and_read_again() -> None:
    log, store = MemoryEventLog(), SlowStore(1, wait_ms_max=60_000)
    filled(log, 100)
    async with ingesting(log, store) as source:
        async with asyncio.timeout(10):
            while not store.under_way:
                await asyncio.sleep(0.001)
        store._wait_ms_max = 0
        await source.rebalance()
        await until_stored(store, 100)
    assert committed(log) == 100


async def test_a_batch_that_was_under_way_to_us_when_partitions_went_commits_nothing() -> None:
    """Its forerunner was dropped with the assignment: committing past it would lose that."""

    class LateSource(WatchedSource):
        async def fetch(self, events_max: int) -> Sequence[Batch]:
            if 0 < len(self.late) < 30:
                self.late.append(events_max)  # time for what came late to be stored and committed
                await asyncio.sleep(0.001)
                return ()
            batches = await super().fetch(events_max)
            if not self.late and batches and batches[0].events[0].offset == 20:
                self.late.append(events_max)
                await self.rebalance()
                store._wait_ms_max = 0
            return batches

        late: list[int]

    def connect(listener: RevokeListener) -> WatchedSource:
        source = LateSource(log, listener, store)
        source.late = []
        return source

    log, store = MemoryEventLog(lanes=1), SlowStore(1, wait_ms_max=60_000)
    filled(log, 100)
    async with ingesting(log, store, connect=connect):
        await until_stored(store, 100)
    assert committed(log) == 100


async def test_what_can_never_be_a_record_is_buried_with_its_place_and_reason() -> None:
    log, store = MemoryEventLog(lanes=1), MemoryRecordStore()
    filled(log, 10)
    log.append([EncodedEvent("", b'{"not": "an event"}', NOW)])
    expired = event(0)
    log.append([EncodedEvent(expired.id, encode_event(expired), NOW)])
    taken = ids_of([log.lanes[Partition("memory", 0)][0].value])[0]
    conflicting = event(NOW, id=taken, raw=RawRequest(method="GET"))
    log.append([EncodedEvent(conflicting.id, encode_event(conflicting), NOW)])
    filled(log, 10)
    async with ingesting(log, store):
        await until_stored(store, 20)
    assert {offset: letter.reason.reason for (_, _, offset), letter in store.letters.items()} == {
        10: DeadLetterReason.MALFORMED,
        11: DeadLetterReason.EXPIRED,
        12: DeadLetterReason.ID_CONFLICT,
    }
    assert committed(log) == 23


async def test_reading_again_from_the_start_stores_nothing_twice() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 200)
    async with ingesting(log, store):
        await until_stored(store, 200)
    log.committed.clear()
    async with ingesting(log, store):
        async with asyncio.timeout(10):
            while committed(log) < 200:
                await asyncio.sleep(0.001)
    assert len(store.records) == 200
    assert not store.letters


async def test_a_fault_of_the_program_ends_it_and_commits_nothing_over_it() -> None:
    class BrokenStore(MemoryRecordStore):
        async def store(self, records: Sequence[Record]) -> StoreOutcome:
            raise ZeroDivisionError

    log, store = MemoryEventLog(), BrokenStore()
    filled(log, 50)
    with pytest.raises(ZeroDivisionError):
        async with ingesting(log, store):
            await asyncio.sleep(0.1)
    assert committed(log) == 0


async def test_stopping_before_the_log_was_ever_there_ends() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    log.away = True
    async with asyncio.timeout(10):
        async with ingesting(log, store):
            await asyncio.sleep(0.02)


def test_ids_are_read_off_the_events_bytes() -> None:
    event_id = new_id(NOW)
    assert ids_of([encode_event(event(NOW, id=event_id))]) == [event_id]


async def test_reports_are_noted_and_make_no_records() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 5)
    log.append([EncodedEvent("0" * 32, encode_report(TapReport(1)), NOW + 7)])
    log.append([EncodedEvent("0" * 32, REPORT_PREFIX, NOW)])
    async with ingesting(log, store):
        async with asyncio.timeout(20):
            while not (store.reports and store.letters and len(store.records) == 5):
                await asyncio.sleep(0.001)
    assert [(each.received_ms, each.report) for each in store.reports] == [(NOW + 7, TapReport(1))]
    assert [letter.reason.reason for letter in store.letters.values()] == [DeadLetterReason.MALFORMED]
    assert committed(log) == 7


async def test_offsets_that_the_log_lost_are_noted_before_what_follows_is_committed() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    ingestor = Ingestor(
        connect=lambda listener: MemorySource(log, "group", listener),
        enrichment=NoEnrichment(),
        store=store,
        dead_letters=store,
        completeness=store,
        config=CONFIG,
        metrics=Metrics(),
        clock_ms=lambda: NOW,
    )
    partition = next(iter(log.lanes))
    await ingestor.on_assigned({partition: 1})
    value = encode_event(event(NOW))
    batch = Batch(partition, 1, [SourceEvent(150, NOW, value), SourceEvent(151, NOW, value)], lost_from=100)
    ingestor._begin([batch])
    await ingestor._settle(1000)
    assert store.lost == {LostOffsets(partition, 100, 149, NOW)}
