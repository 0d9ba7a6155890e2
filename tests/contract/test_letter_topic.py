"""Dead letters on a topic beside the store."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from typing import Any

import pytest

from ingestor.letter_topic import PublishedLetters
from ingestor.ports import DeadLetter, Partition
from redactor.topics import TopicSettings, ensure_topics
from schemas.errors import BuriedEvent, DeadLetterReason, RetryableError
from schemas.event import encode_event, event_digest
from schemas.explain import validator
from tests.event_logs import Assignments, KafkaLog, MemoryLog, read, values
from tests.fakes.event_log import MemoryEventLog, MemoryPublisher
from tests.fakes.record_store import MemoryRecordStore
from tests.records import event

NOW = 1_769_192_714_749


def letters(*events: bytes) -> list[DeadLetter]:
    why = BuriedEvent(DeadLetterReason.MALFORMED, "raw: type")
    return [DeadLetter(Partition("log", 3), at, NOW, value, why) for at, value in enumerate(events)]


@pytest.fixture
async def kafka(kafka_bootstrap: str, topic_prefix: str) -> KafkaLog:
    """A topic that takes no more than 100,000 bytes."""
    log = KafkaLog(kafka_bootstrap, topic_prefix)
    await ensure_topics(
        TopicSettings(
            kafka_bootstrap,
            log.topic,
            "",
            partitions=1,
            replication_factor=1,
            min_insync_replicas=1,
            message_bytes_max=100_000,
        )
    )
    return log


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest) -> Any:
    return MemoryLog() if request.param == "memory" else request.getfixturevalue("kafka")


async def buried(log: Any, *events: bytes, times: int = 1) -> tuple[MemoryRecordStore, list[dict[str, Any]]]:
    """Bury events and return the store and the topic's letters."""
    store, publisher = MemoryRecordStore(), log.publisher()
    await publisher.start()
    try:
        for _ in range(times):
            await PublishedLetters(store, publisher, lambda: NOW).bury(letters(*events))
    finally:
        await publisher.stop()
    source = log.source("check", Assignments())
    await source.start()
    try:
        found = values(await read(source, times * len(events)))
    finally:
        await source.stop()
    told = [json.loads(value) for value in found]
    for each in told:
        validator("dead_letter").validate(each)
    return store, told


async def test_a_letter_is_in_the_store_and_on_the_topic(log: Any) -> None:
    one, other = encode_event(event(NOW)), b"\0no event\xff"
    store, told = await buried(log, one, other)

    assert [letter.value for letter in store.letters.values()] == [one, other]
    first, second = sorted(told, key=lambda each: int(each["source"]["offset"]))
    assert b64decode(first["event_base64"]) == one
    assert first["event_id"] == json.loads(one)["id"]
    assert (first["reason"], first["path"]) == ("malformed", "raw: type")
    assert first["source"] == {"log": "log", "partition": 3, "offset": 0}
    assert (first["event_size_bytes"], first["event_digest"]) == (len(one), event_digest(one).hex())
    assert b64decode(second["event_base64"]) == other
    assert "event_id" not in second


async def test_buried_again_it_is_once_in_the_store(log: Any) -> None:
    store, told = await buried(log, encode_event(event(NOW)), times=2)
    assert len(store.letters) == 1
    assert len(told) == 2


async def test_an_event_too_large_for_the_topic_is_named_there_without_itself(kafka: KafkaLog) -> None:
    small, large = encode_event(event(NOW)), os.urandom(200_000)
    # What shares a batch with what is refused may come twice.
    store, told = await buried(kafka, large)
    _, more = await buried(kafka, small)

    assert [letter.value for letter in store.letters.values()] == [large]
    (first,), (*_, second) = told, more
    assert "event_base64" not in first
    assert (first["event_size_bytes"], first["event_digest"]) == (len(large), event_digest(large).hex())
    assert b64decode(second["event_base64"]) == small


async def test_a_topic_that_is_away_makes_burying_fail_until_it_is_back() -> None:
    log, store = MemoryEventLog(lanes=1), MemoryRecordStore()
    publisher = MemoryPublisher(log)
    await publisher.start()
    both = PublishedLetters(store, publisher, lambda: NOW)
    log.away = True
    with pytest.raises(RetryableError):
        await both.bury(letters(b"x"))
    log.away = False
    await both.bury(letters(b"x"))
    assert len(store.letters) == sum(len(lane) for lane in log.lanes.values()) == 1
