"""What readers do when their topic is deleted and made again, gets partitions, or is shortened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from eventlog.kafka import topic_id
from eventlog.kafka.source import KafkaSource
from eventlog.kafka.topic_id import NO_ID
from eventlog.ports import Batch, EventSource, Partition
from schemas.errors import NotDurable, RetryableError
from tests.event_logs import Assignments, KafkaLog, ends, events, read, retried, values
from tests.kafka_readers import (
    Reader,
    add_partitions,
    commit_late,
    commits_of,
    delete_before,
    delete_group,
    delete_topic,
    publish,
    read_and_commit,
    recreate_topic,
    until,
)

_PARTITIONS = 2


@pytest.fixture
async def kafka(kafka_bootstrap: str, topic_prefix: str) -> KafkaLog:
    log = KafkaLog(kafka_bootstrap, topic_prefix)
    await log.make_topics(_PARTITIONS)
    return log


def numbered(first: int, count: int) -> set[bytes]:
    return {event.value for event in events(first, count)}


async def fetch_for_ever(source: EventSource) -> None:
    while True:
        assert not await source.fetch(10)


async def hold_fetches(source: EventSource, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold back what the source's consumer asks the broker for, until the event that is returned is set."""
    assert isinstance(source, KafkaSource)
    assert source._consumer is not None
    fetcher = source._consumer._fetcher
    ask, released = fetcher._proc_fetch_request, asyncio.Event()

    async def held(*arguments: object) -> bool:
        await released.wait()
        answer: bool = await ask(*arguments)
        return answer

    monkeypatch.setattr(fetcher, "_proc_fetch_request", held)
    return released


@pytest.mark.parametrize(("readers", "partitions"), [(1, 1), (1, _PARTITIONS), (3, _PARTITIONS), (1, 5)])
async def test_a_topic_that_is_made_again_is_read_from_its_beginning(
    kafka: KafkaLog, readers: int, partitions: int
) -> None:
    # A commit for a partition that is gone is tried again until its time is over.
    group = [Reader(kafka, commit_wait_ms=500) for _ in range(readers)]
    for reader in group:
        await reader.start()
    await publish(kafka, 0, 400)
    await until(lambda: numbered(0, 400) <= {value for reader in group for value in reader.values})

    with capture_logs() as lines:
        await recreate_topic(kafka, partitions)
        # Fewer than the positions in the old topic: a reader that went on there would find nothing for a while.
        await publish(kafka, 1_000, 100)
        await publish(kafka, 2_000, 600)
        wanted = numbered(1_000, 100) | numbered(2_000, 600)
        await until(lambda: wanted <= {value for reader in group for value in reader.values})
    for reader in group:
        await reader.stop()

    said = [line for line in lines if line["event"] == "topic_recreated"]
    assert said
    assert len(said) <= readers
    assert kafka.topic in said[0]["message"]


@pytest.mark.parametrize("times", [1, 2])
async def test_a_new_topic_that_has_outgrown_the_old_position_is_read_from_its_beginning(
    kafka: KafkaLog, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Offsets cannot show it: the next one in the old topic exists in the new one."""
    reader = Reader(kafka)
    await reader.start()
    await publish(kafka, 0, 200)
    await until(lambda: numbered(0, 200) <= set(reader.values))

    released = await hold_fetches(reader.source, monkeypatch)
    for number in range(1, times + 1):
        await recreate_topic(kafka, _PARTITIONS)
        await publish(kafka, number * 1_000, 800)
    released.set()

    await until(lambda: numbered(times * 1_000, 800) <= set(reader.values))
    await reader.stop()


async def test_a_topic_that_was_made_again_while_no_reader_ran_is_read_from_its_beginning(
    kafka: KafkaLog,
) -> None:
    """A broker forgets the positions with the topic, but a commit may arrive after that."""
    await publish(kafka, 0, 200)
    await read_and_commit(kafka, 200, lambda batch: batch.events[-1].offset + 1)
    stale = await commits_of(kafka, "readers")
    assert len(stale) == _PARTITIONS
    await recreate_topic(kafka, _PARTITIONS)
    await publish(kafka, 1_000, 800)
    await commit_late(kafka, "readers", stale)

    reader = Reader(kafka)
    with capture_logs() as lines:
        await reader.start()
        await until(lambda: numbered(1_000, 800) <= set(reader.values))
    await reader.stop()

    assert len(reader.values) == 800
    assert [line["event"] for line in lines].count("topic_recreated") == 1
    assert not [batch.lost for batch in reader.batches if batch.lost]


async def test_a_new_topic_is_read_from_its_beginning_by_a_group_that_was_deleted(kafka: KafkaLog) -> None:
    await publish(kafka, 0, 200)
    await read_and_commit(kafka, 200, lambda batch: batch.events[-1].offset + 1)
    await recreate_topic(kafka, _PARTITIONS)
    await publish(kafka, 1_000, 800)
    await delete_group(kafka, "readers")

    reader = Reader(kafka)
    await reader.start()
    await until(lambda: numbered(1_000, 800) <= set(reader.values))
    await reader.stop()
    assert len(reader.values) == 800


async def test_what_the_new_topic_lost_before_it_was_read_is_lost_offsets(kafka: KafkaLog) -> None:
    await publish(kafka, 0, 200)
    await read_and_commit(kafka, 200, lambda batch: batch.events[-1].offset + 1)
    stale = await commits_of(kafka, "readers")
    await recreate_topic(kafka, _PARTITIONS)
    await publish(kafka, 1_000, 800)
    await commit_late(kafka, "readers", stale)
    await delete_before(kafka, {Partition(kafka.topic, number): 7 for number in range(_PARTITIONS)})

    source = kafka.source("readers", Assignments())
    await source.start()
    try:
        found = await read(source, 800 - 7 * _PARTITIONS)
    finally:
        await source.stop()

    assert [batch.lost for batch in found if batch.lost] == [range(7)] * _PARTITIONS


async def test_a_position_of_the_old_topic_is_not_committed_for_the_new_one(kafka: KafkaLog) -> None:
    reader = Reader(kafka)
    await reader.start()
    await publish(kafka, 0, 200)
    await until(lambda: numbered(0, 200) <= set(reader.values))
    old = ends(reader.batches)
    await recreate_topic(kafka, _PARTITIONS)
    await publish(kafka, 1_000, 20)
    await until(lambda: numbered(1_000, 20) <= set(reader.values))

    assert {partition.log_id for partition in old} != {
        partition.log_id for partition in reader.generations[-1]
    }
    await reader.source.commit(dict.fromkeys(old, 9999))
    assert 9_999 not in [commit.offset for commit in (await commits_of(kafka, "readers")).values()]
    await reader.stop()


async def test_a_topic_that_is_away_for_long_is_read_as_soon_as_it_is_back(kafka: KafkaLog) -> None:
    # A commit for a topic that is away is tried again until its time is over.
    reader = Reader(kafka, commit_wait_ms=500)
    await reader.start()
    await publish(kafka, 0, 100)
    await until(lambda: numbered(0, 100) <= set(reader.values))

    await delete_topic(kafka)
    # Until the group has noticed.
    await until(lambda: reader.generations[-1] == {})
    await kafka.make_topics(_PARTITIONS + 1)
    await publish(kafka, 1_000, 100)

    await until(lambda: numbered(1_000, 100) <= set(reader.values))
    await reader.stop()
    assert len(reader.generations[-1]) == _PARTITIONS + 1


async def test_partitions_that_are_added_are_read_from_their_beginning(kafka: KafkaLog) -> None:
    reader = Reader(kafka)
    await reader.start()
    await publish(kafka, 0, 100)
    await until(lambda: numbered(0, 100) <= set(reader.values))

    await add_partitions(kafka, _PARTITIONS + 2)
    await publish(kafka, 1_000, 400)

    await until(lambda: numbered(1_000, 400) <= set(reader.values))
    await reader.stop()
    # Of all partitions, the new ones too.
    assert len(ends(reader.batches)) == _PARTITIONS + 2
    assert len(reader.values) == 500


async def test_partitions_that_are_added_are_written_within_seconds(kafka: KafkaLog) -> None:
    """For five minutes, aiokafka's own, they got nothing."""
    publisher = kafka.publisher()
    await publisher.start()
    try:
        await publisher.publish(events(0, 1))
        await add_partitions(kafka, 2 * _PARTITIONS)
        assert publisher._producer is not None
        cluster = publisher._producer.client.cluster
        async with asyncio.timeout(60):
            while len(cluster.partitions_for_topic(kafka.topic)) < 2 * _PARTITIONS:
                await asyncio.sleep(0.1)
        await publisher.publish(events(1, 1))
    finally:
        await publisher.stop()


async def test_a_publisher_refuses_soon_while_there_is_no_topic_and_goes_on_with_the_next_one(
    kafka: KafkaLog,
) -> None:
    publisher = kafka.publisher(publish_deadline_ms=20_000)
    await publisher.start()
    try:
        await publisher.publish(events(0, 1))
        await delete_topic(kafka)
        with pytest.raises(NotDurable):
            await publisher.publish(events(1, 1))
        assert not await publisher.ready()
        began = time.monotonic()
        with pytest.raises(NotDurable):
            await publisher.publish(events(1, 1))
        assert time.monotonic() - began < 5
        await kafka.make_topics(_PARTITIONS)
        await retried(lambda: publisher.publish(events(2, 1)))
    finally:
        await publisher.stop()


async def test_offsets_that_are_deleted_during_a_run_are_lost_offsets(kafka: KafkaLog) -> None:
    await publish(kafka, 0, 200)
    settings = replace(kafka.source("readers", Assignments())._settings, partition_fetch_bytes_max=1)
    source = KafkaSource(settings, Assignments())
    await source.start()
    first = ends(await read(source, 1, events_max=1))
    await publish(kafka, 200, 200)
    at = {partition: end + 150 for partition, end in first.items()}
    [(behind, doomed)] = list(at.items())[:1]
    await delete_before(kafka, {behind: doomed})
    found: list[Batch] = []
    async with asyncio.timeout(120):
        while ends(found).get(behind, 0) < doomed + 1:
            found += await source.fetch(10)
    await source.stop()

    lost = [batch.lost for batch in found if batch.lost]
    assert len(lost) == 1
    assert lost[0] is not None
    assert lost[0].stop == doomed
    read_offsets = {
        event.offset for batch in found if batch.partition == behind for event in batch.events
    } | {0}
    assert read_offsets | set(lost[0]) >= set(range(doomed))


async def test_offsets_that_are_deleted_before_a_rebalance_are_lost_offsets(kafka: KafkaLog) -> None:
    await publish(kafka, 0, 200)
    first = Assignments()
    settings = replace(kafka.source("readers", first)._settings, partition_fetch_bytes_max=1)
    slow = KafkaSource(settings, first)
    await slow.start()
    committed = ends(await read(slow, 2, events_max=1))
    await slow.commit(committed)
    await delete_before(kafka, dict.fromkeys(first.generations[-1], 60))

    second = Reader(kafka)
    joining = asyncio.create_task(second.start())
    async with asyncio.timeout(120):
        while not joining.done() or not second.batches:
            await slow.fetch(0)
    await joining
    await slow.stop()
    await until(lambda: len(ends(second.batches)) == _PARTITIONS)
    await second.stop()

    lost = {batch.partition.number: batch.lost for batch in second.batches if batch.lost}
    assert set(lost.values()) <= {range(start, 60) for start in (*committed.values(), 0)}
    assert len(lost) >= len(committed)


async def test_without_topic_ids_an_offset_beyond_the_end_begins_again(
    kafka: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers before Kafka 2.8. In a generation of its own: what is in flight of the old topic moves no position in the new one."""

    async def no_id(*_arguments: object) -> str:
        return NO_ID

    monkeypatch.setattr(topic_id, "find_topic_id", no_id)
    reader = Reader(kafka)
    await reader.start()
    await publish(kafka, 0, 200)
    await until(lambda: numbered(0, 200) <= set(reader.values))
    released = await hold_fetches(reader.source, monkeypatch)
    await recreate_topic(kafka, _PARTITIONS)
    await publish(kafka, 1_000, 20)
    released.set()

    await until(lambda: numbered(1_000, 20) <= set(reader.values))
    await reader.stop()
    for generation in {batch.generation for batch in reader.batches}:
        for number in range(_PARTITIONS):
            offsets = [
                event.offset
                for batch in reader.batches
                if (batch.generation, batch.partition.number) == (generation, number)
                for event in batch.events
            ]
            assert offsets == sorted(set(offsets))
    assert 20 in [commit.offset for commit in (await commits_of(kafka, "readers")).values()]


async def test_a_reader_that_cannot_learn_the_topics_id_begins_nothing(
    kafka: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it committed would count for whichever topic there is."""
    await publish(kafka, 0, 20)
    asked: list[object] = []

    async def fails(*arguments: object) -> str:
        asked.append(arguments)
        raise KafkaError

    listener = Assignments()
    settings = replace(kafka.source("readers", listener)._settings, request_timeout_ms=2_000)
    source = KafkaSource(settings, listener)
    with monkeypatch.context() as failing:
        failing.setattr(topic_id, "find_topic_id", fails)
        await retried(source.start)
        async with asyncio.timeout(120):
            with pytest.raises(RetryableError):
                await fetch_for_ever(source)
    assert asked
    assert not listener.generations

    found: Sequence[Batch] = await read(source, 20)
    await source.stop()
    assert set(values(found)) == numbered(0, 20)
