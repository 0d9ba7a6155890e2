"""The logs that the contract suites run against, and how tests read from them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ingestor.embedded_source import EmbeddedSource
from ingestor.kafka_source import KafkaSource, KafkaSourceSettings
from ingestor.ports import Batch, EventSource, Partition, RevokeListener
from redactor.config import SpoolBounds
from redactor.embedded_publisher import EmbeddedPublisher
from redactor.event_log import EventLog, EventLogSettings
from redactor.ports import EventPublisher
from redactor.publisher import KafkaPublisher, KafkaSettings
from redactor.spool import SpoolingPublisher
from redactor.topics import TopicSettings, ensure_topics
from schemas.event import EncodedEvent
from schemas.metric_defs import Metrics
from tests.fakes.event_log import MemoryEventLog, MemoryPublisher, MemorySource

_WAIT_SECONDS_MAX = 30


class LogUnderTest(Protocol):
    """One log, to which any number of publishers and readers can be made."""

    def publisher(self) -> EventPublisher: ...

    def source(self, group: str, listener: RevokeListener) -> EventSource: ...


class MemoryLog:
    def __init__(self) -> None:
        self._log = MemoryEventLog()

    def publisher(self) -> MemoryPublisher:
        return MemoryPublisher(self._log)

    def source(self, group: str, listener: RevokeListener) -> MemorySource:
        return MemorySource(self._log, group, listener)


class EmbeddedLog:
    def __init__(self, folder: Path) -> None:
        self.log = EventLog(EventLogSettings(folder / "events.db"))

    def publisher(self) -> EmbeddedPublisher:
        return EmbeddedPublisher(self.log)

    def source(self, group: str, listener: RevokeListener) -> EmbeddedSource:
        return EmbeddedSource(self.log, group, listener)


class KafkaLog:
    """Topics of its own on a running broker, with clocks fit for tests."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.bootstrap = bootstrap
        self.topic = prefix + "events"

    async def make_topics(self, partitions: int = 3) -> None:
        settings = TopicSettings(
            self.bootstrap,
            self.topic,
            f"{self.topic}.dead",
            partitions=partitions,
            replication_factor=1,
            min_insync_replicas=1,
        )
        await ensure_topics(settings)

    def publisher(self, publish_deadline_ms: int = 10_000) -> KafkaPublisher:
        return KafkaPublisher(
            KafkaSettings(
                self.bootstrap,
                self.topic,
                publish_deadline_ms=publish_deadline_ms,
                reconnect_wait_ms=50,
                request_timeout_ms=2_000,
                stop_wait_ms=2_000,
            )
        )

    def source(self, group: str, listener: RevokeListener) -> KafkaSource:
        return KafkaSource(
            KafkaSourceSettings(
                self.bootstrap,
                self.topic,
                f"{self.topic}.{group}",
                session_timeout_ms=6_000,
                heartbeat_interval_ms=100,
                request_timeout_ms=5_000,
                commit_wait_ms=2_000,
                stop_wait_ms=2_000,
            ),
            listener,
        )


class SpooledLog:
    """A log with a spool in front of it."""

    def __init__(self, log: LogUnderTest, folder: Path) -> None:
        self._log = log
        self._folder = folder

    def publisher(self) -> SpoolingPublisher:
        return SpoolingPublisher(self._log.publisher(), self._folder, SpoolBounds(), Metrics())

    def source(self, group: str, listener: RevokeListener) -> EventSource:
        return self._log.source(group, listener)


class Assignments:
    """A RevokeListener that notes what it is told."""

    def __init__(self) -> None:
        self.generations: list[dict[Partition, int]] = []
        self.revoked: list[list[Partition]] = []

    async def on_assigned(self, generations: Mapping[Partition, int]) -> None:
        self.generations.append(dict(generations))

    async def on_revoked(self, partitions: Sequence[Partition]) -> None:
        self.revoked.append(list(partitions))


def events(first: int, count: int, received_ms: int = 1_700_000_000_000) -> list[EncodedEvent]:
    """Events whose values are their numbers."""
    return [
        EncodedEvent(f"{number:032x}", f'{{"number":{number}}}'.encode(), received_ms + number)
        for number in range(first, first + count)
    ]


def values(batches: Sequence[Batch]) -> list[bytes]:
    return [event.value for batch in batches for event in batch.events]


async def read(source: EventSource, count: int, events_max: int = 1_000) -> list[Batch]:
    """Fetch until `count` events have come."""
    batches: list[Batch] = []
    async with asyncio.timeout(_WAIT_SECONDS_MAX):
        while len(values(batches)) < count:
            batches += await source.fetch(events_max)
    return batches


def ends(batches: Sequence[Batch]) -> dict[Partition, int]:
    """The positions after the batches."""
    return {batch.partition: batch.events[-1].offset + 1 for batch in batches}
