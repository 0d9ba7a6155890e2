"""An event that the topic does not take whole stops no other, is dead-lettered, and becomes a record without its bodies."""

from __future__ import annotations

import base64
import json
import random
import time
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from eventlog.kafka.client import KafkaConnection
from eventlog.kafka.topics import TopicSettings, ensure_topics
from schemas.contracts import validator
from tests.e2e.golden import golden_capture
from tests.e2e.pipeline import Pipeline

COUNT = 300
LARGE_AT = 150
TOPIC_BYTES_MAX = 60_000
"""Less than the settings know of."""


@pytest.fixture
async def pipeline(kafka_pipeline: Pipeline, kafka_bootstrap: str, topic_prefix: str) -> Pipeline:
    wide = TopicSettings(
        KafkaConnection(kafka_bootstrap),
        f"{topic_prefix}events",
        f"{topic_prefix}dead-letters",
        partitions=4,
        replication_factor=1,
        min_insync_replicas=1,
        request_timeout_ms=120_000,
    )
    # Narrow from its beginning: a broker applies a change of a topic only some time after it has answered.
    await ensure_topics(replace(wide, dead_letters_topic="", message_bytes_max=TOPIC_BYTES_MAX))
    [events, _] = (await ensure_topics(wide)).topics
    assert events.differences == [f"max.message.bytes is {TOPIC_BYTES_MAX}, wanted {wide.message_bytes_max}"]
    await kafka_pipeline.start(with_topics=False)
    return kafka_pipeline


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
        await pipeline.run_command("dead-letters", "retry", "--reason", "too_large")
        # It stays to be looked at, and is a record.
        assert await pipeline.until_processed(COUNT + 1) == (COUNT, 1)
    (record,) = await pipeline.fetch(
        "SELECT resource_request, receipt FROM auditap.audit_records WHERE id = $1", cut["id"]
    )
    assert record["resource_request"] is None
    assert json.loads(record["receipt"])["request"] == {"reason": "too_large"}
