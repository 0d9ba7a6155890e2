from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from eventlog.ports import EventPublisher, EventSource, Partition
from tests.event_logs import (
    Assignments,
    EmbeddedLogUnderTest,
    KafkaLog,
    LogUnderTest,
    MemoryLog,
    ends,
    events,
    read,
    read_all,
    values,
)


class SourceContract:
    """What every EventSource does; `log` comes from the subclass."""

    @pytest.fixture
    def assignments(self) -> Assignments:
        return Assignments()

    @pytest.fixture
    async def source(
        self, log: LogUnderTest, publisher: EventPublisher, assignments: Assignments
    ) -> AsyncIterator[EventSource]:
        # After the publisher, which opens what both need.
        source = log.source("readers", assignments)
        await source.start()
        yield source
        await source.stop()

    async def test_a_new_group_reads_from_the_oldest_event(
        self, log: LogUnderTest, publisher: EventPublisher
    ) -> None:
        await publisher.publish(events(0, 40))
        batches = await read_all(log, "late", 40)

        assert sorted(values(batches)) == sorted(event.value for event in events(0, 40))

    async def test_each_partition_comes_in_order_without_duplicates(
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

    async def test_a_fetch_returns_at_most_events_max(
        self, publisher: EventPublisher, source: EventSource
    ) -> None:
        await publisher.publish(events(0, 100))

        seen = 0
        async with asyncio.timeout(120):
            while seen < 100:
                batches = await source.fetch(7)
                assert len(values(batches)) <= 7
                assert all(batch.events for batch in batches)
                seen += len(values(batches))

    async def test_fetching_zero_events_returns_none(
        self, publisher: EventPublisher, source: EventSource
    ) -> None:
        await publisher.publish(events(0, 20))
        for _ in range(50):
            assert not await source.fetch(0)

        assert sorted(values(await read(source, 20))) == sorted(event.value for event in events(0, 20))

    async def test_an_event_published_while_a_fetch_waits_is_returned(
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

    async def test_the_next_reader_starts_at_the_committed_position(
        self, log: LogUnderTest, publisher: EventPublisher
    ) -> None:
        await publisher.publish(events(0, 30))
        first = log.source("readers", Assignments())
        await first.start()
        await first.commit(ends(await read(first, 30)))
        await publisher.publish(events(30, 10))
        await read(first, 10)
        await first.stop()

        batches = await read_all(log, "readers", 10)

        assert sorted(values(batches)) == sorted(event.value for event in events(30, 10))

    async def test_groups_are_independent(
        self, log: LogUnderTest, publisher: EventPublisher, source: EventSource
    ) -> None:
        await publisher.publish(events(0, 10))
        await source.commit(ends(await read(source, 10)))
        assert len(values(await read_all(log, "others", 10))) == 10

    async def test_positions_of_unassigned_partitions_are_ignored(
        self, log: LogUnderTest, publisher: EventPublisher, source: EventSource, assignments: Assignments
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

    async def test_the_listener_is_called_before_the_first_events(
        self, publisher: EventPublisher, source: EventSource, assignments: Assignments
    ) -> None:
        await publisher.publish(events(0, 10))

        for batch in await read(source, 10):
            assert assignments.generations[-1][batch.partition] == batch.generation
        assert assignments.revoked == []

    async def test_an_empty_commit_is_accepted(self, source: EventSource) -> None:
        await source.commit({})


class TestMemory(SourceContract):
    @pytest.fixture
    def log(self) -> MemoryLog:
        return MemoryLog()


class TestEmbedded(SourceContract):
    @pytest.fixture
    def log(self, embedded_log: EmbeddedLogUnderTest) -> EmbeddedLogUnderTest:
        return embedded_log


class TestKafka(SourceContract):
    @pytest.fixture
    def log(self, kafka: KafkaLog) -> KafkaLog:
        return kafka
