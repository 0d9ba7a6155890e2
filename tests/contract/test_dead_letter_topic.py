"""The dead-letter topic beside the store."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from typing import Any

import pytest

from eventlog.ports import Partition
from ingestor.dead_letters.ports import DeadLetter
from ingestor.dead_letters.topic import PublishingDeadLetterWriter
from schemas.contracts import validator
from schemas.errors import DeadLetterReason, RetryableError, UnprocessableEvent
from schemas.event import encode_event, event_digest
from tests.event_logs import Assignments, KafkaLog, MemoryLog, read, values
from tests.fakes.event_log import MemoryEventLog, MemoryPublisher
from tests.fakes.record_store import MemoryRecordStore
from tests.records import event

NOW = 1_769_192_714_749


def dead_letters(*events: bytes) -> list[DeadLetter]:
    why = UnprocessableEvent(DeadLetterReason.MALFORMED, "raw: type")
    return [DeadLetter(Partition("log", 3), at, NOW, value, why) for at, value in enumerate(events)]


@pytest.fixture
async def kafka(kafka_bootstrap: str, topic_prefix: str) -> KafkaLog:
    """A topic that takes no more than 100,000 bytes."""
    log = KafkaLog(kafka_bootstrap, topic_prefix)
    await log.make_topics(partitions=1, message_bytes_max=100_000)
    return log


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest) -> Any:
    return MemoryLog() if request.param == "memory" else request.getfixturevalue("kafka")


async def dead_lettered(
    log: Any, *events: bytes, times: int = 1
) -> tuple[MemoryRecordStore, list[dict[str, Any]]]:
    """Dead-letter events; return the store and the messages on the topic."""
    store, publisher = MemoryRecordStore(), log.publisher()
    await publisher.start()
    try:
        for _ in range(times):
            await PublishingDeadLetterWriter(store, publisher, lambda: NOW).write_dead_letters(
                dead_letters(*events)
            )
    finally:
        await publisher.stop()
    source = log.source("check", Assignments())
    await source.start()
    try:
        found = values(await read(source, times * len(events)))
    finally:
        await source.stop()
    messages = [json.loads(value) for value in found]
    for each in messages:
        validator("dead_letter").validate(each)
    return store, messages


async def test_a_dead_letter_is_in_the_store_and_on_the_topic(log: Any) -> None:
    one, other = encode_event(event(NOW)), b"\0no event\xff"
    store, messages = await dead_lettered(log, one, other)

    assert [dead_letter.value for dead_letter in store.dead_letters.values()] == [one, other]
    first, second = sorted(messages, key=lambda each: int(each["source"]["offset"]))
    assert b64decode(first["event_base64"]) == one
    assert first["event_id"] == json.loads(one)["id"]
    assert (first["reason"], first["path"]) == ("malformed", "raw: type")
    assert first["source"] == {"log": "log", "partition": 3, "offset": 0}
    assert (first["event_size_bytes"], first["event_digest"]) == (len(one), event_digest(one).hex())
    assert b64decode(second["event_base64"]) == other
    assert "event_id" not in second


async def test_written_twice_it_is_once_in_the_store(log: Any) -> None:
    store, messages = await dead_lettered(log, encode_event(event(NOW)), times=2)
    assert len(store.dead_letters) == 1
    assert len(messages) == 2


async def test_a_message_too_large_for_the_topic_goes_without_its_event(kafka: KafkaLog) -> None:
    small, large = encode_event(event(NOW)), os.urandom(200_000)
    # What shares a batch with what is refused may come twice.
    store, messages = await dead_lettered(kafka, large)
    _, more = await dead_lettered(kafka, small)

    assert [dead_letter.value for dead_letter in store.dead_letters.values()] == [large]
    (first,), (*_, second) = messages, more
    assert "event_base64" not in first
    assert (first["event_size_bytes"], first["event_digest"]) == (len(large), event_digest(large).hex())
    assert b64decode(second["event_base64"]) == small


async def test_a_topic_that_is_away_makes_writing_fail_until_it_is_back() -> None:
    log, store = MemoryEventLog(partitions=1), MemoryRecordStore()
    publisher = MemoryPublisher(log)
    await publisher.start()
    both = PublishingDeadLetterWriter(store, publisher, lambda: NOW)
    log.away = True
    with pytest.raises(RetryableError):
        await both.write_dead_letters(dead_letters(b"x"))
    log.away = False
    await both.write_dead_letters(dead_letters(b"x"))
    assert len(store.dead_letters) == sum(len(partition) for partition in log.partitions.values()) == 1
