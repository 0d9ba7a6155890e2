"""Events from Kafka: an aiokafka consumer in a group, committing only what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from ingestor.ports import Batch, Partition, RevokeListener, SourceEvent
from schemas.errors import RetryableError, StartupError

log = structlog.get_logger("kafka_source")

_POLL_MS_FIRST = 1
_POLL_MS_LAST = 10
_FULL_WAIT_MS = 5


@dataclass(frozen=True, slots=True)
class KafkaSourceSettings:
    """Where and how events are read; every bound is a setting."""

    bootstrap_servers: str
    """Comma-separated `host:port`."""
    topic: str
    group: str
    client_id: str = "auditap-ingestor"
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """aiokafka's `security_protocol`, `ssl_context`, `sasl_mechanism`, `sasl_plain_username`, `sasl_plain_password`."""
    fetch_wait_ms: int = 200
    """How long `fetch` waits for events."""
    fetch_bytes_max: int = 32 * 1024 * 1024
    """Compressed bytes that one request may bring; a single larger batch still comes."""
    partition_fetch_bytes_max: int = 1024 * 1024
    """The same for one partition; that much is read ahead of each."""
    session_timeout_ms: int = 10_000
    """After this long without a sign of life the group gives our partitions to others."""
    heartbeat_interval_ms: int = 1_000
    revoke_wait_ms: int = 15_000
    """How long the listener may take to let partitions go."""
    rebalance_timeout_ms: int = 30_000
    """How long the group waits for its members to let go; above `revoke_wait_ms`."""
    max_poll_interval_ms: int = 300_000
    """Without a `fetch` for so long we leave the group, because nothing would be done with our partitions."""
    request_timeout_ms: int = 10_000
    start_wait_ms: int = 60_000
    commit_wait_ms: int = 5_000
    stop_wait_ms: int = 5_000


class KafkaSource:
    """`EventSource` on Kafka. Every assignment, even of the same partitions, is a new generation.

    An offset that is no longer there is followed to the earliest one that is, and the batch says so. A consumer that
    fails is replaced.
    """

    def __init__(self, settings: KafkaSourceSettings, listener: RevokeListener) -> None:
        self._settings = settings
        self._listener = listener
        self._consumer: AIOKafkaConsumer | None = None
        self._wanted = False
        self._generation = 0
        self._assigned: set[TopicPartition] = set()
        self._expected: dict[TopicPartition, int] = {}
        self._rebalancing = True
        self._rejoining: asyncio.Task[Any] | None = None
        self._committing: asyncio.Task[None] | None = None
        self._commits = asyncio.Lock()

    async def start(self) -> None:
        """Join the group. Raises RetryableError while Kafka is away, StartupError where waiting cannot help."""
        _quiet_library()
        consumer = _new_consumer(self._settings)
        consumer.subscribe([self._settings.topic], listener=_Rebalance(self, consumer))
        starting = asyncio.create_task(consumer.start(), name="kafka-consumer-start")
        try:
            # Cancelled in the middle, aiokafka's start would leave a connection open.
            async with asyncio.timeout(self._settings.start_wait_ms / 1000):
                await asyncio.shield(starting)
        except BaseException as error:
            await self._discard(consumer, starting)
            if isinstance(error, KafkaError | OSError):
                raise self._startup_failure(error) from None
            raise
        self._consumer = consumer
        self._wanted = True

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        """Return what is there, waiting at most `fetch_wait_ms`; with `events_max` 0 a few milliseconds.

        Nothing comes from the moment partitions are taken away until the next ones are assigned. Raises
        RetryableError.
        """
        consumer = self._consumer or await self._restart()
        wait_ms = self._settings.fetch_wait_ms if events_max > 0 else _FULL_WAIT_MS
        deadline = asyncio.get_running_loop().time() + wait_ms / 1000
        pause_ms = _POLL_MS_FIRST
        while True:
            batches = await self._take(consumer, events_max)
            if batches or asyncio.get_running_loop().time() >= deadline:
                return batches
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 2, _POLL_MS_LAST)

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """Commit each position; those of partitions that are no longer ours are passed over.

        Raises RetryableError after `commit_wait_ms`.
        """
        consumer = self._consumer
        if consumer is None:
            raise RetryableError("the source is not started")
        offsets = {TopicPartition(*partition): offset for partition, offset in positions.items()}
        offsets = {partition: offset for partition, offset in offsets.items() if partition in self._assigned}
        if not offsets:
            return
        async with self._commits:
            await self._end_of_commit()
            self._committing = asyncio.create_task(consumer.commit(offsets), name="kafka-commit")
            await self._end_of_commit()

    async def _end_of_commit(self) -> None:
        """Wait for the commit under way. aiokafka tries it without end; one that is late is waited for by the next."""
        if self._committing is None:
            return
        await asyncio.wait({self._committing}, timeout=self._settings.commit_wait_ms / 1000)
        if not self._committing.done():
            raise RetryableError("Kafka did not take the commit in time")
        error, self._committing = self._committing.exception(), None
        if isinstance(error, CommitFailedError | IllegalStateError):
            # The group has moved on without us: whoever has the partitions now starts where we last committed.
            log.warning("commit_passed_over")
        elif isinstance(error, KafkaError):
            raise RetryableError(f"Kafka did not take the commit ({type(error).__name__})") from None
        elif error is not None:
            raise error

    async def stop(self) -> None:
        """Leave the group without committing anything."""
        consumer, self._consumer = self._consumer, None
        self._wanted = False
        self._assigned.clear()
        self._rebalancing = True
        if consumer is not None:
            await self._discard(consumer, None)

    async def revoked(self, partitions: set[TopicPartition]) -> None:
        """Tell the listener, within `revoke_wait_ms`, that the partitions go. aiokafka calls this at each rebalance."""
        self._rebalancing = True
        if partitions:
            telling = self._listener.on_revoked([Partition(*partition) for partition in sorted(partitions)])
            await self._bounded(telling, "on_revoked")
        self._assigned.clear()
        self._expected.clear()

    async def assigned(self, consumer: AIOKafkaConsumer, partitions: set[TopicPartition]) -> None:
        """Begin a new generation of these partitions. aiokafka calls this at each rebalance."""
        self._generation += 1
        self._assigned = set(partitions)
        await self._bounded(self._expect(consumer, partitions), "committed")
        generations = {Partition(*partition): self._generation for partition in sorted(partitions)}
        await self._bounded(self._listener.on_assigned(generations), "on_assigned")
        self._rebalancing = False

    async def _expect(self, consumer: AIOKafkaConsumer, partitions: set[TopicPartition]) -> None:
        """Learn where reading is to go on: only so does it show that the log no longer holds what comes next."""
        for partition in partitions:
            committed = await consumer.committed(partition)
            if committed is not None:
                self._expected[partition] = committed

    async def _bounded(self, telling: Awaitable[None], what: str) -> None:
        try:
            async with asyncio.timeout(self._settings.revoke_wait_ms / 1000):
                await telling
        except Exception as fault:  # noqa: BLE001
            # A listener that fails must not keep the group waiting: what it did not commit is read again.
            log.error("listener_failed", call=what, fault=type(fault).__name__)

    async def _take(self, consumer: AIOKafkaConsumer, events_max: int) -> Sequence[Batch]:
        if self._rebalancing:
            await self._rejoin(consumer)
            return ()
        try:
            if events_max <= 0:
                # Asking a partition that is not there takes nothing, and shows the group that we are alive.
                await consumer.getmany(TopicPartition(self._settings.topic, -1))
                return ()
            # Without a time to wait this does not suspend, so that no rebalance can come in between.
            taken = await consumer.getmany(max_records=events_max)
        except KafkaError as error:
            await self._fail(consumer, error)
        return [self._batch(partition, records) for partition, records in taken.items()]

    def _batch(self, partition: TopicPartition, records: Sequence[Any]) -> Batch:
        # A record of Kafka may have no value at all: it is no event, and is buried as one that is malformed.
        events = [SourceEvent(record.offset, record.timestamp, record.value or b"") for record in records]
        expected, lost_from = self._expected.get(partition), None
        if expected is not None and events[0].offset > expected:
            lost_from = expected
            log.error("offsets_lost", partition=partition.partition, count=events[0].offset - expected)
        self._expected[partition] = events[-1].offset + 1
        return Batch(Partition(*partition), self._generation, events, lost_from)

    async def _rejoin(self, consumer: AIOKafkaConsumer) -> None:
        """Keep a call of `getmany` open until partitions are assigned: aiokafka rejoins only while one was made
        within `max_poll_interval_ms`, and the call itself waits for the assignment.
        """
        if self._rejoining is None:
            nowhere = TopicPartition(self._settings.topic, -1)
            self._rejoining = asyncio.create_task(consumer.getmany(nowhere), name="kafka-rejoin")
        await asyncio.wait({self._rejoining}, timeout=_POLL_MS_LAST / 1000)
        if not self._rejoining.done():
            return
        rejoining, self._rejoining = self._rejoining, None
        error = rejoining.exception()
        if isinstance(error, KafkaError):
            raise RetryableError(
                f"Kafka's consumer group is not to be had ({type(error).__name__})"
            ) from None
        if error is not None:
            raise error

    async def _discard(self, consumer: AIOKafkaConsumer, starting: asyncio.Task[None] | None) -> None:
        """Stop a consumer; where the broker hangs, cut its connections, so that every request fails by itself."""
        tasks = [task for task in (starting, self._rejoining, self._committing) if task is not None]
        self._rejoining = self._committing = None
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
            # aiokafka's stop fails over a request that was under way and leaves the rest open.
            log.warning("consumer_not_stopped", cause=type(stopped).__name__)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.stop_wait_ms / 1000):
                    await consumer._client.close()  # noqa: SLF001

    async def _restart(self) -> AIOKafkaConsumer:
        if not self._wanted:
            raise RetryableError("the source is not started")
        try:
            await self.start()
        except StartupError as away:
            raise RetryableError(str(away)) from None
        return self._consumer

    async def _fail(self, consumer: AIOKafkaConsumer, error: BaseException) -> NoReturn:
        """Give up a consumer that raised: aiokafka's background tasks may have ended, which nothing brings back."""
        log.warning("consumer_failed", cause=type(error).__name__)
        await self.revoked(set(self._assigned))
        self._consumer = None
        await self._discard(consumer, None)
        raise RetryableError(f"Kafka cannot be read ({type(error).__name__})") from None

    def _startup_failure(self, error: Exception) -> StartupError | RetryableError:
        if isinstance(error, UnknownTopicOrPartitionError):
            return StartupError(
                f"the topic {self._settings.topic} does not exist: create it with `auditap topics`"
            )
        if isinstance(error, TopicAuthorizationFailedError):
            return StartupError(f"Kafka forbids this user the topic {self._settings.topic}")
        if isinstance(error, GroupAuthorizationFailedError):
            return StartupError(f"Kafka forbids this user the consumer group {self._settings.group}")
        if isinstance(error, TimeoutError):
            return RetryableError(f"the consumer group {self._settings.group} did not take us in in time")
        return RetryableError("Kafka does not answer, or not with these security settings")


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    """aiokafka's view of the source."""

    def __init__(self, source: KafkaSource, consumer: AIOKafkaConsumer) -> None:
        self._source = source
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._source.revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._source.assigned(self._consumer, assigned)


def _new_consumer(settings: KafkaSourceSettings) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers,
        client_id=settings.client_id,
        group_id=settings.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_bytes=settings.fetch_bytes_max,
        max_partition_fetch_bytes=settings.partition_fetch_bytes_max,
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=settings.heartbeat_interval_ms,
        rebalance_timeout_ms=settings.rebalance_timeout_ms,
        max_poll_interval_ms=settings.max_poll_interval_ms,
        request_timeout_ms=settings.request_timeout_ms,
        **settings.security,
    )


def _quiet_library() -> None:
    """Keep aiokafka silent: its debug lines hold whole answers, and while a broker is away it repeats its errors."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
