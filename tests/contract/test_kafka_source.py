"""What the source does when groups change and brokers go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.consumer import subscription_state
from aiokafka.errors import KafkaError

from eventlog.kafka import source as kafka_source
from eventlog.kafka.client import KafkaConnection
from eventlog.kafka.source import KafkaSource, KafkaSourceSettings
from eventlog.ports import Batch, Partition
from schemas.errors import RetryableError, StartupError
from tests.event_logs import Assignments, KafkaLog, ends, events, read, retried, values
from tests.fakes.clock import Clock
from tests.freezing import frozen
from tests.kafka_broker import KafkaBroker
from tests.kafka_readers import Reader, delete_before, publish, read_and_commit, until

_PARTITIONS = 4


@pytest.fixture
async def kafka(kafka_bootstrap: str, topic_prefix: str) -> KafkaLog:
    log = KafkaLog(kafka_bootstrap, topic_prefix)
    await log.make_topics(_PARTITIONS)
    return log


@pytest.fixture
async def own_log(own_kafka: KafkaBroker) -> KafkaLog:
    log = KafkaLog(own_kafka.bootstrap, "own.", answers_at_once=True)
    await retried(lambda: log.make_topics(_PARTITIONS))
    return log


async def test_partitions_move_when_readers_join_and_leave(kafka: KafkaLog) -> None:
    first, second = Reader(kafka), Reader(kafka)
    await first.start()
    await publish(kafka, 0, 400)
    await until(lambda: len(set(first.values)) == 400)

    await second.start()
    await until(lambda: len(first.generations) == 2)
    await publish(kafka, 400, 400)
    await until(lambda: len({*first.values, *second.values}) == 800)
    shares = [set(first.generations[-1]), set(second.generations[-1])]

    await second.stop()
    await until(lambda: len(first.generations) == 3)
    await publish(kafka, 800, 400)
    await until(lambda: len({*first.values, *second.values}) == 1_200)
    await first.stop()

    assert [len(share) for share in shares] == [2, 2]
    assert not shares[0] & shares[1]
    assert [len(generation) for generation in first.generations] == [4, 2, 4]
    assert [sorted(revoked) for revoked in first.revoked] == [sorted(first.generations[0]), sorted(shares[0])]
    # Everything was committed when it was revoked, so that nothing was read twice.
    assert len(first.values) + len(second.values) == 1_200


async def test_uncommitted_events_are_read_again_by_the_next_reader(kafka: KafkaLog) -> None:
    await publish(kafka, 0, 200)
    _, kept = await read_and_commit(kafka, 200, lambda batch: batch.events[0].offset + 3)

    heir = Reader(kafka)
    await heir.start()
    await until(lambda: len(heir.values) >= 200 - 3 * len(kept))
    await heir.stop()

    assert len(heir.values) == len(set(heir.values)) == 200 - 3 * len(kept)


async def test_reassigned_partitions_are_a_new_generation(kafka: KafkaLog) -> None:
    staying, passing = Reader(kafka), Reader(kafka)
    await staying.start()
    await passing.start()
    await until(lambda: len(staying.generations) == 2)
    await passing.stop()
    await until(lambda: len(staying.generations) == 3)
    await staying.stop()

    numbers = [set(generation.values()) for generation in staying.generations]
    assert numbers == [{1}, {2}, {3}]


async def test_a_hanging_listener_does_not_block_the_group(kafka: KafkaLog) -> None:
    class Hanging(Assignments):
        async def on_revoked(self, partitions: Sequence[Partition]) -> None:
            await super().on_revoked(partitions)
            await asyncio.Event().wait()

    listener = Hanging()
    settings = replace(kafka.source("readers", listener)._settings, revoke_wait_ms=100)
    hanging = KafkaSource(settings, listener)
    await hanging.start()
    other = kafka.source("readers", Assignments())
    async with asyncio.timeout(120):
        joining = asyncio.create_task(other.start())
        while not joining.done():
            assert not await hanging.fetch(10)
    await joining
    # Seen before the other leaves, which moves the partitions once more.
    assert len(listener.revoked) == 1
    await other.stop()
    await hanging.stop()


async def test_nothing_is_fetched_while_partitions_are_being_revoked(kafka: KafkaLog) -> None:
    class Slow(Assignments):
        fetched: Sequence[Batch] | None = None

        async def on_revoked(self, partitions: Sequence[Partition]) -> None:
            await super().on_revoked(partitions)
            await publish(kafka, 0, 20)
            self.fetched = await source.fetch(100)

    listener = Slow()
    source = kafka.source("readers", listener)
    await source.start()
    other = Reader(kafka)
    await other.start()
    await until(lambda: len(listener.generations) == 2)
    # First, or the other's leaving would begin one more revocation, in the middle of which this one would stop.
    await source.stop()
    await other.stop()

    assert not listener.fetched
    assert listener.fetched is not None


async def reset(source: KafkaSource, position: int, partitions: Iterable[Partition]) -> None:
    """Let a source's consumer go on elsewhere, as if a broker that had deleted more had reset it."""
    assert source._consumer is not None
    for partition in partitions:
        await source._consumer.position(TopicPartition(partition.log, partition.number))
        source._consumer.seek(TopicPartition(partition.log, partition.number), position)


async def test_reading_goes_on_at_the_earliest_offset_if_the_committed_one_is_deleted(
    kafka: KafkaLog,
) -> None:
    await publish(kafka, 0, 200)
    batches, kept = await read_and_commit(kafka, 200, lambda batch: batch.events[0].offset + 1)
    doomed = {partition: end - 5 for partition, end in ends(batches).items()}
    await delete_before(kafka, doomed)

    again = kafka.source("readers", Assignments())
    await again.start()
    try:
        found = await read(again, 5 * len(doomed))
    finally:
        await again.stop()

    assert len(values(found)) == 5 * len(doomed)
    assert ends(found) == ends(batches)
    lost = {partition: range(kept[partition], end) for partition, end in doomed.items()}
    assert {batch.partition: batch.lost for batch in found if batch.lost} == lost


async def test_events_that_a_reset_passed_over_are_read_if_the_log_holds_them(kafka: KafkaLog) -> None:
    await publish(kafka, 0, 200)
    batches, kept = await read_and_commit(kafka, 200, lambda batch: batch.events[0].offset + 2)
    await delete_before(kafka, dict.fromkeys(kept, 4))

    listener = Assignments()
    again = kafka.source("readers", listener)
    await again.start()
    try:
        await until(lambda: listener.generations)
        await reset(again, 10, kept)
        found = await read(again, 200 - 4 * len(kept))
    finally:
        await again.stop()

    assert len(values(found)) == 200 - 4 * len(kept)
    assert ends(found) == ends(batches)
    assert {batch.partition: batch.lost for batch in found if batch.lost} == dict.fromkeys(kept, range(2, 4))
    assert not any(batch.passed_over for batch in found)


async def test_a_gap_at_a_broker_that_hangs_holds_up_no_other_partition(
    kafka: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(kafka, 0, 200)
    batches, kept = await read_and_commit(kafka, 200, lambda batch: batch.events[0].offset + 2)
    left = {partition: end - kept[partition] for partition, end in ends(batches).items()}
    stuck = min(kept)
    await delete_before(kafka, {stuck: kept[stuck] + 2})

    again = kafka.source("readers", Assignments())
    await again.start()
    try:
        consumer = again._consumer
        assert consumer is not None
        asked = []

        async def hang(partitions: list[TopicPartition]) -> None:
            asked.append(partitions)
            await asyncio.Event().wait()

        with monkeypatch.context() as hanging:
            hanging.setattr(consumer, "beginning_offsets", hang)
            hanging.setattr(kafka_source, "_LOG_START_WAIT_MS", 10)
            others = await read(again, sum(left.values()) - left[stuck])
            async with asyncio.timeout(120):
                while not asked:
                    others += await again.fetch(1_000)
        found = await read(again, left[stuck] - 2)
    finally:
        await again.stop()

    assert stuck not in ends(others)
    assert asked[0] == [TopicPartition(stuck.log, stuck.number)]
    assert (found[0].partition, found[0].lost) == (stuck, range(kept[stuck], kept[stuck] + 2))
    assert not any(batch.lost for batch in others)


async def test_committed_and_never_written_offsets_are_not_lost(kafka: KafkaLog) -> None:
    await publish(kafka, 0, 100)
    found: list[Batch] = []
    for _ in range(2):
        found += (await read_and_commit(kafka, 100, lambda batch: batch.events[-1].offset + 1))[0]
        await publish(kafka, 100, 100)
    assert [batch.lost for batch in found if batch.lost] == []


async def test_reading_goes_on_after_the_broker_was_killed(own_kafka: KafkaBroker, own_log: KafkaLog) -> None:
    reader = Reader(own_log)
    await reader.start()
    await publish(own_log, 0, 100)
    await until(lambda: len(set(reader.values)) == 100)

    await own_kafka.kill()
    await asyncio.sleep(0.3)
    await own_kafka.start()
    await publish(own_log, 100, 100)
    await until(lambda: len(set(reader.values)) == 200)
    await reader.stop()


async def test_a_hung_broker_bounds_commit_and_stop(own_kafka: KafkaBroker, own_log: KafkaLog) -> None:
    await publish(own_log, 0, 20)
    source = own_log.source("readers", Assignments())
    await retried(source.start)
    batches = await read(source, 20)
    assert own_kafka.pid is not None
    with frozen(own_kafka.pid):
        async with asyncio.timeout(120):
            with pytest.raises(RetryableError):
                await source.commit(ends(batches))
            assert not await source.fetch(10)
            await source.stop()
            with pytest.raises(RetryableError):
                await own_log.source("late", Assignments()).start()


async def test_a_fetch_that_waits_for_partitions_ends_when_the_source_is_stopped(
    kafka: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = kafka.source("readers", Assignments())
    await source.start()
    waiting = asyncio.Event()

    async def hang(*_partitions: object, **_options: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    assert source._consumer is not None
    monkeypatch.setattr(source._consumer, "getmany", hang)
    await source.revoked(set())
    fetching = asyncio.create_task(source.fetch(10))
    await waiting.wait()
    await source.stop()

    assert not await fetching
    with pytest.raises(RetryableError):
        await source.fetch(10)


async def test_a_commit_under_way_fails_when_the_source_is_stopped(
    kafka: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(kafka, 0, 20)
    source = kafka.source("readers", Assignments())
    await source.start()
    positions = ends(await read(source, 20))
    waiting = asyncio.Event()

    async def hang(*_offsets: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    assert source._consumer is not None
    monkeypatch.setattr(source._consumer, "commit", hang)
    committing = asyncio.create_task(source.commit(positions))
    await waiting.wait()
    await source.stop()

    with pytest.raises(RetryableError):
        await committing


async def test_a_source_that_is_stopped_while_it_joins_again_leaves_no_consumer(
    kafka: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = kafka.source("readers", Assignments())
    await source.start()

    async def fails(*_partitions: object, **_options: object) -> None:
        raise KafkaError

    assert source._consumer is not None
    monkeypatch.setattr(source._consumer, "getmany", fails)
    await until(lambda: not source._rebalancing)
    with pytest.raises(RetryableError):
        await source.fetch(10)
    joining = asyncio.create_task(source.fetch(10))
    await asyncio.sleep(0)
    await source.stop()

    with pytest.raises(RetryableError):
        await joining
    assert source._consumer is None


async def test_a_consumer_that_fails_is_replaced(kafka: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await publish(kafka, 0, 40)
    listener = Assignments()
    source = kafka.source("readers", listener)
    await source.start()
    kept = {batch.partition: batch.events[0].offset + 2 for batch in await read(source, 40)}
    await source.commit(kept)

    async def fails(*partitions: object, **options: object) -> None:
        raise KafkaError

    assert source._consumer is not None
    monkeypatch.setattr(source._consumer, "getmany", fails)
    with pytest.raises(RetryableError):
        await source.fetch(10)

    found = values(await read(source, 40 - 2 * len(kept)))
    await source.stop()
    assert len(found) == 40 - 2 * len(kept)
    assert [set(generation.values()) for generation in listener.generations] == [{1}, {2}]
    assert len(listener.revoked) == 1


@pytest.fixture
def poll_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which aiokafka measures how long ago the last fetch was: on it, no test is too slow."""
    clock = Clock()
    monkeypatch.setattr(subscription_state, "time", SimpleNamespace(monotonic=clock))
    return clock


async def test_fetching_zero_events_keeps_a_reader_in_its_group(
    kafka: KafkaLog, poll_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle_time = subscription_state.SubscriptionState.fetcher_idle_time
    heartbeats: list[float] = []

    def counted(subscriptions: subscription_state.SubscriptionState) -> float:
        heartbeats.append(idle_time.fget(subscriptions))
        return heartbeats[-1]

    monkeypatch.setattr(subscription_state.SubscriptionState, "fetcher_idle_time", property(counted))
    await publish(kafka, 0, 20)
    listener = Assignments()
    settings = replace(kafka.source("readers", listener)._settings, max_poll_interval_ms=2_000)
    source = KafkaSource(settings, listener)
    await source.start()
    # At each heartbeat, aiokafka looks at how long ago the last fetch was.
    async with asyncio.timeout(120):
        while len(heartbeats) < 20:
            poll_clock.now_s += 1
            assert not await source.fetch(0)
    found = values(await read(source, 20))
    await source.stop()

    assert len(found) == 20
    assert (len(listener.generations), listener.revoked) == (1, [])


async def test_a_reader_that_does_not_fetch_leaves_its_group_and_rejoins(
    kafka: KafkaLog, poll_clock: Clock
) -> None:
    listener = Assignments()
    settings = replace(kafka.source("readers", listener)._settings, max_poll_interval_ms=2_000)
    stuck = KafkaSource(settings, listener)
    await stuck.start()
    poll_clock.now_s += 2
    await until(lambda: listener.revoked)

    await publish(kafka, 0, 20)
    found = values(await read(stuck, 20))
    await stuck.stop()
    assert sorted(found) == sorted(event.value for event in events(0, 20))
    assert [set(generation.values()) for generation in listener.generations] == [{1}, {2}]


async def test_a_broker_that_is_away_at_start_is_retryable(topic_prefix: str, unused_port: int) -> None:
    settings = KafkaSourceSettings(
        KafkaConnection(f"127.0.0.1:{unused_port}"), topic_prefix + "events", "readers"
    )

    with pytest.raises(RetryableError):
        await KafkaSource(settings, Assignments()).start()


async def test_a_missing_topic_is_a_startup_error_with_advice(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    settings = KafkaSourceSettings(
        KafkaConnection(kafka_bootstrap), topic_prefix + "missing", "readers", request_timeout_ms=1_000
    )

    with pytest.raises(StartupError, match="auditap topics"):
        await retried(KafkaSource(settings, Assignments()).start)


async def produce_in_transactions(kafka: KafkaLog, transactions: int, *, aborted: bool = False) -> None:
    """Write one event per transaction, as a mirror with exactly-once does; `aborted`: and one that is taken back."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=kafka.topic)
    await producer.start()
    try:
        for number in range(transactions):
            async with producer.transaction():
                await producer.send_and_wait(kafka.topic, b"%d" % number, partition=0)
        if aborted:
            await producer.begin_transaction()
            await producer.send_and_wait(kafka.topic, b"aborted", partition=0)
            await producer.abort_transaction()
    finally:
        await producer.stop()


async def test_the_markers_of_transactions_are_not_lost_offsets(kafka: KafkaLog) -> None:
    await produce_in_transactions(kafka, 3, aborted=True)
    await publish(kafka, 0, 20)
    # A batch per event, so that batches begin behind markers: within one assignment, and after a commit.
    found, _ = await read_and_commit(kafka, 2, lambda batch: batch.events[-1].offset + 1, events_max=1)
    again = kafka.source("readers", Assignments())
    await again.start()
    try:
        found += await read(again, 22, events_max=1)
    finally:
        await again.stop()
    assert sorted(value for value in values(found) if len(value) == 1) == [b"0", b"1", b"2"]
    assert [batch.lost for batch in found if batch.lost] == []


async def test_offsets_deleted_behind_a_marker_are_lost(kafka: KafkaLog) -> None:
    await produce_in_transactions(kafka, 6)
    batches, kept = await read_and_commit(kafka, 1, lambda batch: batch.events[-1].offset + 1, events_max=1)
    await delete_before(kafka, {Partition(kafka.topic, 0): 5})
    again = kafka.source("readers", Assignments())
    await again.start()
    try:
        found = await read(again, 3, events_max=1)
    finally:
        await again.stop()
    # Offset 5 is a marker: reading goes on at the event behind it.
    assert [batch.events[0].offset for batch in found] == [6, 8, 10]
    assert [batch.lost for batch in found] == [range(kept[batches[0].partition], 5), None, None]
    assert [batch.passed_over for batch in found] == [1, 1, 1]
