from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventlog.ports import EventPublisher
from schemas.errors import NotDurable
from schemas.event import EncodedEvent
from tests.event_logs import (
    EmbeddedLogUnderTest,
    KafkaLog,
    LogUnderTest,
    MemoryLog,
    SpooledLog,
    events,
    read_all,
    read_until,
    values,
)


class PublisherContract:
    """What every EventPublisher does; `log` comes from the subclass."""

    async def _stored(self, log: LogUnderTest, count: int) -> list[tuple[int, bytes]]:
        batches = await read_all(log, "check", count)
        return sorted((event.received_ms, event.value) for batch in batches for event in batch.events)

    async def test_published_events_are_read_with_their_time_of_receipt(
        self, log: LogUnderTest, publisher: EventPublisher
    ) -> None:
        sent = events(0, 250)

        await publisher.publish(sent[:1])
        await publisher.publish(sent[1:])

        assert await self._stored(log, 250) == [(event.received_ms, event.value) for event in sent]

    async def test_an_empty_batch_returns(self, log: LogUnderTest, publisher: EventPublisher) -> None:
        await publisher.publish([])
        await publisher.publish(events(0, 1))

        assert len(await self._stored(log, 1)) == 1

    async def test_concurrent_calls_lose_and_duplicate_nothing(
        self, log: LogUnderTest, publisher: EventPublisher
    ) -> None:
        await asyncio.gather(*[publisher.publish(events(number * 7, 7)) for number in range(300)])

        stored = await self._stored(log, 2_100)
        assert [value for _, value in stored] == [event.value for event in events(0, 2_100)]

    async def test_values_may_be_any_bytes(self, log: LogUnderTest, publisher: EventPublisher) -> None:
        hostile = [b"\0", b"\xff\xfe", b"{}", bytes(range(256)) * 12_000, b"x" * 700_000, b"y" * 700_000]
        sent = [EncodedEvent(f"{n:032x}", value, 1_700_000_000_000 + n) for n, value in enumerate(hostile)]

        await publisher.publish(sent)

        assert [value for _, value in await self._stored(log, len(hostile))] == hostile

    async def test_a_cancelled_call_affects_no_other(
        self, log: LogUnderTest, publisher: EventPublisher
    ) -> None:
        leaving = asyncio.create_task(publisher.publish(events(0, 5)))
        staying = asyncio.create_task(publisher.publish(events(5, 5)))
        await asyncio.sleep(0)
        leaving.cancel()
        await staying

        # Those of the cancelled call may be there as well, and come first.
        await read_until(log, "check", {event.value for event in events(5, 5)})

    async def test_it_is_ready_while_it_runs(self, publisher: EventPublisher) -> None:
        assert await publisher.ready()

    async def test_publishing_before_start_is_not_durable(self, log: LogUnderTest) -> None:
        publisher = log.publisher()

        assert not await publisher.ready()
        with pytest.raises(NotDurable):
            await publisher.publish(events(0, 1))

    async def test_stop_waits_for_calls_under_way(self, log: LogUnderTest) -> None:
        publisher = log.publisher()
        await publisher.start()
        under_way = [asyncio.create_task(publisher.publish(events(number, 1))) for number in range(20)]
        await asyncio.sleep(0.005)

        await publisher.stop()

        await asyncio.gather(*under_way)
        assert len(await self._stored(log, 20)) == 20


class TestMemory(PublisherContract):
    @pytest.fixture
    def log(self) -> MemoryLog:
        return MemoryLog()


class TestEmbedded(PublisherContract):
    @pytest.fixture
    def log(self, embedded_log: EmbeddedLogUnderTest) -> EmbeddedLogUnderTest:
        return embedded_log


class TestSpooled(PublisherContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> SpooledLog:
        return SpooledLog(MemoryLog(), tmp_path / "spool")


class TestKafkaWithSpool(PublisherContract):
    @pytest.fixture
    def log(self, kafka: KafkaLog, tmp_path: Path) -> SpooledLog:
        return SpooledLog(kafka, tmp_path / "spool")


class TestKafka(PublisherContract):
    @pytest.fixture
    def log(self, kafka: KafkaLog) -> KafkaLog:
        return kafka

    async def test_batches_are_spread_over_all_partitions(
        self, log: KafkaLog, publisher: EventPublisher
    ) -> None:
        for number in range(60):
            await publisher.publish(events(number, 1))

        batches = await read_all(log, "spread", 60)
        counts = dict.fromkeys(range(3), 0)
        for batch in batches:
            counts[batch.partition.number] += len(values([batch]))
        assert counts == {0: 20, 1: 20, 2: 20}
