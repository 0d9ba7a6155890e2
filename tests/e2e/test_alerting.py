"""`auditap alerting` on a real Kafka and Postgres: every planted incident raises one alert, through crashes and outages."""

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

from auditap.database.connection import administrator
from auditap.runtime.kafka import publisher_settings
from auditap.settings import KafkaSettings
from eventlog.kafka.publisher import KafkaPublisher
from tests.audit_database import migrated
from tests.e2e.pipeline import Pipeline, Process, until
from tests.e2e.planted_incidents import PlantedStream, encoded
from tests.freezing import frozen

EVENTS = int(os.environ.get("AUDITAP_TEST_ALERTING_EVENTS", "50000"))
CHUNK = 500


@pytest.fixture
async def pipeline(
    tmp_path: Path, database: str, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[Pipeline]:
    held = Pipeline(
        tmp_path, await migrated(database), bootstrap=kafka_bootstrap, topic=topic_prefix, documents=""
    )
    await held.directory.start()
    await held.run_command("topics")
    yield held
    await held.stop()


@pytest.fixture
async def publisher(kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[KafkaPublisher]:
    settings = KafkaSettings(
        bootstrap_servers=kafka_bootstrap, topic=f"{topic_prefix}events", publish_deadline_ms=120_000
    )
    held = KafkaPublisher(publisher_settings(settings))
    await held.start()
    yield held
    await held.stop()


async def evaluated(pipeline: Pipeline) -> int:
    rows = await pipeline.fetch("SELECT coalesce(sum(next_offset), 0) FROM auditap.alert_positions")
    return int(rows[0][0])


async def raised(pipeline: Pipeline) -> Counter[str]:
    return Counter(row["rule"] for row in await pipeline.fetch("SELECT rule FROM auditap.alerts"))


async def reaches(pipeline: Pipeline, events: int, alerting: Process) -> None:
    async def there() -> bool:
        return await evaluated(pipeline) >= events

    await until(there, 240, f"{events} events evaluated", alerting.log)


async def test_every_incident_raises_once_although_alerting_is_killed_twice(
    pipeline: Pipeline, publisher: KafkaPublisher, topic_prefix: str
) -> None:
    stream = PlantedStream(EVENTS, int(time.time() * 1000) - 3_700_000)

    async def publish() -> None:
        for first in range(0, EVENTS, CHUNK):
            await publisher.publish([encoded(one) for one in stream.events[first : first + CHUNK]])

    publishing = asyncio.create_task(publish())
    alerting = await pipeline.start_alerting()
    for share in (0.3, 0.6):
        await reaches(pipeline, int(EVENTS * share), alerting)
        await alerting.stop(signal.SIGKILL)
        alerting = await pipeline.start_alerting()
    await publishing
    await reaches(pipeline, EVENTS, alerting)
    assert await evaluated(pipeline) == EVENTS
    assert await raised(pipeline) == stream.expected
    assert stream.expected.total() == 40
    counted = await pipeline.fetch("SELECT width_ms, sum(events) FROM auditap.trends GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in counted] == [(600_000, EVENTS), (3_600_000, EVENTS)]
    delivered = await pipeline.fetch("SELECT count(*) FROM auditap.alert_deliveries")
    assert delivered[0][0] == 40
    assert await alerting.stop() == 0


async def test_rebalances_and_a_refused_database_raise_every_incident_once(
    pipeline: Pipeline, publisher: KafkaPublisher, kafka_bootstrap: str, topic_prefix: str
) -> None:
    events = 6_000
    stream = PlantedStream(events, int(time.time() * 1000) - 3_700_000)
    third = events // 3

    async def publish(part: int) -> None:
        part_of = stream.events[part * third : (part + 1) * third]
        for first in range(0, third, CHUNK):
            await publisher.publish([encoded(one) for one in part_of[first : first + CHUNK]])

    # One on its own; then a second one joins while there is work, and the first one ends.
    first = await pipeline.start_alerting()
    await publish(0)
    await reaches(pipeline, third, first)
    publishing = asyncio.create_task(publish(1))
    second = await pipeline.start_alerting()
    await publishing
    await reaches(pipeline, 2 * third, second)
    assert await first.stop() == 0
    # Its database refuses it, it is killed, and the next one starts all the same.
    async with administrator(pipeline.database.admin_dsn) as connection:
        await connection.execute("REVOKE USAGE ON SCHEMA auditap FROM auditap_alerting")
        await second.stop(signal.SIGKILL)
        last = await pipeline.start_alerting(wait=False)
        await send_no_value(kafka_bootstrap, f"{topic_prefix}events")
        await publish(2)
        # It retries for longer than the time after which an idle consumer rewinds.
        await until(lambda: retried_often(last), 240, "the database tried often", last.log)
        assert not last.ended
        assert "reading_again" not in last.output()
        assert await evaluated(pipeline) == 2 * third
        await connection.execute("GRANT USAGE ON SCHEMA auditap TO auditap_alerting")
    await reaches(pipeline, events + 1, last)
    assert await raised(pipeline) == stream.expected
    counted = await pipeline.fetch("SELECT sum(events) FROM auditap.trends WHERE width_ms = 3600000")
    assert counted[0][0] == events
    assert await last.stop() == 0


async def test_a_message_without_a_value_is_skipped(
    pipeline: Pipeline, publisher: KafkaPublisher, kafka_bootstrap: str, topic_prefix: str
) -> None:
    stream = PlantedStream(500, int(time.time() * 1000) - 3_700_000)
    alerting = await pipeline.start_alerting()
    ingestor = await pipeline.start_ingestor()
    await send_no_value(kafka_bootstrap, f"{topic_prefix}events")
    await publisher.publish([encoded(one) for one in stream.events])
    assert await pipeline.until_processed(501) == (500, 1)
    await reaches(pipeline, 501, alerting)
    assert await alerting.metric("auditap_alerting_lag_events") <= 501
    assert await raised(pipeline) == stream.expected
    assert not ingestor.ended
    assert not alerting.ended


async def retried_often(alerting: Process) -> bool:
    return '"attempt": 9,' in alerting.output()


async def send_no_value(bootstrap: str, topic: str) -> None:
    """Send a message without a value, as for a deletion on a compacted topic."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value=None, key=b"key")
    finally:
        await producer.stop()


async def test_frozen_alerting_delays_no_record(
    pipeline: Pipeline, publisher: KafkaPublisher, topic_prefix: str
) -> None:
    events = 2_000
    stream = PlantedStream(events, int(time.time() * 1000) - 3_700_000)
    alerting = await pipeline.start_alerting()
    ingestor = await pipeline.start_ingestor()
    with frozen(alerting.pid):
        await publisher.publish([encoded(one) for one in stream.events])
        assert await pipeline.until_processed(events) == (events, 0)

        async def counted() -> bool:
            return await ingestor.metric("auditap_records_stored_total") == events

        # Records are counted some time after they are stored.
        await until(counted, 120, "every record counted once", ingestor.log)
        assert await evaluated(pipeline) < events
    await reaches(pipeline, events, alerting)
    assert await raised(pipeline) == stream.expected
