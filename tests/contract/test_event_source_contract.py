from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingestor.ports import EventSource, Partition
from redactor.ports import EventPublisher
from tests.event_logs import (
    Assignments,
    EmbeddedLog,
    KafkaLog,
    LogUnderTest,
    MemoryLog,
    ends,
    events,
    read,
    values,
)


class SourceContract:
    """What every EventSource does; `log` comes from the subclass."""

    @pytest.fixture
    async def publisher(self, log: LogUnderTest) -> AsyncIterator[EventPublisher]:
        publisher = log.publisher()
        await publisher.start()
        yield publisher
        await publisher.stop()

    @pytest.fixture
    def told(self) -> Assignments:
        return Assignments()

    @pytest.fixture
    async def source(
        self, log: LogUnderTest, publisher: EventPublisher, told: Assignments
    ) -> AsyncIterator[EventSource]:
        # After the publisher, which opens what both need.
        source = log.source("readers", told)
        await source.start()
        yield source
        await source.stop()

    async def test_a_new_group_reads_from_the_oldest_event(
        self, log: LogUnderTest, publisher: EventPublisher
    ) -> None:
        await publisher.publish(events(0, 40))
        source = log.source("late", Assignments())
        await source.start()
        try:
            batches = await read(source, 40)
        finally:
            await source.stop()

        assert sorted(values(batches)) == sorted(event.value for event in events(0, 40))

    async def test_each_partition_comes_in_order_and_each_event_once(
        self, publisher: EventPublisher, source: EventSource
    ) -> None:
        for first in range(0, 900, 30):
            await publisher.publish(events(first, 30))

        batches = await read(source, 900, events_max=70)

        offsets: dict[tuple[Partition, int], list[int]] = defaultdict(list)
        for batch in batches:
            offsets[batch.partition, batch.generation] += [event.offset for event in batch.events]
        assert all(found == list(range(found[0], found[0] + len(found))) for found in offsets.values())
        assert len(set(values(batches))) == len(values(batches)) == 900
        assert await source.fetch(10) == [] or await source.fetch(10) == ()

    async def test_no_fetch_brings_more_than_was_asked_for(
        self, publisher: EventPublisher, source: EventSource
    ) -> None:
        await publisher.publish(events(0, 100))

        seen = 0
        async with asyncio.timeout(30):
            while seen < 100:
                batches = await source.fetch(7)
                assert len(values(batches)) <= 7
                assert all(batch.events for batch in batches)
                seen += len(values(batches))

    async def test_fetching_nothing_takes_nothing(
        self, publisher: EventPublisher, source: EventSource
    ) -> None:
        await publisher.publish(events(0, 20))
        for _ in range(50):
            assert not await source.fetch(0)

        assert sorted(values(await read(source, 20))) == sorted(event.value for event in events(0, 20))

    async def test_an_event_published_while_a_fetch_waits_is_seen(
        self, publisher: EventPublisher, source: EventSource
    ) -> None:
        assert not await source.fetch(10)
        reading = asyncio.create_task(read(source, 1))
        await asyncio.sleep(0.05)
        await publisher.publish(events(0, 1))

        assert values(await reading) == [event.value for event in events(0, 1)]

    async def test_the_time_of_receipt_travels_with_the_event(
        self, publisher: EventPublisher, source: EventSource
    ) -> None:
        sent = events(0, 5, received_ms=1_650_000_000_123)
        await publisher.publish(sent)

        batches = await read(source, 5)

        found = {event.value: event.received_ms for batch in batches for event in batch.events}
        assert found == {event.value: event.received_ms for event in sent}

    async def test_the_next_reader_starts_where_was_committed(
        self, log: LogUnderTest, publisher: EventPublisher
    ) -> None:
        await publisher.publish(events(0, 30))
        first = log.source("readers", Assignments())
        await first.start()
        await first.commit(ends(await read(first, 30)))
        await publisher.publish(events(30, 10))
        await read(first, 10)
        await first.stop()

        second = log.source("readers", Assignments())
        await second.start()
        try:
            batches = await read(second, 10)
        finally:
            await second.stop()

        assert sorted(values(batches)) == sorted(event.value for event in events(30, 10))

    async def test_groups_do_not_know_one_another(
        self, log: LogUnderTest, publisher: EventPublisher, source: EventSource
    ) -> None:
        await publisher.publish(events(0, 10))
        await source.commit(ends(await read(source, 10)))
        other = log.source("others", Assignments())
        await other.start()
        try:
            assert len(values(await read(other, 10))) == 10
        finally:
            await other.stop()

    async def test_positions_of_strange_partitions_are_passed_over(
        self, log: LogUnderTest, publisher: EventPublisher, source: EventSource, told: Assignments
    ) -> None:
        await publisher.publish(events(0, 10))
        mine = ends(await read(source, 10))

        await source.commit({**mine, Partition("elsewhere", 0): 5, Partition(next(iter(mine)).log, 999): 5})
        await source.stop()

        again = log.source("readers", Assignments())
        await again.start()
        try:
            await publisher.publish(events(10, 1))
            assert values(await read(again, 1)) == [event.value for event in events(10, 1)]
        finally:
            await again.stop()

    async def test_the_assignment_is_told_before_its_events_come(
        self, publisher: EventPublisher, source: EventSource, told: Assignments
    ) -> None:
        await publisher.publish(events(0, 10))

        for batch in await read(source, 10):
            assert told.generations[-1][batch.partition] == batch.generation
        assert told.revoked == []

    async def test_commits_of_nothing_are_taken(self, source: EventSource) -> None:
        await source.commit({})


class TestMemory(SourceContract):
    @pytest.fixture
    def log(self) -> MemoryLog:
        return MemoryLog()


class TestEmbedded(SourceContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[EmbeddedLog]:
        embedded = EmbeddedLog(tmp_path)
        yield embedded
        await embedded.log.close()


class TestKafka(SourceContract):
    @pytest.fixture
    async def log(self, kafka_bootstrap: str, topic_prefix: str) -> KafkaLog:
        kafka = KafkaLog(kafka_bootstrap, topic_prefix)
        await kafka.make_topics()
        return kafka
