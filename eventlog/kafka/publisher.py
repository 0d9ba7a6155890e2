"""`EventPublisher` to Kafka, on an idempotent aiokafka producer whose batches are built here.

A producer is replaced after its first batch that fails or is late: after a failed batch the broker refuses the
partition's next ones as out of sequence, and aiokafka retries a late one without end.

The topic's size limit is learned from its refusals: a batch that is too large makes the next ones smaller, and an event
that is too large by itself is refused from then on without being sent. Other events under way are sent again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from eventlog.kafka.client import (
    METADATA_AGE_MS_MAX,
    KafkaConnection,
    connection_error,
    prepare_library,
)
from schemas.errors import EventsTooLarge, NotDurable, RetryableError, StartupError
from schemas.event import EncodedEvent

log = structlog.get_logger("publisher")


@dataclass(frozen=True, slots=True)
class KafkaPublisherSettings:
    """Where and how events are published."""

    connection: KafkaConnection
    topic: str
    client_id: str = "auditap-publisher"
    publish_deadline_ms: int = 10_000
    """After this time a call raises NotDurable, and its producer is replaced."""
    linger_ms: int = 2
    """How long the first event of a batch waits for others."""
    batch_bytes_max: int = 512 * 1024
    """Size of one batch before compression; a larger event goes alone."""
    event_bytes_max: int = 8 * 1024 * 1024 - 1024
    """Larger events are refused; the topic's `max.message.bytes` must be above it."""
    queue_bytes_max: int = 64 * 1024 * 1024
    """Events accepted and not yet durable; beyond it publishing is refused. Keep it below the broker's
    `socket.request.max.bytes`, because all of it may go into one request."""
    request_timeout_ms: int = 5_000
    reconnect_wait_ms: int = 500
    ready_wait_ms: int = 2_000
    stop_wait_ms: int = 5_000
    compression: str | None = "zstd"


class KafkaPublisher:
    """`EventPublisher` to Kafka: all in-sync replicas have acknowledged before `publish` returns.

    Concurrent calls share batches. While no broker answers, publishing is refused at once.
    """

    def __init__(self, settings: KafkaPublisherSettings) -> None:
        self._settings = settings
        self._queue: deque[_Call] = deque()
        self._calls: dict[_Call, None] = {}
        self._bytes = 0
        self._queued = asyncio.Event()
        self._replace = asyncio.Event()
        self._producer: AIOKafkaProducer | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._discarding: set[asyncio.Task[None]] = set()
        self._sizes = _Sizes(settings.batch_bytes_max)

    async def start(self) -> None:
        """Connect. Raises RetryableError while Kafka is away, StartupError where waiting cannot help."""
        prepare_library()
        self._producer = await self._connect()
        self._supervisor = asyncio.create_task(self._supervise(), name="kafka-publisher")

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        """Return once every event is acknowledged by all in-sync replicas.

        Raises NotDurable within `publish_deadline_ms`; EventsTooLarge where events are larger than `event_bytes_max` or
        than the topic takes.
        """
        if not events:
            return
        call = self._admit(events)
        try:
            async with asyncio.timeout(self._settings.publish_deadline_ms / 1000):
                await call.durable
        except TimeoutError:
            # aiokafka never expires a sent batch of an idempotent producer: it would wait without end, and so would the
            # next ones.
            self._request_replacement(call.producer)
            raise NotDurable("Kafka did not acknowledge in time") from None
        finally:
            self._calls.pop(call, None)
            self._bytes -= call.size

    async def ready(self) -> bool:
        """Return whether a broker answers, a partition has a leader and there is room in the queue."""
        producer = self._producer
        if producer is None or self._bytes >= self._settings.queue_bytes_max:
            return False
        try:
            async with asyncio.timeout(self._settings.ready_wait_ms / 1000):
                answered = bool(await producer.client.force_metadata_update())
        except TimeoutError:
            return False
        return answered and bool(producer.client.cluster.available_partitions_for_topic(self._settings.topic))

    async def stop(self) -> None:
        """Wait at most `stop_wait_ms` for calls under way, refuse the rest, and disconnect."""
        waiting = [call.durable for call in self._calls]
        # Without a producer nothing that waits can become durable.
        if waiting and self._producer is not None:
            await asyncio.wait(waiting, timeout=self._settings.stop_wait_ms / 1000)
        if self._supervisor is not None:
            await _end(self._supervisor)
            self._supervisor = None
        self._abandon()
        if self._discarding:
            await asyncio.wait(self._discarding)

    def _admit(self, events: Sequence[EncodedEvent]) -> _Call:
        too_large = [event.id for event in events if len(event.value) > self._settings.event_bytes_max]
        if too_large:
            raise EventsTooLarge(frozenset(too_large))
        if self._producer is None:
            raise NotDurable("Kafka is away")
        call = _Call(events, self._producer, asyncio.get_running_loop().create_future())
        # An empty queue takes a batch of any size, or one above the bound could never be sent.
        if self._calls and self._bytes + call.size > self._settings.queue_bytes_max:
            raise NotDurable("too much is waiting for Kafka")
        self._bytes += call.size
        self._calls[call] = None
        self._queue.append(call)
        self._queued.set()
        return call

    def _request_replacement(self, producer: AIOKafkaProducer | None) -> None:
        # A late failure of an earlier producer must not cost the present one.
        if producer is not None and producer is self._producer:
            self._replace.set()

    async def _supervise(self) -> None:
        """Keep delivering. When a producer must be replaced, refuse the calls it has and connect another."""
        while True:
            if self._producer is None:
                self._producer = await self._reconnect()
                self._resend(self._producer)
            delivery = asyncio.create_task(self._deliver(self._producer), name="kafka-delivery")
            replace = asyncio.create_task(self._replace.wait(), name="kafka-replace-producer")
            try:
                await asyncio.wait({delivery, replace}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _end(replace)
                fault = await _end(delivery)
            log.warning("producer_replaced", waiting=len(self._calls), fault=fault and type(fault).__name__)
            self._abandon(keep_calls=self._sizes.learned())

    def _abandon(self, *, keep_calls: bool = False) -> None:
        """Discard the producer in the background. Refuse all calls under way, or keep them to be sent again."""
        producer, self._producer = self._producer, None
        self._replace.clear()
        self._queue.clear()
        for call in self._calls:
            if keep_calls:
                call.restart(None)
            else:
                call.refuse(NotDurable("Kafka is away"))
        if producer is not None:
            self._in_background(_discard(producer, 2 * self._settings.request_timeout_ms / 1000))

    def _resend(self, producer: AIOKafkaProducer) -> None:
        """Queue the calls that the previous producer left."""
        for call in self._calls:
            if call.producer is None and not call.durable.done():
                call.restart(producer)
                self._queue.append(call)
                self._queued.set()

    def _in_background(self, discarding: Any) -> None:
        task = asyncio.create_task(discarding, name="kafka-producer-discard")
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def _reconnect(self) -> AIOKafkaProducer:
        attempts = 1
        while True:
            try:
                producer = await self._connect()
            # Only at the first start may a StartupError end the process: events that were accepted depend on it now.
            except (RetryableError, StartupError) as away:
                if attempts == 1:
                    log.warning("kafka_away", cause=str(away))
                attempts += 1
                await asyncio.sleep(self._settings.reconnect_wait_ms / 1000)
            else:
                log.info("kafka_back", attempts=attempts)
                return producer

    async def _connect(self) -> AIOKafkaProducer:
        producer = _new_producer(self._settings, self._sizes.batch_bytes_max)
        starting = asyncio.create_task(_start(producer, self._settings), name="kafka-producer-start")
        try:
            # Cancelled in the middle, aiokafka's start would leave a connection open.
            await asyncio.shield(starting)
        except BaseException as error:
            self._in_background(_discard_when(starting, producer, self._settings.stop_wait_ms / 1000))
            if isinstance(error, KafkaError | OSError):
                raise connection_error(error, self._settings.topic) from None
            raise
        return producer

    async def _deliver(self, producer: AIOKafkaProducer) -> None:
        """Pack queued calls into batches and send them, spread evenly over the partitions that have a leader."""
        spread = _Spread()
        while True:
            await self._queued.wait()
            if sum(call.size for call in self._queue) < self._settings.batch_bytes_max:
                await asyncio.sleep(self._settings.linger_ms / 1000)
            self._queued.clear()
            self._refuse_too_large(producer)
            for batch in _pack(producer, self._queue):
                partition = spread.next(_partitions(producer, self._settings.topic), batch.builder.size())
                try:
                    sent = await producer.send_batch(batch.builder, self._settings.topic, partition=partition)
                except KafkaError as error:
                    self._fail(producer, error)
                    return
                sent.add_done_callback(lambda done, batch=batch: self._on_sent(producer, done, batch))

    def _refuse_too_large(self, producer: AIOKafkaProducer) -> None:
        for call in self._queue:
            too_large = [event.id for event in call.events if self._sizes.too_large(producer, event)]
            if too_large:
                call.refuse(EventsTooLarge(frozenset(too_large)))

    def _on_sent(self, producer: AIOKafkaProducer, done: asyncio.Future[Any], batch: _Batch) -> None:
        # `_discard` cancelled it; its calls have been refused, or are sent again.
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
                self._sizes.learn(batch.builder, batch.bytes_before_compression)
            self._fail(producer, error)
            return
        for call in batch.sharers:
            # A call that is being sent again counts its new batches alone.
            if call.producer is producer:
                call.done_one()

    def _fail(self, producer: AIOKafkaProducer, error: BaseException) -> None:
        log.warning("batch_failed", cause=type(error).__name__)
        self._request_replacement(producer)


class _Call:
    """One call of `publish`. `durable` is resolved when no batch with its events is outstanding."""

    __slots__ = ("_outstanding", "durable", "events", "producer", "size")

    def __init__(
        self, events: Sequence[EncodedEvent], producer: AIOKafkaProducer, durable: asyncio.Future[None]
    ) -> None:
        self.events = events
        self.producer: AIOKafkaProducer | None = producer
        self.durable = durable
        self.size = sum(len(event.value) for event in events)
        self._outstanding = 0

    def restart(self, producer: AIOKafkaProducer | None) -> None:
        """Discard what was sent so far: only batches of this producer count from now on."""
        self.producer = producer
        self._outstanding = 0

    def wait_for_one(self) -> None:
        self._outstanding += 1

    def done_one(self) -> None:
        self._outstanding -= 1
        if self._outstanding == 0 and not self.durable.done():
            self.durable.set_result(None)

    def refuse(self, refusal: NotDurable | EventsTooLarge) -> None:
        if not self.durable.done():
            self.durable.set_exception(refusal)
            # Its caller may have been cancelled meanwhile; asyncio must not report the exception as never retrieved.
            self.durable.exception()


class _Batch(NamedTuple):
    """A batch and the calls with events in it."""

    builder: Any
    sharers: Sequence[_Call]
    bytes_before_compression: int


class _Sizes:
    """The topic's size limits, as learned from its refusals."""

    def __init__(self, batch_bytes_max: int) -> None:
        self.batch_bytes_max = batch_bytes_max
        self._alone_bytes_max: int | None = None
        self._learned = False

    def learn(self, builder: Any, bytes_before_compression: int) -> None:
        """Learn from a batch that was refused as too large."""
        self._learned = True
        if builder.record_count() == 1:
            self._alone_bytes_max = min(self._alone_bytes_max or builder.size(), builder.size() - 1)
        else:
            refused_bytes = min(self.batch_bytes_max, bytes_before_compression)
            self.batch_bytes_max = max(1, refused_bytes // 4)
        log.warning("batch_too_large", events=builder.record_count(), batch_bytes=builder.size())

    def learned(self) -> bool:
        """Return whether a limit was learned since the last call."""
        learned, self._learned = self._learned, False
        return learned

    def too_large(self, producer: AIOKafkaProducer, event: EncodedEvent) -> bool:
        """Return whether an event would be refused even in a batch of its own."""
        # An event this small fits whatever compression does, so only those near the limit are compressed on trial.
        if self._alone_bytes_max is None or len(event.value) <= self._alone_bytes_max // 2:
            return False
        builder = producer.create_batch()
        builder.append(timestamp=event.received_ms, key=None, value=event.value)
        # Its compressed size is known only after building it.
        builder._build()  # noqa: SLF001
        return bool(builder.size() > self._alone_bytes_max)


class _Spread:
    """Chooses for each batch the partition that has got the fewest bytes."""

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}

    def next(self, partitions: AbstractSet[int], size: int) -> int:
        if self._bytes.keys() != partitions:
            self._bytes = dict.fromkeys(sorted(partitions), 0)
        partition = min(self._bytes, key=self._bytes.__getitem__)
        self._bytes[partition] += size
        return partition


def _pack(producer: AIOKafkaProducer, queue: deque[_Call]) -> Iterator[_Batch]:
    """Empty the queue into batches. Calls that were cancelled are left out.

    While a call is being packed, the packing itself counts as outstanding: a batch acknowledged early must not make
    the call durable.
    """
    builder, sharers = producer.create_batch(), list[_Call]()
    while queue:
        call = queue.popleft()
        if call.durable.done():
            continue
        call.wait_for_one()
        sharers.append(call)
        call.wait_for_one()
        for event in call.events:
            # No key: keyed by account, one large tenant would own one partition. The builder returns None when it is
            # full, but takes a first event of any size.
            if builder.append(timestamp=event.received_ms, key=None, value=event.value) is None:
                yield _Batch(builder, sharers, builder.size())
                builder, sharers = producer.create_batch(), [call]
                call.wait_for_one()
                builder.append(timestamp=event.received_ms, key=None, value=event.value)
        call.done_one()
    if sharers:
        builder.close()
        yield _Batch(builder, sharers, builder.size())


def _partitions(producer: AIOKafkaProducer, topic: str) -> AbstractSet[int]:
    cluster = producer.client.cluster
    # If no partition has a leader, the batch waits for one within the caller's deadline.
    known: AbstractSet[int] = cluster.available_partitions_for_topic(topic) or cluster.partitions_for_topic(
        topic
    )
    return known


def _new_producer(settings: KafkaPublisherSettings, batch_bytes_max: int) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        client_id=settings.client_id,
        # aiokafka's own retries then write no duplicates.
        enable_idempotence=True,
        # All in-sync replicas: with min.insync.replicas 2, no single broker's loss loses an accepted event.
        acks="all",
        compression_type=settings.compression,
        max_batch_size=batch_bytes_max,
        request_timeout_ms=settings.request_timeout_ms,
        metadata_max_age_ms=METADATA_AGE_MS_MAX,
        **settings.connection.arguments(),
    )


async def _start(producer: AIOKafkaProducer, settings: KafkaPublisherSettings) -> None:
    """Connect and fetch the topic's partitions. Raises KafkaError."""
    hosts = len(settings.connection.hosts)
    try:
        # Per host: connect, API versions, metadata. Then three requests for the producer id.
        async with asyncio.timeout((3 * hosts + 3) * settings.request_timeout_ms / 1000):
            await producer.start()
            await producer.partitions_for(settings.topic)
    except TimeoutError:
        raise KafkaError from None


async def _discard_when(starting: asyncio.Task[None], producer: AIOKafkaProducer, wait_s: float) -> None:
    await asyncio.wait({starting}, timeout=wait_s)
    await _end(starting)
    await _discard(producer, wait_s)


async def _discard(producer: AIOKafkaProducer, wait_s: float) -> None:
    """Stop a producer within about twice `wait_s`.

    aiokafka's own `stop` first waits for every batch, without end while Kafka is away. So the sender is cancelled first
    and the batches are dropped; their callers have been refused.
    """
    sender, accumulator = producer._sender, producer._message_accumulator  # noqa: SLF001
    if sender.sender_task is not None:
        sender.sender_task.cancel()
        for connection in list(producer.client._conns.values()):  # noqa: SLF001
            connection.close()
        await asyncio.wait({sender.sender_task}, timeout=wait_s)
    for batches in accumulator._batches.values():  # noqa: SLF001
        # A batch queued for a retry removes itself from the pending ones on cancel and fails if it is not there.
        accumulator._pending_batches.update(batches)  # noqa: SLF001
        for batch in batches:
            batch.future.cancel()
    for batch in list(accumulator._pending_batches):  # noqa: SLF001
        batch.future.cancel()
    try:
        async with asyncio.timeout(wait_s):
            await producer.stop()
    except (TimeoutError, KafkaError) as error:
        log.warning("producer_not_stopped", cause=type(error).__name__)


async def _end(task: asyncio.Task[Any]) -> BaseException | None:
    """Cancel a task, wait for its end, and return its exception, if any."""
    task.cancel()
    await asyncio.wait({task})
    return None if task.cancelled() else task.exception()
