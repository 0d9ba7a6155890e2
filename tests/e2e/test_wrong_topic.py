"""An ingestor on a topic of foreign messages halts: not ready, nothing lost, nothing committed past what it dead-lettered."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from tests.e2e.golden import golden_capture
from tests.e2e.pipeline import Pipeline, Process, until

FOREIGN, BATCH, CAPTURES = 3_000, 200, 50
pytestmark = pytest.mark.kafka


@pytest.fixture
async def pipeline(kafka_pipeline: Pipeline) -> Pipeline:
    await kafka_pipeline.start(ingestors=0)
    return kafka_pipeline


async def publish_foreign(bootstrap: str, topic: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for number in range(FOREIGN):
            await producer.send(topic, b'{"level": "info", "message": "request %d"}' % number)
        await producer.flush()
    finally:
        await producer.stop()


async def committed(bootstrap: str, group: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(group)
        return sum(max(0, found.offset) for found in offsets.values())
    finally:
        await admin.close()


async def readiness(ingestor: Process) -> tuple[int, Any, str]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ingestor.port}", timeout=120) as client:
        ready = await client.get("/readyz")
        return ready.status_code, ready.json()["parts"], (await client.get("/metrics")).text


async def test_a_wrong_topic_halts_the_ingestor(
    pipeline: Pipeline, kafka_bootstrap: str, topic_prefix: str
) -> None:
    small = {"AUDITAP_INGEST__BOUNDS__BATCH_EVENTS_MAX": str(BATCH)}
    ingestor = await pipeline.start_ingestor(**small)
    await publish_foreign(kafka_bootstrap, f"{topic_prefix}events")

    async def halted() -> bool:
        # The others may be missing for a moment, where the database has no time.
        status, parts, _ = await readiness(ingestor)
        return status == 503 and parts == {"store": True, "clock": True, "events": False}

    await until(halted, 120, "halted", ingestor.log)
    _, _, metrics = await readiness(ingestor)
    assert "auditap_ingest_halted 1.0" in metrics
    assert ingestor.output().count("ingest_halted") == 1

    async def dead_lettered() -> bool:
        return await pipeline.count("dead_letters") >= 1_000

    # Those that exceeded the limit are written, and no others.
    await until(dead_lettered, 120, "dead-lettered", ingestor.log)
    assert await pipeline.count("dead_letters") < 1_000 + BATCH
    # The collector's reports are on the topic too, and are committed like events.
    reports = await ingestor.metric("auditap_reports_consumed_total")
    await ingestor.stop()
    assert await committed(kafka_bootstrap, f"{topic_prefix}group") < 1_000 + reports

    # An operator who wants them all dead-lettered says so, and what follows them becomes records.
    now_ms = time.time_ns() // 1_000_000
    assert await pipeline.send([golden_capture(now_ms - each) for each in range(CAPTURES)]) == (CAPTURES, [])
    await pipeline.start_ingestor(AUDITAP_INGEST__BOUNDS__MALFORMED_SHARE_MAX="1", **small)
    assert await pipeline.until_processed(FOREIGN + CAPTURES) == (CAPTURES, FOREIGN)
