"""The ingestor's loop on a log and a store in memory, with one thing going wrong at a time."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from uuid import UUID

import pytest

from eventlog.ports import Batch, LoggedEvent, Partition, RevokeListener
from ingestor.config import IngestorConfig
from ingestor.ports import LostOffsets, StoreOutcome
from schemas.errors import DeadLetterReason
from schemas.event import EncodedEvent, RawRequest, encode_event
from schemas.heartbeat import REPORT_PREFIX, TapReport, encode_report
from schemas.identity import new_id
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.fakes.event_log import MemoryEventLog, MemorySource
from tests.fakes.record_store import MemoryRecordStore
from tests.records import event
from tests.unit.ingestor.ingestors import NOW, an_ingestor

CONFIG = IngestorConfig(
    batch_events_max=20,
    batches_in_flight_max=4,
    commit_interval_ms=1,
    revoke_wait_ms=100,
    drain_wait_ms=60_000,
    retry_wait_ms_initial=1,
    retry_wait_ms_max=5,
)


class CheckedSource(MemorySource):
    """Counts calls, and checks at every commit that what it covers is stored or dead-lettered."""

    def __init__(self, log: MemoryEventLog, listener: RevokeListener, store: MemoryRecordStore) -> None:
        super().__init__(log, "group", listener)
        self.fetches: list[int] = []
        self._store = store

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        self.fetches.append(events_max)
        return await super().fetch(events_max)

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        for partition, position in positions.items():
            for each in self._log.partitions[partition][:position]:
                at = (partition.log, partition.number, each.offset, each.value)
                dead_lettered = at in self._store.dead_letters
                noted = each.value in {encode_report(one.report) for one in self._store.reports}
                assert dead_lettered or noted or UUID(ids_of([each.value])[0]) in self._store.records
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
    connect: Callable[[RevokeListener], CheckedSource] | None = None,
) -> AsyncIterator[CheckedSource]:
    sources: list[CheckedSource] = []

    def connected(listener: RevokeListener) -> CheckedSource:
        sources.append(connect(listener) if connect else CheckedSource(log, listener, store))
        return sources[0]

    stop = asyncio.Event()
    running = asyncio.create_task(an_ingestor(log, store, config, connect=connected).run(stop))
    try:
        yield sources[0]
    finally:
        stop.set()
        await running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.001)


async def until_stored(store: MemoryRecordStore, count: int) -> None:
    await until(lambda: len(store.records) >= count)


async def until_committed(log: MemoryEventLog, count: int) -> None:
    """Wait for the commit of what is stored, and of what is read again after a rebalance."""
    await until(lambda: committed(log) == count)


def committed(log: MemoryEventLog) -> int:
    return sum(log.committed.values())


async def test_every_event_is_stored_and_committed_at_the_end() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 500)
    async with ingesting(log, store):
        await until_stored(store, 500)
    assert committed(log) == 500


@pytest.mark.parametrize("seed", range(5))
async def test_batches_finish_in_any_order_and_commits_skip_none(seed: int) -> None:
    log, store = MemoryEventLog(partitions=3), SlowStore(seed, wait_ms_max=10)
    filled(log, 600)
    async with ingesting(log, store):
        await until_stored(store, 600)
    assert committed(log) == 600
    assert 1 < store.under_way_max <= CONFIG.batches_in_flight_max


async def test_after_a_small_batch_events_are_gathered_and_nothing_is_fetched() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 1)
    sources: list[CheckedSource] = []

    def connect(listener: RevokeListener) -> CheckedSource:
        sources.append(CheckedSource(log, listener, store))
        return sources[0]

    ingestor = an_ingestor(log, store, replace(CONFIG, gather_ms=3_600_000), connect=connect)
    running = asyncio.create_task(ingestor.run(asyncio.Event()))
    await until_stored(store, 1)
    fetched = len(sources[0].fetches)
    filled(log, 10)
    await asyncio.sleep(0.05)
    assert len(sources[0].fetches) == fetched
    assert len(store.records) == 1
    running.cancel()
    await asyncio.wait({running})


async def test_what_was_gathered_is_fetched_at_once() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 1)
    async with ingesting(log, store, replace(CONFIG, gather_ms=50)):
        await until_stored(store, 1)
        filled(log, 10)
        await until_stored(store, 11)


async def test_after_a_full_batch_the_next_one_begins_at_once() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 5 * CONFIG.batch_events_max)
    async with ingesting(log, store, replace(CONFIG, gather_ms=3_600_000)):
        await until_stored(store, 5 * CONFIG.batch_events_max)


async def test_while_the_store_is_away_polling_goes_on_and_nothing_is_fetched() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 500)
    store.away = True
    async with ingesting(log, store) as source:
        await until(lambda: source.fetches.count(0) >= 20)
        taken = [size for size in source.fetches if size]
        assert len(taken) == CONFIG.batches_in_flight_max
        assert committed(log) == 0
        store.away = False
        await until_stored(store, 500)
    assert committed(log) == 500


async def test_while_the_log_is_away_the_ingestor_waits_for_it() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 50)
    async with ingesting(log, store) as source:
        await until_stored(store, 50)
        log.away = True
        fetched = len(source.fetches)
        await until(lambda: len(source.fetches) > fetched + 1)
        filled(log, 50)
        log.away = False
        await until_stored(store, 100)
    assert committed(log) == 100


async def test_a_rebalance_commits_what_is_stored_and_loses_nothing() -> None:
    log, store = MemoryEventLog(partitions=3), SlowStore(1, wait_ms_max=5)
    filled(log, 600)
    async with ingesting(log, store) as source:
        for stored in (50, 200, 400):
            await until_stored(store, stored)
            await source.rebalance()
        await until_committed(log, 600)
    assert committed(log) == 600


async def test_a_batch_that_hangs_on_revoke_is_cancelled_and_read_again() -> None:
    log, store = MemoryEventLog(), SlowStore(1, wait_ms_max=60_000)
    filled(log, 100)
    async with ingesting(log, store) as source:
        await until(lambda: store.under_way > 0)
        store._wait_ms_max = 0
        await source.rebalance()
        await until_committed(log, 100)
    assert committed(log) == 100


async def test_a_revocation_ends_in_time_though_neither_store_nor_log_does() -> None:
    """The group waits no longer: whatever does not end is read again by the next reader."""
    released = asyncio.Event()

    class StubbornStore(MemoryRecordStore):
        async def store(self, records: Sequence[Record]) -> StoreOutcome:
            while not released.is_set():
                with suppress(asyncio.CancelledError):
                    await released.wait()
            return await super().store(records)

    class HungSource(MemorySource):
        async def commit(self, positions: Mapping[Partition, int]) -> None:
            await released.wait()

    log, store = MemoryEventLog(partitions=2), StubbornStore()
    ingestor = an_ingestor(log, store, CONFIG, connect=lambda listener: HungSource(log, "group", listener))
    first, second = log.partitions
    await ingestor.on_assigned({first: 1, second: 1})
    # One batch is stored and waits for its commit, the other hangs in the store.
    finished = ingestor._offsets.begin(Batch(first, 1, [LoggedEvent(0, NOW, b"")]))
    assert finished is not None
    ingestor._offsets.finish(finished)
    ingestor._begin([Batch(second, 1, [LoggedEvent(0, NOW, encode_event(event(NOW)))])])
    [hanging] = ingestor._in_flight

    revoking = asyncio.create_task(ingestor.on_revoked([first, second]))
    in_time, _ = await asyncio.wait({revoking}, timeout=60)
    is_hanging = not hanging.done()
    released.set()
    await asyncio.gather(revoking, hanging, return_exceptions=True)

    assert in_time
    assert is_hanging
    assert not ingestor._offsets.committable()


async def test_a_batch_fetched_before_a_rebalance_commits_nothing() -> None:
    """Its forerunner was dropped with the assignment: committing past it would lose that."""

    class LateSource(CheckedSource):
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

    def connect(listener: RevokeListener) -> CheckedSource:
        source = LateSource(log, listener, store)
        source.late = []
        return source

    log, store = MemoryEventLog(partitions=1), SlowStore(1, wait_ms_max=60_000)
    filled(log, 100)
    async with ingesting(log, store, connect=connect):
        await until_committed(log, 100)
    assert committed(log) == 100


async def test_dead_letters_have_their_position_and_reason() -> None:
    log, store = MemoryEventLog(partitions=1), MemoryRecordStore()
    filled(log, 10)
    log.append([EncodedEvent("", b'{"not": "an event"}', NOW)])
    expired = event(0)
    log.append([EncodedEvent(expired.id, encode_event(expired), NOW)])
    taken = ids_of([log.partitions[Partition("memory", 0)][0].value])[0]
    conflicting = event(NOW, id=taken, raw=RawRequest(method="GET"))
    log.append([EncodedEvent(conflicting.id, encode_event(conflicting), NOW)])
    filled(log, 10)
    async with ingesting(log, store):
        await until_stored(store, 20)
    assert {
        offset: dead_letter.reason.reason for (_, _, offset, _), dead_letter in store.dead_letters.items()
    } == {
        10: DeadLetterReason.MALFORMED,
        11: DeadLetterReason.EXPIRED,
        12: DeadLetterReason.ID_CONFLICT,
    }
    assert committed(log) == 23


async def test_reading_again_stores_nothing_twice() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 200)
    async with ingesting(log, store):
        await until_stored(store, 200)
    log.committed.clear()
    async with ingesting(log, store):
        await until(lambda: committed(log) == 200)
    assert len(store.records) == 200
    assert not store.dead_letters


async def test_a_bug_ends_the_ingestor_and_commits_nothing_past_it() -> None:
    """Regression: of two batches that failed, asyncio logged the error of one, with what it says."""
    under_way = 0
    both = asyncio.Event()
    logged: list[dict[str, object]] = []

    class BrokenStore(MemoryRecordStore):
        async def store(self, records: Sequence[Record]) -> StoreOutcome:
            nonlocal under_way
            under_way += 1
            if under_way == 2:
                both.set()
                # It fails once the ingestor is about to end because of the first.
                await asyncio.sleep(0.1)
            await both.wait()
            raise ZeroDivisionError

    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
    log, store = MemoryEventLog(), BrokenStore()
    filled(log, 50)
    ingestor = an_ingestor(log, store, CONFIG, connect=lambda listener: CheckedSource(log, listener, store))
    with pytest.raises(ZeroDivisionError):
        await ingestor.run(asyncio.Event())
    del ingestor
    gc.collect()
    assert committed(log) == 0
    assert not logged


async def test_it_stops_before_the_log_was_there() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    log.away = True
    async with asyncio.timeout(120):
        async with ingesting(log, store):
            await asyncio.sleep(0.02)


def test_ids_are_read_off_the_events_bytes() -> None:
    event_id = new_id(NOW)
    assert ids_of([encode_event(event(NOW, id=event_id))]) == [event_id]


async def test_reports_are_noted_and_make_no_records() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    filled(log, 5)
    log.append([EncodedEvent("0" * 32, encode_report(TapReport(1)), NOW - 7)])
    log.append([EncodedEvent("0" * 32, REPORT_PREFIX, NOW)])
    async with ingesting(log, store):
        await until(lambda: bool(store.reports and store.dead_letters) and len(store.records) == 5)
    assert [(each.received_ms, each.report) for each in store.reports] == [(NOW - 7, TapReport(1))]
    assert [dead_letter.reason.reason for dead_letter in store.dead_letters.values()] == [
        DeadLetterReason.MALFORMED
    ]
    assert committed(log) == 7


async def test_no_report_was_received_later_than_now() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    log.append([EncodedEvent("0" * 32, encode_report(TapReport(1)), NOW + 3_600_000)])
    async with ingesting(log, store):
        await until(lambda: bool(store.reports))
    assert [each.received_ms for each in store.reports] == [NOW]


async def test_lost_offsets_are_noted_before_later_offsets_are_committed() -> None:
    log, store = MemoryEventLog(), MemoryRecordStore()
    metrics = Metrics()
    ingestor = an_ingestor(log, store, CONFIG, metrics=metrics)
    partition = next(iter(log.partitions))
    await ingestor.on_assigned({partition: 1})
    value = encode_event(event(NOW))
    events = [LoggedEvent(150, NOW, value), LoggedEvent(151, NOW, value)]
    batch = Batch(partition, 1, events, lost=range(100, 140), passed_over=10)
    ingestor._begin([batch])
    await ingestor._drain(1000)
    assert store.lost == {LostOffsets(partition, 100, 139, NOW)}
    assert metrics.registry.get_sample_value("auditap_offsets_passed_over_total") == 10
