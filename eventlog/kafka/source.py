"""`EventSource` from Kafka: an aiokafka consumer in a group, without auto-commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import structlog
from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
)

from eventlog.kafka.client import (
    METADATA_AGE_MS_MAX,
    KafkaConnection,
    connection_error,
    prepare_library,
)
from eventlog.kafka.topic_id import NO_ID, TopicWatch, commit_metadata, committed_topic_id
from eventlog.ports import Batch, LoggedEvent, Partition, RevokeListener
from schemas.errors import RetryableError, StartupError

log = structlog.get_logger("kafka_source")

# aiokafka fetches in the background, so its buffer is polled: first often, for low latency, then less often, because an
# idle log need not cost CPU.
_POLL_MS_MIN = 1
_POLL_MS_MAX = 10
# How long `fetch` takes while nothing more may be fetched; without a pause its caller's loop would spin.
_PAUSE_MS = 5
# How long `fetch` waits for the first offset of a partition that has a gap. Without it the partition is read again.
_LOG_START_WAIT_MS = 1_000


@dataclass(frozen=True, slots=True)
class KafkaSourceSettings:
    """Where and how events are read."""

    connection: KafkaConnection
    topic: str
    group: str
    client_id: str = "auditap-ingestor"
    fetch_wait_ms: int = 200
    """How long `fetch` waits for events."""
    fetch_bytes_max: int = 32 * 1024 * 1024
    """Compressed bytes per fetch request; a single larger batch still comes."""
    partition_fetch_bytes_max: int = 1024 * 1024
    """The same for one partition: so much is prefetched of each."""
    session_timeout_ms: int = 10_000
    """After this time without a heartbeat the group assigns our partitions to others."""
    heartbeat_interval_ms: int = 1_000
    revoke_wait_ms: int = 15_000
    """How long the listener may take in `on_revoked`."""
    rebalance_timeout_ms: int = 30_000
    """How long the group waits for its members to rejoin; above `revoke_wait_ms`."""
    max_poll_interval_ms: int = 300_000
    """Without a `fetch` for so long we leave the group, because nobody processes our partitions."""
    request_timeout_ms: int = 10_000
    start_wait_ms: int = 60_000
    commit_wait_ms: int = 5_000
    stop_wait_ms: int = 5_000


class KafkaSource:
    """`EventSource` from Kafka. Every assignment, even of the same partitions, is a new generation.

    A generation reads one topic, whose id is committed beside every position. A position of another topic with the same name
    counts for nothing: reading begins at offset 0. While a generation lasts the id is asked for again and again, because the
    protocol names the topic, and would go on in another one. Brokers without topic ids (before Kafka 2.8) leave only the offsets:
    where they go back, reading begins again too.

    If the committed offset has been deleted, reading goes on at the earliest one, and the batch has `lost`. If the log holds
    offsets that a partition's events leave out, they are read once more: a consumer that was reset by one broker may find them
    at another. If that gives nothing new, they are passed over: markers of transactions have no event. A consumer that fails is
    replaced.
    """

    def __init__(self, settings: KafkaSourceSettings, listener: RevokeListener) -> None:
        self._settings = settings
        self._listener = listener
        self._consumer: AIOKafkaConsumer | None = None
        self._started = False
        self._generation = 0
        self._assigned: set[TopicPartition] = set()
        self._expected: dict[TopicPartition, int] = {}
        self._read_again: set[TopicPartition] = set()
        """Partitions with a gap that are being read once more from where it begins."""
        self._rebalancing = True
        self._watch: TopicWatch | None = None
        self._topic_id: str | None = None
        """Of the topic that this generation reads; None: there was none when it began."""
        self._last_topic_id = NO_ID
        """The last id that was known."""
        self._failed_to_begin = False
        self._rejoining: asyncio.Task[Any] | None = None
        self._committing: asyncio.Task[None] | None = None
        self._commits = asyncio.Lock()

    async def start(self) -> None:
        """Join the group. Raises RetryableError while Kafka is away, StartupError where waiting cannot help."""
        self._started = True
        try:
            await self._join()
        except BaseException:
            self._started = False
            raise

    async def _join(self) -> None:
        prepare_library()
        consumer = _new_consumer(self._settings)
        self._watch = TopicWatch(consumer._client, self._settings.topic)  # noqa: SLF001
        consumer.subscribe([self._settings.topic], listener=_Rebalance(self, consumer))
        starting = asyncio.create_task(consumer.start(), name="kafka-consumer-start")
        try:
            # Cancelled in the middle, aiokafka's start would leave a connection open.
            async with asyncio.timeout(self._settings.start_wait_ms / 1000):
                await asyncio.shield(starting)
        except BaseException as error:
            await self._discard(consumer, starting)
            if isinstance(error, TimeoutError):
                group = self._settings.group
                raise RetryableError(f"the consumer group {group} did not admit us in time") from None
            if isinstance(error, KafkaError | OSError):
                raise connection_error(error, self._settings.topic, self._settings.group) from None
            raise
        if not self._started:
            # Stopped meanwhile: nobody would stop this consumer.
            await self._discard(consumer, None)
            raise RetryableError("the source is not started")
        self._consumer = consumer

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        """See `EventSource.fetch`. Waits at most `fetch_wait_ms`, with `events_max` 0 a few milliseconds, and up to a second more
        where a partition has a gap.

        Returns nothing between a revocation and the next assignment.
        """
        consumer = self._consumer or await self._restart()
        if await self._reads_another_topic(consumer):
            return ()
        wait_ms = self._settings.fetch_wait_ms if events_max > 0 else _PAUSE_MS
        deadline = asyncio.get_running_loop().time() + wait_ms / 1000
        pause_ms = _POLL_MS_MIN
        while True:
            batches = await self._take(consumer, events_max)
            if batches or asyncio.get_running_loop().time() >= deadline or self._consumer is not consumer:
                return batches
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 2, _POLL_MS_MAX)

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """See `EventSource.commit`. Raises RetryableError after `commit_wait_ms`."""
        consumer = self._consumer
        if consumer is None:
            raise RetryableError("the source is not started")
        offsets = {
            TopicPartition(partition.log, partition.number): OffsetAndMetadata(
                offset, commit_metadata(partition.log_id)
            )
            for partition, offset in positions.items()
            if self._is_assigned(partition)
        }
        if not offsets:
            return
        async with self._commits:
            await self._wait_for_commit()
            self._committing = asyncio.create_task(consumer.commit(offsets), name="kafka-commit")
            await self._wait_for_commit()

    def _is_assigned(self, partition: Partition) -> bool:
        # Where there was no topic when the generation began, nobody knows which one its positions are of.
        is_same_topic = self._topic_id is not None and partition.log_id == self._topic_id
        return is_same_topic and TopicPartition(partition.log, partition.number) in self._assigned

    async def _wait_for_commit(self) -> None:
        """Wait for the commit under way. aiokafka retries it without end; the next commit of the generation waits for a late one first."""
        committing = self._committing
        if committing is None:
            return
        await asyncio.wait({committing}, timeout=self._settings.commit_wait_ms / 1000)
        if not committing.done():
            raise RetryableError("Kafka did not take the commit in time")
        self._committing = None
        if committing.cancelled():
            raise RetryableError("the partitions were revoked during the commit")
        error = committing.exception()
        if isinstance(error, CommitFailedError | IllegalStateError):
            # We were removed from the group: whoever has the partitions now starts at our last commit.
            log.warning("commit_outdated")
        elif isinstance(error, KafkaError):
            raise RetryableError(f"Kafka did not take the commit ({type(error).__name__})") from None
        elif error is not None:
            raise error

    async def stop(self) -> None:
        """Leave the group without committing."""
        consumer, self._consumer = self._consumer, None
        self._started = False
        self._assigned.clear()
        self._rebalancing = True
        if consumer is not None:
            await self._discard(consumer, None)

    async def revoked(self, partitions: set[TopicPartition]) -> None:
        """Pass a revocation on to the listener, within `revoke_wait_ms`. aiokafka calls this at each rebalance."""
        self._rebalancing = True
        if partitions:
            revoked = [self._partition(partition) for partition in sorted(partitions)]
            await self._bounded(self._listener.on_revoked(revoked), "on_revoked")
        # aiokafka would go on trying it for as long as one of its partitions does not exist, and later commits would wait for it.
        late, self._committing = self._committing, None
        if late is not None:
            late.cancel()
        self._assigned.clear()
        self._expected.clear()
        self._read_again.clear()

    async def assigned(self, consumer: AIOKafkaConsumer, partitions: set[TopicPartition]) -> None:
        """Start a new generation of these partitions. aiokafka calls this at each rebalance."""
        # Even for the same partitions: batches fetched before the rebalance may be in flight and must not be committed.
        self._generation += 1
        if not await self._begins(consumer, partitions):
            # Without the topic's id nothing may be committed: the next fetch replaces the consumer.
            self._failed_to_begin = True
            return
        self._assigned = set(partitions)
        generations = {self._partition(partition): self._generation for partition in sorted(partitions)}
        await self._bounded(self._listener.on_assigned(generations), "on_assigned")
        # Last: the listener takes no batch of a generation that it does not know, and those events would be missing.
        self._rebalancing = False

    async def _begins(self, consumer: AIOKafkaConsumer, partitions: set[TopicPartition]) -> bool:
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await self._begin(consumer, partitions)
        except (KafkaError, TimeoutError) as error:
            log.warning("generation_not_begun", cause=type(error).__name__)
            return False
        return True

    async def _begin(self, consumer: AIOKafkaConsumer, partitions: set[TopicPartition]) -> None:
        """Learn which topic the generation reads, and where it begins. Raises KafkaError.

        A first offset above the committed position means that the log no longer holds the events between.
        """
        if self._watch is None:
            raise KafkaError
        self._topic_id = await self._watch.find()
        committed = await consumer._coordinator.fetch_committed_offsets(list(partitions))  # noqa: SLF001
        self._expected = {partition: offset for partition, (offset, _) in committed.items()}
        others = {
            partition
            for partition, (_, metadata) in committed.items()
            if self._topic_id and committed_topic_id(metadata) not in {NO_ID, self._topic_id}
        }
        self._note_topic(is_another=bool(others))
        for partition in others:
            consumer.seek(partition, 0)
            self._expected[partition] = 0
        await self._commit_back(consumer, dict.fromkeys(others, 0))

    def _note_topic(self, *, is_another: bool) -> None:
        """Note which topic is read now, and say so if it is another one than before."""
        if not self._topic_id or self._topic_id == self._last_topic_id:
            return
        if is_another or self._last_topic_id:
            log.warning(
                "topic_recreated",
                message=f"The topic {self._settings.topic} is another one than before, under the same name: it is read from"
                " its beginning. What the old one held and was not read is gone with it.",
                topic_id=self._topic_id,
            )
        self._last_topic_id = self._topic_id

    async def _reads_another_topic(self, consumer: AIOKafkaConsumer) -> bool:
        """Return whether another topic has the name now; the consumer is gone then, and the next call begins anew."""
        if self._rebalancing or self._watch is None:
            return False
        found = self._watch.poll()
        if not found or found == self._topic_id:
            return False
        await self._replace(consumer, {})
        return True

    def _partition(self, partition: TopicPartition) -> Partition:
        return Partition(partition.topic, partition.partition, self._topic_id or NO_ID)

    async def _bounded(self, call: Awaitable[None], name: str) -> None:
        try:
            async with asyncio.timeout(self._settings.revoke_wait_ms / 1000):
                await call
        except Exception as fault:  # noqa: BLE001
            # A listener that fails must not block the group: what it did not commit is read again.
            log.error("listener_failed", call=name, fault=type(fault).__name__)

    async def _take(self, consumer: AIOKafkaConsumer, events_max: int) -> Sequence[Batch]:
        if self._failed_to_begin:
            await self._fail(consumer, KafkaError())
        if self._rebalancing:
            await self._rejoin(consumer)
            return ()
        try:
            if events_max <= 0:
                # Polling a partition that does not exist fetches nothing and keeps us in the group.
                await consumer.getmany(TopicPartition(self._settings.topic, -1))
                return ()
            # Without a timeout this does not suspend, so that no rebalance can happen before the generation is read.
            fetched = await consumer.getmany(max_records=events_max)
        except ConsumerStoppedError:
            return ()
        except KafkaError as error:
            await self._fail(consumer, error)
        if back := self._below_expected(fetched):
            await self._go_back(consumer, back)
            return ()
        return await self._batches(consumer, fetched)

    def _below_expected(self, fetched: Mapping[TopicPartition, Sequence[Any]]) -> dict[TopicPartition, int]:
        """Return where partitions go on that do so below what was read of them."""
        return {
            partition: records[0].offset
            for partition, records in fetched.items()
            if records[0].offset < self._expected.get(partition, 0)
        }

    async def _batches(
        self, consumer: AIOKafkaConsumer, fetched: Mapping[TopicPartition, Sequence[Any]]
    ) -> Sequence[Batch]:
        """Return a batch of each partition that goes on where it should, or where the broker's log begins now."""
        generation = self._generation
        gaps = [
            partition
            for partition, records in fetched.items()
            if records[0].offset > self._expected.get(partition, records[0].offset)
        ]
        starts = await asyncio.gather(*(_log_start(consumer, partition) for partition in gaps))
        if self._rebalancing or self._generation != generation:
            # Revoked while the broker was asked: whoever has the partitions now begins at the committed offsets.
            return ()
        log_starts = dict(zip(gaps, starts, strict=True))
        return [
            self._batch(partition, records, log_starts.get(partition) or 0)
            for partition, records in fetched.items()
            if partition not in log_starts
            or self._goes_on(consumer, partition, records[0].offset, log_starts[partition])
        ]

    async def _go_back(self, consumer: AIOKafkaConsumer, starts: Mapping[TopicPartition, int]) -> None:
        """Replace the consumer where partitions begin below what was read: in another topic, or in one that has lost its end."""
        found = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOG_START_WAIT_MS / 1000):
                found = self._watch and await self._watch.find()
        if not found or found == self._topic_id:
            log.error(
                "offsets_went_back",
                message="Partitions begin below offsets that were read: brokers have lost their end, or the topic is another one"
                " under the same name. They are read from their beginning.",
                partitions=len(starts),
            )
        await self._replace(consumer, starts)

    def _goes_on(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, first: int, log_start: int | None
    ) -> bool:
        """Return whether nothing can be read before `first`. If that is not known, the partition is read again."""
        expected = self._expected[partition]
        if log_start is not None:
            if partition in self._read_again or first <= max(expected, log_start):
                return True
            self._read_again.add(partition)
        # A partition that is being revoked is not ours to read.
        with contextlib.suppress(IllegalStateError):
            consumer.seek(partition, max(expected, log_start or 0))
        return False

    def _batch(self, partition: TopicPartition, records: Sequence[Any], log_start: int) -> Batch:
        # A Kafka record may have no value (a tombstone): it is no event, and is dead-lettered as malformed.
        events = [LoggedEvent(record.offset, record.timestamp, record.value or b"") for record in records]
        first = events[0].offset
        expected = self._expected.get(partition, first)
        # What the log still holds is not lost: offsets of transaction markers have no event.
        lost = range(expected, min(log_start, first))
        passed_over = max(first - max(expected, log_start), 0)
        if lost:
            log.error("offsets_lost", partition=partition.partition, count=len(lost))
        if passed_over:
            log.info("offsets_passed_over", partition=partition.partition, count=passed_over)
        self._read_again.discard(partition)
        self._expected[partition] = events[-1].offset + 1
        return Batch(self._partition(partition), self._generation, events, lost or None, passed_over)

    async def _rejoin(self, consumer: AIOKafkaConsumer) -> None:
        """Keep a call of `getmany` open until partitions are assigned.

        aiokafka rejoins the group only if `getmany` was called within `max_poll_interval_ms`, and the call itself
        waits for the assignment.
        """
        rejoining = self._rejoining
        if rejoining is None:
            nowhere = TopicPartition(self._settings.topic, -1)
            rejoining = asyncio.create_task(consumer.getmany(nowhere), name="kafka-rejoin")
            self._rejoining = rejoining
        await asyncio.wait({rejoining}, timeout=_POLL_MS_MAX / 1000)
        if not rejoining.done():
            return
        self._rejoining = None
        # The source was stopped meanwhile.
        if rejoining.cancelled():
            return
        error = rejoining.exception()
        if isinstance(error, ConsumerStoppedError):
            return
        if isinstance(error, KafkaError):
            raise RetryableError(
                f"Kafka's consumer group cannot be joined ({type(error).__name__})"
            ) from None
        if error is not None:
            raise error

    async def _discard(self, consumer: AIOKafkaConsumer, starting: asyncio.Task[None] | None) -> None:
        """Stop a consumer. If the broker hangs, close its connections, so that every request fails."""
        tasks = [task for task in (starting, self._rejoining, self._committing) if task is not None]
        self._rejoining = self._committing = None
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.stop()
        stopping = asyncio.create_task(consumer.stop(), name="kafka-consumer-stop")
        await asyncio.wait({stopping}, timeout=self._settings.stop_wait_ms / 1000)
        if not stopping.done():
            for connection in list(consumer._client._conns.values()):  # noqa: SLF001
                connection.close()
            await asyncio.wait({stopping}, timeout=3 * self._settings.request_timeout_ms / 1000)
        for task in (stopping, *tasks):
            task.cancel()
        stopped, *_ = await asyncio.gather(stopping, *tasks, return_exceptions=True)
        if stopped is not None:
            # aiokafka's stop fails if a request under way fails, and leaves its connections open.
            log.warning("consumer_not_stopped", cause=type(stopped).__name__)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.stop_wait_ms / 1000):
                    await consumer._client.close()  # noqa: SLF001

    async def _restart(self) -> AIOKafkaConsumer:
        if not self._started:
            raise RetryableError("the source is not started")
        try:
            await self._join()
        except StartupError as away:
            raise RetryableError(str(away)) from None
        return self._consumer

    async def _fail(self, consumer: AIOKafkaConsumer, error: BaseException) -> NoReturn:
        """Discard a consumer that raised: its background tasks may have ended, and aiokafka does not restart them."""
        log.warning("consumer_failed", cause=type(error).__name__)
        await self._replace(consumer, {})
        raise RetryableError(f"Kafka cannot be read ({type(error).__name__})") from None

    async def _replace(self, consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int]) -> None:
        """Discard a consumer, so that the next call makes another; `positions`: what to commit first, whatever was before."""
        # First, because the listener commits through this consumer, if that still works.
        await self.revoked(set(self._assigned))
        await self._commit_back(consumer, positions)
        self._consumer = None
        self._failed_to_begin = False
        await self._discard(consumer, None)

    async def _commit_back(self, consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int]) -> None:
        """Commit positions below those that may be committed, so that no reader goes on there."""
        if not positions:
            return
        metadata = commit_metadata(self._topic_id or NO_ID)
        offsets = {partition: OffsetAndMetadata(at, metadata) for partition, at in positions.items()}
        try:
            async with asyncio.timeout(self._settings.commit_wait_ms / 1000):
                await consumer.commit(offsets)
        except (KafkaError, TimeoutError) as error:
            # The next reader finds the same, unless the log has grown beyond the position until then.
            log.warning("commit_failed", cause=type(error).__name__)


async def _log_start(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int | None:
    """Return the first offset that the log holds, or None if its broker does not say so in time."""
    try:
        async with asyncio.timeout(_LOG_START_WAIT_MS / 1000):
            starts: Mapping[TopicPartition, int] = await consumer.beginning_offsets([partition])
    except (KafkaError, TimeoutError) as error:
        log.warning("log_start_unknown", partition=partition.partition, cause=type(error).__name__)
        return None
    return starts[partition]


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes aiokafka's rebalance callbacks on to the source."""

    def __init__(self, source: KafkaSource, consumer: AIOKafkaConsumer) -> None:
        self._source = source
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._source.revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._source.assigned(self._consumer, assigned)


def _new_consumer(settings: KafkaSourceSettings) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        client_id=settings.client_id,
        group_id=settings.group,
        # Only the caller knows what is stored.
        enable_auto_commit=False,
        # A new group must not skip events that collectors have accepted already.
        auto_offset_reset="earliest",
        fetch_max_bytes=settings.fetch_bytes_max,
        max_partition_fetch_bytes=settings.partition_fetch_bytes_max,
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=settings.heartbeat_interval_ms,
        rebalance_timeout_ms=settings.rebalance_timeout_ms,
        max_poll_interval_ms=settings.max_poll_interval_ms,
        request_timeout_ms=settings.request_timeout_ms,
        metadata_max_age_ms=METADATA_AGE_MS_MAX,
        **settings.connection.arguments(),
    )
