"""`auditap watch` on a real Kafka and a real Postgres: every planted incident is told once, whatever becomes of it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from auditap.database import administrator
from auditap.kafka import publisher_settings
from auditap.settings import KafkaSettings
from redactor.publisher import KafkaPublisher
from tests.audit_database import migrated
from tests.e2e.pipeline import Pipeline, Process, free_port, until
from tests.e2e.watched import PlantedStream, encoded

pytestmark = pytest.mark.timeout(400)
EVENTS = int(os.environ.get("AUDITAP_TEST_WATCHED_EVENTS", "50000"))
CHUNK = 500


@pytest.fixture
async def pipeline(
    tmp_path: Path, database: str, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[Pipeline]:
    held = Pipeline(
        tmp_path, await migrated(database), bootstrap=kafka_bootstrap, topic=topic_prefix, documents=""
    )
    await held.directory.start()
    topics = held.process("topics")
    await topics.start(None)
    assert await topics.wait() == 0, topics.log()
    yield held
    await held.stop()


@pytest.fixture
async def publisher(kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[KafkaPublisher]:
    settings = KafkaSettings(bootstrap_servers=kafka_bootstrap, topic=f"{topic_prefix}events")
    held = KafkaPublisher(publisher_settings(settings))
    await held.start()
    yield held
    await held.stop()


async def started(pipeline: Pipeline, topic_prefix: str, *, is_ready: bool = True) -> Process:
    port = free_port()
    watcher = pipeline.process(
        "watch",
        AUDITAP_POSTGRES__WATCHER_DSN=pipeline.database.watcher_dsn,
        AUDITAP_WATCH__ADDRESS__PORT=str(port),
        AUDITAP_WATCH__GROUP=f"{topic_prefix}watch",
    )
    await watcher.start(port if is_ready else None)
    return watcher


async def watched(pipeline: Pipeline) -> int:
    rows = await pipeline.fetch("SELECT coalesce(sum(next_offset), 0) FROM auditap.watch_positions")
    return int(rows[0][0])


async def raised(pipeline: Pipeline) -> Counter[str]:
    return Counter(row["rule"] for row in await pipeline.fetch("SELECT rule FROM auditap.alerts"))


async def reaches(pipeline: Pipeline, events: int, watcher: Process) -> None:
    async def there() -> bool:
        return await watched(pipeline) >= events

    await until(there, 120, f"{events} events watched", watcher.log)


async def test_every_incident_is_told_once_though_the_watcher_is_killed_twice(
    pipeline: Pipeline, publisher: KafkaPublisher, topic_prefix: str
) -> None:
    stream = PlantedStream(EVENTS, int(time.time() * 1000) - 3_700_000)

    async def publish() -> None:
        for first in range(0, EVENTS, CHUNK):
            await publisher.publish([encoded(one) for one in stream.events[first : first + CHUNK]])

    publishing = asyncio.create_task(publish())
    watcher = await started(pipeline, topic_prefix)
    for share in (0.3, 0.6):
        await reaches(pipeline, int(EVENTS * share), watcher)
        await watcher.stop(signal.SIGKILL)
        watcher = await started(pipeline, topic_prefix)
    await publishing
    await reaches(pipeline, EVENTS, watcher)
    assert await watched(pipeline) == EVENTS
    assert await raised(pipeline) == stream.expected
    assert stream.expected.total() == 40
    counted = await pipeline.fetch("SELECT width_ms, sum(events) FROM auditap.trends GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in counted] == [(600_000, EVENTS), (3_600_000, EVENTS)]
    delivered = await pipeline.fetch("SELECT count(*) FROM auditap.alert_deliveries")
    assert delivered[0][0] == 40
    assert await watcher.stop() == 0


async def test_watchers_that_come_and_go_and_find_no_database_tell_every_incident_once(
    pipeline: Pipeline, publisher: KafkaPublisher, kafka_bootstrap: str, topic_prefix: str
) -> None:
    events = 6_000
    stream = PlantedStream(events, int(time.time() * 1000) - 3_700_000)
    third = events // 3

    async def publish(part: int) -> None:
        part_of = stream.events[part * third : (part + 1) * third]
        for first in range(0, third, CHUNK):
            await publisher.publish([encoded(one) for one in part_of[first : first + CHUNK]])

    # One on its own; then a second one joins while there is work, and the first one leaves.
    first = await started(pipeline, topic_prefix)
    await publish(0)
    await reaches(pipeline, third, first)
    publishing = asyncio.create_task(publish(1))
    second = await started(pipeline, topic_prefix)
    await publishing
    await reaches(pipeline, 2 * third, second)
    assert await first.stop() == 0
    # Its database refuses it, it is killed, and the next one starts all the same.
    async with administrator(pipeline.database.admin_dsn) as connection:
        await connection.execute("REVOKE USAGE ON SCHEMA auditap FROM auditap_watcher")
        await second.stop(signal.SIGKILL)
        last = await started(pipeline, topic_prefix, is_ready=False)
        await nothing_at_all(kafka_bootstrap, f"{topic_prefix}events")
        await publish(2)
        # It goes on asking for longer than what is idle is waited for.
        await until(lambda: asked_often(last), 120, "the database asked often", last.log)
        assert not last.ended
        assert "reading_again" not in last.log_file.read_text()
        assert await watched(pipeline) == 2 * third
        await connection.execute("GRANT USAGE ON SCHEMA auditap TO auditap_watcher")
    await reaches(pipeline, events + 1, last)
    assert await raised(pipeline) == stream.expected
    counted = await pipeline.fetch("SELECT sum(events) FROM auditap.trends WHERE width_ms = 3600000")
    assert counted[0][0] == events
    assert await last.stop() == 0


async def test_a_message_without_a_value_stops_nobody(
    pipeline: Pipeline, publisher: KafkaPublisher, kafka_bootstrap: str, topic_prefix: str
) -> None:
    stream = PlantedStream(500, int(time.time() * 1000) - 3_700_000)
    watcher = await started(pipeline, topic_prefix)
    ingestor = await pipeline.start_ingestor()
    await nothing_at_all(kafka_bootstrap, f"{topic_prefix}events")
    await publisher.publish([encoded(one) for one in stream.events])
    assert await pipeline.until_settled(501) == (500, 1)
    await reaches(pipeline, 501, watcher)
    assert await watcher.metric("auditap_watch_lag_events") <= 501
    assert await raised(pipeline) == stream.expected
    assert not ingestor.ended
    assert not watcher.ended


async def asked_often(watcher: Process) -> bool:
    return '"attempt": 9,' in watcher.log_file.read_text()


async def nothing_at_all(bootstrap: str, topic: str) -> None:
    """Send a message without a value, as who deletes from a compacted topic does."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value=None, key=b"key")
    finally:
        await producer.stop()


async def test_a_watcher_that_stands_still_keeps_no_record_back(
    pipeline: Pipeline, publisher: KafkaPublisher, topic_prefix: str
) -> None:
    events = 2_000
    stream = PlantedStream(events, int(time.time() * 1000) - 3_700_000)
    watcher = await started(pipeline, topic_prefix)
    ingestor = await pipeline.start_ingestor()
    os.kill(watcher.pid, signal.SIGSTOP)
    try:
        await publisher.publish([encoded(one) for one in stream.events])
        assert await pipeline.until_settled(events) == (events, 0)
        assert await ingestor.metric("auditap_records_stored_total") == events
        assert await watched(pipeline) < events
    finally:
        os.kill(watcher.pid, signal.SIGCONT)
    await reaches(pipeline, events, watcher)
    assert await raised(pipeline) == stream.expected
