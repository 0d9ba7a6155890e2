from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ingestor.checked_clock import CheckedClock
from ingestor.config import DAY_MS, IngestorConfig
from schemas.errors import RetryableError
from schemas.event import EncodedEvent, encode_event
from schemas.identity import new_id
from schemas.metric_defs import Metrics
from tests.fakes.event_log import MemoryEventLog
from tests.fakes.record_store import MemoryRecordStore
from tests.records import event
from tests.unit.ingestor.ingestors import NOW, an_ingestor

FIVE_MINUTES_MS = 300_000
CONFIG = IngestorConfig(retry_wait_ms_initial=1, retry_wait_ms_max=5, commit_interval_ms=1)


class Clocks:
    """Our clock and the database's. `jumps`: what is added to ours while the database is asked."""

    def __init__(self) -> None:
        self.own_ms = self.database_ms = NOW
        self.jumps: list[int] = []
        self.asked = 0
        self.away = False
        self.metrics = Metrics()
        self.checked = CheckedClock(
            clock_ms=lambda: self.own_ms, database_clock_ms=self._ask, metrics=self.metrics
        )

    async def _ask(self) -> int:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise RetryableError("the store is away")
        if self.jumps:
            self.own_ms += self.jumps.pop()
        return self.database_ms

    def are_apart(self) -> float | None:
        return self.metrics.registry.get_sample_value("auditap_ingest_clocks_apart")


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.mark.parametrize("ahead_ms", [-FIVE_MINUTES_MS, 0, FIVE_MINUTES_MS])
async def test_a_clock_that_agrees_is_believed_for_a_second(clocks: Clocks, ahead_ms: int) -> None:
    before_any_check = clocks.checked.agrees
    assert not before_any_check
    clocks.own_ms += ahead_ms
    assert await asyncio.gather(*(clocks.checked.now_ms() for _ in range(4))) == [NOW + ahead_ms] * 4
    clocks.own_ms += 999
    assert await clocks.checked.now_ms() == NOW + ahead_ms + 999
    assert clocks.asked == 1
    assert clocks.checked.agrees
    clocks.database_ms = clocks.own_ms = clocks.own_ms + 1
    await clocks.checked.now_ms()
    assert clocks.asked == 2


@pytest.mark.parametrize("apart_ms", [FIVE_MINUTES_MS + 1, -FIVE_MINUTES_MS - 1, 40 * DAY_MS, -40 * DAY_MS])
async def test_a_clock_that_jumps_is_not_believed_until_both_agree(clocks: Clocks, apart_ms: int) -> None:
    await clocks.checked.now_ms()
    clocks.own_ms += apart_ms
    for _ in range(2):
        with pytest.raises(RetryableError, match="apart"):
            await clocks.checked.now_ms()
        assert not clocks.checked.agrees
        assert clocks.are_apart() == 1
    clocks.database_ms += apart_ms
    assert await clocks.checked.now_ms() == clocks.own_ms
    assert clocks.checked.agrees
    assert clocks.are_apart() == 0


@pytest.mark.parametrize("jump_ms", [40 * DAY_MS, -40 * DAY_MS])
async def test_a_jump_while_the_database_is_asked_is_found(clocks: Clocks, jump_ms: int) -> None:
    clocks.jumps = [jump_ms]
    with pytest.raises(RetryableError, match="apart"):
        await clocks.checked.now_ms()


async def test_a_database_that_is_away_says_nothing_of_the_clock(clocks: Clocks) -> None:
    await clocks.checked.now_ms()
    clocks.own_ms += 2_000
    clocks.away = True
    with pytest.raises(RetryableError, match="away"):
        await clocks.checked.now_ms()
    assert clocks.checked.agrees


@pytest.mark.parametrize("ahead_days", [40, -40])
async def test_an_ingestor_waits_for_its_clock_and_then_records_everything(ahead_days: int) -> None:
    """One that was 40 days ahead dead-lettered everything as expired, and committed it."""
    log, store, stop = MemoryEventLog(partitions=2), MemoryRecordStore(), asyncio.Event()
    log.append(
        [EncodedEvent(each, encode_event(event(NOW, id=each)), NOW) for each in map(new_id, [NOW] * 50)]
    )
    clocks = Clocks()
    clocks.own_ms += ahead_days * DAY_MS
    run = asyncio.create_task(an_ingestor(log, store, CONFIG, clock_ms=clocks.checked.now_ms).run(stop))
    while clocks.asked < 5:
        await asyncio.sleep(0.001)
    assert not store.records
    assert not store.dead_letters
    assert not any(log.committed.values())
    clocks.own_ms = NOW
    while len(store.records) < 50:
        await asyncio.sleep(0.001)
    stop.set()
    await run
    assert not store.dead_letters
    assert all(record.clamped_from_ms is None for record in store.records.values())


@pytest.mark.parametrize("is_revoked", [True, False])
async def test_an_ingestor_that_waits_for_its_clock_gives_its_partitions_back_at_once(
    is_revoked: bool,
) -> None:
    """One took fifteen seconds to stop, and ten to a rebalance."""
    log, store, stop = MemoryEventLog(partitions=2), MemoryRecordStore(), asyncio.Event()
    log.append(
        [EncodedEvent(each, encode_event(event(NOW, id=each)), NOW) for each in map(new_id, [NOW] * 50)]
    )
    clocks, an_hour_ms = Clocks(), 3_600_000
    clocks.own_ms += DAY_MS
    config = replace(CONFIG, drain_wait_ms=an_hour_ms, revoke_wait_ms=an_hour_ms)
    waiting = an_ingestor(log, store, config, clock_ms=clocks.checked.now_ms)
    run = asyncio.create_task(waiting.run(stop))
    while clocks.asked < 5:
        await asyncio.sleep(0.001)
    if is_revoked:
        await asyncio.wait_for(waiting.on_revoked(list(log.partitions)), 60)
    stop.set()
    await asyncio.wait_for(run, 60)
    assert not store.records
    assert not any(log.committed.values())

    stop_next = asyncio.Event()
    run_next = asyncio.create_task(an_ingestor(log, store, CONFIG).run(stop_next))
    while len(store.records) < 50:
        await asyncio.sleep(0.001)
    stop_next.set()
    await run_next
