"""Readers of a Kafka topic that store and commit as the ingestor does, and what tests do to the topic meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from aiokafka.errors import NoError, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest

from eventlog.kafka.source import KafkaSource
from eventlog.ports import Batch, EventSource, Partition
from schemas.errors import RetryableError
from tests.event_logs import Assignments, KafkaLog, ends, events, read, retried, values


class Reader(Assignments):
    """Reads, stores and commits until it is stopped, as the ingestor does: what is retryable is tried again."""

    def __init__(self, kafka: KafkaLog, **settings: Any) -> None:
        super().__init__()
        usual = kafka.source("readers", self)._settings
        self.source: EventSource = KafkaSource(replace(usual, **settings), self)
        self.batches: list[Batch] = []
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def values(self) -> list[bytes]:
        return values(self.batches)

    async def start(self) -> None:
        await retried(self.source.start)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        assert self._task is not None
        self._stop.set()
        await self._task
        await self.source.stop()

    async def on_revoked(self, partitions: Sequence[Partition]) -> None:
        await super().on_revoked(partitions)
        await self._commit()

    async def _run(self) -> None:
        while not self._stop.is_set():
            batches: Sequence[Batch] = ()
            with suppress(RetryableError):
                batches = await self.source.fetch(50)
            assert all(batch.generation == self.generations[-1].get(batch.partition) for batch in batches), (
                "events of an assignment that is over"
            )
            self.batches += batches
        await retried(self._commit)

    async def _commit(self) -> None:
        if not self.generations:  # Stopped before the group assigned it anything.
            return
        latest = self.generations[-1]
        mine = [batch for batch in self.batches if latest.get(batch.partition) == batch.generation]
        await self.source.commit(ends(mine))


async def publish(kafka: KafkaLog, first: int, count: int) -> None:
    publisher = kafka.publisher()
    await retried(publisher.start)
    try:
        for start in range(first, first + count, 20):
            await retried(partial(publisher.publish, events(start, 20)))
    finally:
        await publisher.stop()


async def read_and_commit(
    kafka: KafkaLog, count: int, position_of: Callable[[Batch], int], events_max: int = 1_000
) -> tuple[list[Batch], dict[Partition, int]]:
    """Read `count` events, and commit for each partition the position of its batch; return the batches and positions."""
    reader = kafka.source("readers", Assignments())
    await reader.start()
    batches = await read(reader, count, events_max)
    positions = {batch.partition: position_of(batch) for batch in batches}
    await reader.commit(positions)
    await reader.stop()
    return batches, positions


async def until(true: object) -> None:
    assert callable(true)
    async with asyncio.timeout(120):
        while not true():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def administered(kafka: KafkaLog) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def delete_before(kafka: KafkaLog, ends: Mapping[Partition, int]) -> None:
    """Delete the events before these offsets, as a limit on the topic's size does."""
    async with administered(kafka) as admin:
        await admin.delete_records(
            {
                TopicPartition(partition.log, partition.number): RecordsToDelete(before_offset=end)
                for partition, end in ends.items()
            }
        )


async def delete_topic(kafka: KafkaLog) -> None:
    """Delete the topic, and return once the broker has forgotten it."""
    async with administered(kafka) as admin:
        await admin.delete_topics([kafka.topic])
        async with asyncio.timeout(120):
            while kafka.topic in await admin.list_topics():
                await asyncio.sleep(0.02)


async def recreate_topic(kafka: KafkaLog, partitions: int) -> None:
    """Delete the topic, and make another one under its name."""
    await delete_topic(kafka)
    await kafka.make_topics(partitions)


async def add_partitions(kafka: KafkaLog, total: int) -> None:
    async with administered(kafka) as admin:
        await admin.create_partitions({kafka.topic: NewPartitions(total)})


async def commits_of(kafka: KafkaLog, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
    """Return what a group has committed."""
    async with administered(kafka) as admin:
        found: Mapping[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(
            f"{kafka.topic}.{group}"
        )
        return found


async def delete_group(kafka: KafkaLog, group: str) -> None:
    """Delete a group with all that it has committed, once its last member has left."""
    async with administered(kafka) as admin, asyncio.timeout(120):
        while True:
            response = await admin._send_request(DeleteGroupsRequest([f"{kafka.topic}.{group}"]))
            [(_, error_code)] = response.results
            if for_code(error_code) is NoError:
                return
            await asyncio.sleep(0.05)


async def commit_late(
    kafka: KafkaLog, group: str, commits: Mapping[TopicPartition, OffsetAndMetadata]
) -> None:
    """Commit for a group without members, as one whose last commit arrives late does."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, group_id=f"{kafka.topic}.{group}", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign(list(commits))
        await consumer.commit(dict(commits))
    finally:
        await consumer.stop()
