from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from eventlog.kafka.client import KafkaConnection
from eventlog.kafka.topics import TopicSettings, ensure_topics
from schemas.errors import RetryableError, StartupError


@pytest.fixture
def settings(kafka_bootstrap: str, topic_prefix: str) -> TopicSettings:
    return TopicSettings(
        KafkaConnection(kafka_bootstrap),
        topic_prefix + "events",
        topic_prefix + "dead",
        partitions=3,
        replication_factor=1,
        min_insync_replicas=1,
        request_timeout_ms=60_000,
    )


async def test_missing_topics_are_created_once(settings: TopicSettings) -> None:
    first = await ensure_topics(settings)
    second = await ensure_topics(settings)

    assert [topic.name for topic in first.topics] == [settings.events_topic, settings.dead_letters_topic]
    assert [topic.created for topic in first.topics] == [True, True]
    assert [topic.created for topic in second.topics] == [False, False]
    assert {(topic.partitions, topic.replication_factor) for topic in second.topics} == {(3, 1)}
    assert first.matches
    assert second.matches


async def test_existing_topics_that_differ_are_reported_and_not_changed(settings: TopicSettings) -> None:
    await ensure_topics(settings)
    wanted = replace(
        settings,
        partitions=6,
        replication_factor=3,
        min_insync_replicas=2,
        retention_ms=settings.retention_ms * 2,
        message_bytes_max=settings.message_bytes_max * 2,
    )

    for _ in range(2):
        report = await ensure_topics(wanted)
        assert not report.matches
        events, dead = report.topics
        assert list(events.differences) == [
            "replication factor is 1, wanted 3",
            "min.insync.replicas is 1, wanted 2",
            "retention.ms is 604800000, wanted 1209600000",
            "max.message.bytes is 8388608, wanted 16777216",
            "3 partitions, wanted 6",
        ]
        assert len(dead.differences) == len(events.differences) - 1


async def test_one_missing_topic_is_created_beside_an_existing_one(settings: TopicSettings) -> None:
    await ensure_topics(settings)

    report = await ensure_topics(replace(settings, dead_letters_topic=settings.dead_letters_topic + "2"))

    assert [topic.created for topic in report.topics] == [False, True]


async def test_concurrent_creation_agrees(settings: TopicSettings) -> None:
    reports = await asyncio.gather(*[ensure_topics(settings) for _ in range(4)])

    assert all(report.matches for report in reports)
    assert sum(report.topics[0].created for report in reports) == 1


async def test_more_replicas_than_brokers_are_a_startup_error_with_advice(settings: TopicSettings) -> None:
    with pytest.raises(StartupError, match=r"kafka\.replication_factor 3.*AUDITAP_KAFKA__REPLICATION_FACTOR"):
        await ensure_topics(replace(settings, replication_factor=3))


async def test_an_invalid_topic_name_is_a_startup_error(settings: TopicSettings) -> None:
    with pytest.raises(StartupError, match="InvalidTopic"):
        await ensure_topics(replace(settings, events_topic="no spaces allowed"))


async def test_a_broker_that_is_away_is_retryable(unused_port: int) -> None:
    with pytest.raises(RetryableError):
        await ensure_topics(TopicSettings(KafkaConnection(f"127.0.0.1:{unused_port}"), "events", "dead"))
