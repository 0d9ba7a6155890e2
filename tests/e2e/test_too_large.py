"""An event that the topic does not take whole stops no other, is dead-lettered, and becomes a record without its bodies."""

from __future__ import annotations

import base64
import json
import random
import time
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from schemas.contracts import validator
from tests.e2e.golden import golden_capture
from tests.e2e.pipeline import Pipeline

COUNT = 300
LARGE_AT = 150
TOPIC_BYTES_MAX = 60_000


@pytest.fixture
async def pipeline(kafka_pipeline: Pipeline) -> Pipeline:
    await kafka_pipeline.start()
    return kafka_pipeline


async def narrow(bootstrap: str, topic: str) -> None:
    """Let a topic take less than the settings know of."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        limit = {"max.message.bytes": str(TOPIC_BYTES_MAX)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=limit)])
    finally:
        await admin.close()


async def on_the_topic(bootstrap: str, topic: str) -> dict[str, Any]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        dead_letter: dict[str, Any] = json.loads((await consumer.getone()).value)
        return dead_letter
    finally:
        await consumer.stop()


def captures() -> list[dict[str, Any]]:
    now_ms = time.time_ns() // 1_000_000
    made = [golden_capture(now_ms - number) for number in range(COUNT)]
    noise = base64.b64encode(random.Random(7).randbytes(150_000)).decode()
    made[LARGE_AT]["request"]["body"] = json.dumps({"name": noise, "enabled": True})
    return made


async def test_an_event_too_large_for_the_topic(
    pipeline: Pipeline, kafka_bootstrap: str, topic_prefix: str
) -> None:
    await narrow(kafka_bootstrap, f"{topic_prefix}events")

    assert await pipeline.send(captures()) == (COUNT, [])
    assert await pipeline.until_processed(COUNT) == (COUNT - 1, 1)

    (dead_lettered,) = await pipeline.fetch("SELECT reason, event FROM auditap.dead_letters")
    assert dead_lettered["reason"] == "too_large"
    cut = json.loads(dead_lettered["event"])
    assert cut["cut"]["size_bytes"] > TOPIC_BYTES_MAX
    assert cut["receipt"]["request"] == {"reason": "too_large"}
    dead_letter = await on_the_topic(kafka_bootstrap, f"{topic_prefix}dead-letters")
    validator("dead_letter").validate(dead_letter)
    assert (dead_letter["reason"], dead_letter["event_id"]) == ("too_large", cut["id"])

    for _ in range(2):
        retry = pipeline.process("dead-letters", "retry", "--reason", "too_large")
        await retry.start(None)
        assert await retry.wait() == 0, retry.log()
        # It stays to be looked at, and is a record.
        assert await pipeline.until_processed(COUNT + 1) == (COUNT, 1)
    (record,) = await pipeline.fetch(
        "SELECT resource_request, receipt FROM auditap.audit_records WHERE id = $1", cut["id"]
    )
    assert record["resource_request"] is None
    assert json.loads(record["receipt"])["request"] == {"reason": "too_large"}
