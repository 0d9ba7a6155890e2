"""Where nearly all events are malformed, the ingestor halts and commits nothing past them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ingestor.config import IngestorConfig
from ingestor.dead_letters.limit import MalformedLimit
from schemas.event import EncodedEvent, encode_event
from schemas.heartbeat import REPORT_PREFIX
from schemas.metric_defs import Metrics
from tests.fakes.event_log import MemoryEventLog
from tests.fakes.record_store import MemoryRecordStore
from tests.records import event
from tests.unit.ingestor.ingestors import NOW, an_ingestor

BATCH = 100
CONFIG = IngestorConfig(
    batch_events_max=BATCH, batches_in_flight_max=3, gather_ms=0, commit_interval_ms=0, drain_wait_ms=60_000
)


def append_malformed(log: MemoryEventLog, count: int) -> None:
    log.append([EncodedEvent(str(number), b'{"not": "an event"}', NOW) for number in range(count)])


def append_events(log: MemoryEventLog, count: int, at_ms: int = NOW) -> None:
    events = [event(at_ms - number) for number in range(count)]
    log.append([EncodedEvent(one.id, encode_event(one), NOW) for one in events])


class Running:
    def __init__(
        self, log: MemoryEventLog, store: MemoryRecordStore, config: IngestorConfig = CONFIG
    ) -> None:
        self.log, self.store, self.metrics = log, store, Metrics()
        self.ingestor = an_ingestor(log, store, config, metrics=self.metrics)
        self._stop = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Run until the condition holds, then a little longer, and stop."""
        running = asyncio.create_task(self.ingestor.run(self._stop))
        async with asyncio.timeout(120):
            while not condition():
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        self._stop.set()
        await running

    def committed(self) -> int:
        return sum(self.log.committed.values())


async def test_a_topic_of_malformed_events_is_not_drained_into_dead_letters() -> None:
    log, store = MemoryEventLog(partitions=1), MemoryRecordStore()
    append_malformed(log, 5_000)
    running = Running(log, store)
    await running.until(lambda: running.ingestor.halted)

    assert 1_000 <= len(store.dead_letters) < 1_000 + BATCH
    assert running.committed() == 1_000 - BATCH
    assert running.metrics.registry.get_sample_value("auditap_ingest_halted") == 1


async def test_a_restart_reads_on_from_the_last_commit_and_loses_nothing() -> None:
    log, store = MemoryEventLog(partitions=1), MemoryRecordStore()
    append_events(log, 300)
    append_malformed(log, 5_000)
    append_events(log, 100, NOW - 10_000)
    first = Running(log, store)
    await first.until(lambda: first.ingestor.halted)
    halted_at = first.committed()
    offsets = {offset for _, _, offset, _ in store.dead_letters}
    assert halted_at < 300 + 5_000
    assert offsets >= set(range(300, halted_at))

    drained = Running(log, store, IngestorConfig(batch_events_max=BATCH, malformed_share_max=1))
    await drained.until(lambda: len(store.records) == 400 and len(store.dead_letters) == 5_000)
    assert drained.committed() == 5_400


async def test_well_formed_events_may_end_the_window_that_exceeds_the_limit() -> None:
    log, store = MemoryEventLog(partitions=1), MemoryRecordStore()
    append_malformed(log, 950)
    append_events(log, 100)
    running = Running(log, store, IngestorConfig(batch_events_max=50, gather_ms=0))
    await running.until(lambda: running.ingestor.halted)
    assert len(store.dead_letters) == 950


@pytest.mark.parametrize("malformed", [1, 500, 899])
async def test_malformed_events_among_others_halt_nothing(malformed: int) -> None:
    log, store = MemoryEventLog(partitions=1), MemoryRecordStore()
    for _ in range(3):
        append_malformed(log, malformed)
        append_events(log, 1_000 - malformed)
    running = Running(log, store, IngestorConfig(batch_events_max=1_000, gather_ms=0))
    await running.until(lambda: len(store.dead_letters) == 3 * malformed)
    assert not running.ingestor.halted


async def test_a_backlog_of_expired_events_halts_nothing() -> None:
    log, store = MemoryEventLog(partitions=1), MemoryRecordStore()
    append_events(log, 3_000, at_ms=1_000_000)
    running = Running(log, store)
    await running.until(lambda: len(store.dead_letters) == 3_000)
    assert not running.ingestor.halted
    assert running.committed() == 3_000


def test_a_window_ends_with_the_events_that_fill_it() -> None:
    limit = MalformedLimit(0.9, window_events=10)
    assert not limit.exceeded_with(9, 9)
    assert limit.exceeded_with(1, 1)
    assert not limit.exceeded_with(10, 9)
    assert not limit.exceeded_with(9, 9)
    assert limit.exceeded_with(20, 20)


def test_a_share_of_one_is_never_exceeded() -> None:
    assert not MalformedLimit(1.0, window_events=1).exceeded_with(1_000, 1_000)


def test_a_new_window_begins_after_a_rebalance() -> None:
    limit = MalformedLimit(0.9, window_events=10)
    assert not limit.exceeded_with(9, 9)
    limit.reset()
    assert not limit.exceeded_with(9, 9)


async def test_reports_that_cannot_be_read_halt_nothing() -> None:
    """Seen with heartbeats of a newer release on a quiet API."""
    log, store = MemoryEventLog(partitions=1), MemoryRecordStore()
    append_events(log, 90)
    log.append([EncodedEvent(str(number), REPORT_PREFIX + b"newer", NOW) for number in range(1_500)])
    running = Running(log, store)
    await running.until(lambda: len(store.dead_letters) == 1_500)
    assert not running.ingestor.halted
