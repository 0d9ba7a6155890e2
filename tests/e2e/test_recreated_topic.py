"""The events topic is deleted and made again: neither ingestor nor alerting skips an event that the new topic accepted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eventlog.kafka.client import METADATA_AGE_MS_MAX
from schemas.event import EncodedEvent
from tests.audit_database import AuditDatabase, migrated
from tests.e2e.pipeline import Pipeline, Process, until
from tests.e2e.planted_incidents import ACCOUNTS, encoded, event
from tests.event_logs import KafkaLog, retried
from tests.freezing import frozen
from tests.kafka_readers import commit_late, commits_of, delete_group, delete_topic, recreate_topic

pytestmark = pytest.mark.kafka
_RULES = """
rules:
  - name: deletions
    title: Something was deleted
    severity: low
    when: {action.type: delete}
    key: [resource.id]
"""
_PARTITIONS = 3
_GROUPS = ("ingest", "alerting")
_WITHIN_S = 240


@dataclass
class Readers:
    """An ingestor and an alerting process on one topic, and what was published for them."""

    pipeline: Pipeline
    kafka: KafkaLog
    published: int = 0
    accepted: list[EncodedEvent] = field(default_factory=list)
    """What has to become a record and an alert each."""
    processes: list[Process] = field(default_factory=list)

    async def start(self) -> None:
        rules = self.pipeline.folder / "rules.yaml"
        rules.write_text(_RULES)
        topic = self.kafka.topic
        ingesting, alerting = (f"{topic}.{name}" for name in _GROUPS)
        self.processes = [
            await self.pipeline.start_ingestor(
                AUDITAP_KAFKA__GROUP=ingesting, AUDITAP_KAFKA__DEAD_LETTER_TOPIC=f"{topic}.dead"
            ),
            await self.pipeline.start_alerting(
                AUDITAP_ALERTING__GROUP=alerting, AUDITAP_ALERTING__RULES=str(rules)
            ),
        ]

    async def publish(self, count: int) -> None:
        """Publish events of which each raises an alert."""
        at_ms = int(time.time() * 1000)
        ids = range(self.published, self.published + count)
        self.published += count
        deletions = [event(at_ms, account=ACCOUNTS[0], kind="delete", id=f"r{each}") for each in ids]
        events = [encoded(each) for each in deletions]
        publisher = self.kafka.publisher()
        await retried(publisher.start)
        try:
            # Small batches, so that every partition gets some of them.
            for first in range(0, count, 10):
                await publisher.publish(events[first : first + 10])
        finally:
            await publisher.stop()
        self.accepted += events

    async def have_read_everything(self) -> None:
        """Wait until each of the events is a record and has raised its alert."""
        records = alerts = 0

        async def everything() -> bool:
            nonlocal records, alerts
            assert not any(process.ended for process in self.processes), self._logs()
            records, alerts = await self.pipeline.count("audit_records"), await self.pipeline.count("alerts")
            return records >= len(self.accepted) <= alerts

        await until(
            everything,
            _WITHIN_S,
            f"{len(self.accepted)} of each",
            lambda: f"{records} {alerts} {self._logs()}",
        )
        assert (records, alerts) == (len(self.accepted), len(self.accepted))
        assert await self.pipeline.count("dead_letters") == 0

    def _logs(self) -> str:
        return "\n".join(process.log() for process in self.processes)


@pytest.fixture
async def readers(
    tmp_path: Path, database: str, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[Readers]:
    audit: AuditDatabase = await migrated(database)
    pipeline = Pipeline(tmp_path, audit, bootstrap=kafka_bootstrap, topic=topic_prefix, documents="")
    await pipeline.directory.start()
    kafka = KafkaLog(kafka_bootstrap, topic_prefix)
    await kafka.make_topics(_PARTITIONS)
    yield Readers(pipeline, kafka)
    await pipeline.stop()


async def with_fewer_partitions(readers: Readers) -> None:
    await recreate_topic(readers.kafka, 1)


async def with_more_partitions(readers: Readers) -> None:
    await recreate_topic(readers.kafka, _PARTITIONS + 2)


async def twice_in_a_row(readers: Readers) -> None:
    await recreate_topic(readers.kafka, _PARTITIONS)
    await readers.publish(30)
    await readers.have_read_everything()
    for _ in range(2):
        await recreate_topic(readers.kafka, _PARTITIONS)


async def away_for_a_while(readers: Readers) -> None:
    await delete_topic(readers.kafka)
    # Twice as long as their metadata may be old.
    await asyncio.sleep(2 * METADATA_AGE_MS_MAX / 1000)
    await readers.kafka.make_topics(_PARTITIONS)


CHANGES: list[Callable[[Readers], Awaitable[None]]] = [
    with_fewer_partitions,
    with_more_partitions,
    twice_in_a_row,
    away_for_a_while,
]


@pytest.mark.parametrize("change", CHANGES)
async def test_what_a_topic_that_was_made_again_accepts_is_read(
    readers: Readers, change: Callable[[Readers], Awaitable[None]]
) -> None:
    await readers.start()
    await readers.publish(200)
    await readers.have_read_everything()
    await change(readers)
    # Fewer than the old one had, and then more.
    await readers.publish(50)
    await readers.have_read_everything()
    await readers.publish(400)
    await readers.have_read_everything()


async def test_a_topic_that_outgrew_the_old_one_while_its_readers_were_frozen_is_read(
    readers: Readers,
) -> None:
    """Offsets cannot show that it is another one: those where the readers were exist in it."""
    await readers.start()
    await readers.publish(200)
    await readers.have_read_everything()
    with ExitStack() as freezing:
        for process in readers.processes:
            freezing.enter_context(frozen(process.pid))
        await recreate_topic(readers.kafka, _PARTITIONS)
        await readers.publish(600)
    await readers.have_read_everything()


@pytest.mark.parametrize("groups", ["late", "deleted"])
async def test_a_topic_that_was_made_again_while_nobody_read_is_read(readers: Readers, groups: str) -> None:
    """The broker forgets positions with their topic, but commits may arrive late; or the groups are gone, too."""
    await readers.start()
    await readers.publish(200)
    await readers.have_read_everything()
    for process in readers.processes:
        assert await process.stop() == 0
    stale = {group: await commits_of(readers.kafka, group) for group in _GROUPS}
    await recreate_topic(readers.kafka, _PARTITIONS)
    await readers.publish(600)
    for group, commits in stale.items():
        await commit_late(readers.kafka, group, commits)
        if groups == "deleted":
            await delete_group(readers.kafka, group)
    await readers.start()
    await readers.have_read_everything()


async def test_a_group_that_is_deleted_while_its_topic_stays_repeats_no_record_and_no_alert(
    readers: Readers,
) -> None:
    await readers.start()
    await readers.publish(200)
    await readers.have_read_everything()
    for process in readers.processes:
        assert await process.stop() == 0
    for group in _GROUPS:
        await delete_group(readers.kafka, group)
    await readers.start()
    await readers.publish(50)
    await readers.have_read_everything()
