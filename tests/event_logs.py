"""The logs that the contract suites run against, and how tests read from them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Protocol

from eventlog.embedded.log import EmbeddedLog, EmbeddedLogSettings
from eventlog.embedded.publisher import EmbeddedPublisher
from eventlog.embedded.source import EmbeddedSource
from eventlog.kafka.client import KafkaConnection
from eventlog.kafka.publisher import KafkaPublisher, KafkaPublisherSettings
from eventlog.kafka.source import KafkaSource, KafkaSourceSettings
from eventlog.kafka.topics import TopicSettings, ensure_topics
from eventlog.ports import Batch, EventPublisher, EventSource, Partition, RevokeListener
from eventlog.spool.config import SpoolBounds
from eventlog.spool.publisher import SpoolingPublisher
from schemas.errors import RetryableError
from schemas.event import EncodedEvent
from schemas.metric_defs import Metrics
from tests.fakes.event_log import MemoryEventLog, MemoryPublisher, MemorySource

_WAIT_SECONDS_MAX = 120


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


class EmbeddedLogUnderTest:
    def __init__(self, folder: Path) -> None:
        settings = EmbeddedLogSettings(folder / "events.db", append_deadline_ms=60_000, lock_wait_ms=60_000)
        self.log = EmbeddedLog(settings)

    def publisher(self) -> EmbeddedPublisher:
        return EmbeddedPublisher(self.log)

    def source(self, group: str, listener: RevokeListener) -> EmbeddedSource:
        return EmbeddedSource(self.log, group, listener)


class KafkaLog:
    """Topics of its own on a running broker.

    Waits are long, because a busy broker is slow; `answers_at_once` makes those short that a test spends on a broker that
    it has hurt.
    """

    def __init__(self, bootstrap: str, prefix: str, *, answers_at_once: bool = False) -> None:
        self.bootstrap = bootstrap
        self.topic = prefix + "events"
        self._wait_ms = 2_000 if answers_at_once else 30_000

    async def make_topics(self, partitions: int = 3, **settings: Any) -> None:
        """Create the topics, which keep events of any age: within minutes Kafka deletes what is older than the retention."""
        await ensure_topics(
            TopicSettings(
                KafkaConnection(self.bootstrap),
                self.topic,
                f"{self.topic}.dead",
                partitions=partitions,
                replication_factor=1,
                min_insync_replicas=1,
                retention_ms=-1,
                dead_letters_retention_ms=-1,
                request_timeout_ms=60_000,
                **settings,
            )
        )

    def publisher(self, publish_deadline_ms: int = 60_000) -> KafkaPublisher:
        return KafkaPublisher(
            KafkaPublisherSettings(
                KafkaConnection(self.bootstrap),
                self.topic,
                publish_deadline_ms=publish_deadline_ms,
                reconnect_wait_ms=50,
                request_timeout_ms=self._wait_ms,
                ready_wait_ms=self._wait_ms,
                stop_wait_ms=self._wait_ms,
            )
        )

    def source(self, group: str, listener: RevokeListener) -> KafkaSource:
        return KafkaSource(
            KafkaSourceSettings(
                KafkaConnection(self.bootstrap),
                self.topic,
                f"{self.topic}.{group}",
                session_timeout_ms=60_000,
                heartbeat_interval_ms=100,
                revoke_wait_ms=60_000,
                rebalance_timeout_ms=120_000,
                request_timeout_ms=max(5_000, self._wait_ms),
                commit_wait_ms=self._wait_ms,
                stop_wait_ms=self._wait_ms,
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
    """A RevokeListener that records its calls."""

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


async def retried(step: Callable[[], Awaitable[None]]) -> None:
    """Do what the processes do with what is retryable: try it again."""
    async with asyncio.timeout(_WAIT_SECONDS_MAX):
        while True:
            with contextlib.suppress(RetryableError):
                return await step()
            await asyncio.sleep(0.05)


async def read(source: EventSource, count: int, events_max: int = 1_000) -> list[Batch]:
    """Fetch until `count` events have come."""
    batches: list[Batch] = []
    async with asyncio.timeout(_WAIT_SECONDS_MAX):
        while len(values(batches)) < count:
            batches += await source.fetch(events_max)
    return batches


async def read_all(log: LogUnderTest, group: str, count: int) -> list[Batch]:
    """Join `group` alone, fetch until `count` events have come, and leave without committing."""
    source = log.source(group, Assignments())
    await source.start()
    try:
        return await read(source, count)
    finally:
        await source.stop()


async def read_until(log: LogUnderTest, group: str, wanted: AbstractSet[bytes]) -> set[bytes]:
    """Join `group` alone, fetch until all values `wanted` have come, and leave without committing; return what came."""
    source = log.source(group, Assignments())
    await retried(source.start)
    found: set[bytes] = set()
    try:
        async with asyncio.timeout(_WAIT_SECONDS_MAX):
            while not wanted <= found:
                # A broker that has just come back may cost the source its consumer.
                with contextlib.suppress(RetryableError):
                    found |= set(values(await source.fetch(1_000)))
    finally:
        await source.stop()
    return found


def ends(batches: Sequence[Batch]) -> dict[Partition, int]:
    """The positions after the batches."""
    return {batch.partition: batch.events[-1].offset + 1 for batch in batches}
