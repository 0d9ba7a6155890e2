"""Reads events from Kafka with Faust: an application with one agent, in a consumer group of its own.

The offsets that Faust commits are a hint; the positions in the store are the truth: see docs/adr/0017. Positions are of a topic's id, not
of its name: see docs/adr/0033.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import faust
import structlog
from faust.types import TP

from alerting.faust_app import FaustSettings, application
from alerting.gap_detector import GapDetector
from alerting.processor import AlertingLimits, AlertProcessor
from eventlog.kafka.topic_id import NO_ID, TopicWatch, own_topic_watch
from eventlog.ports import LoggedEvent, Partition
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics

log = structlog.get_logger("alerting.kafka")
# How often the lag is published. So many checks in a row without a batch, though the log has more, and the stored
# positions are read again; one alone may only fall between two batches.
_MONITOR_S = 1.0
_IDLE_CHECKS = 3
# Without an answer by then, reading goes on at the stored position.
_LOG_START_WAIT_S = 5
# How long a broker may take to name the topic after Faust has ended.
_TOPIC_WAIT_S = 10


class FaustConsumer:
    """Hands the topic's events to a processor, batch after batch, and acknowledges them once they are processed.

    If another topic gets the name, it is read from its beginning.
    """

    def __init__(
        self, settings: FaustSettings, processor: AlertProcessor, limits: AlertingLimits, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._processor = processor
        self._limits = limits
        self._metrics = metrics

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set. While there is no topic, wait for it.

        Raises a fault of the program as it is, RetryableError where Faust ends or Kafka is away at the start.
        """
        _silence_libraries()
        known = None
        async with own_topic_watch(self._settings.connection, self._settings.topic) as watch:
            while (topic_id := await _unless_stopped(stop, watch.existing())) is not None:
                if known is not None:
                    log.warning(
                        "topic_recreated",
                        message=f"The topic {self._settings.topic} is another one than before, under the same name: it is read"
                        " from its beginning.",
                        topic_id=topic_id,
                    )
                known = topic_id
                await self._processor.begin_log(self._settings.topic, topic_id)
                reader = _TopicReader(self._settings, topic_id, self._processor, self._limits, self._metrics)
                try:
                    await reader.run(stop, watch)
                except RetryableError as ended:
                    # Faust may end where its topic does.
                    if await _is_current(watch, topic_id):
                        raise
                    log.warning("reader_replaced", cause=str(ended))


class _TopicReader:
    """One application, which reads one topic.

    It begins after the topic's id is known. So what it reads may be of a later topic, and is read again under that one's id; it is
    never of an earlier one, and no position in the topic passes over an event.
    """

    def __init__(
        self,
        settings: FaustSettings,
        topic_id: str,
        processor: AlertProcessor,
        limits: AlertingLimits,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._topic_id = topic_id
        self._processor = processor
        self._limits = limits
        self._metrics = metrics
        self._gaps = GapDetector()
        self._batches = 0
        self._is_processing = False
        self._failed: asyncio.Future[None] | None = None

    async def run(self, stop: asyncio.Event, watch: TopicWatch) -> None:
        """Consume until `stop` is set or another topic has the name. Raises as `FaustConsumer.run` does."""
        self._failed = asyncio.get_running_loop().create_future()
        app = application(self._settings, self._limits)
        topic = app.topic(self._settings.topic, key_serializer="raw", value_serializer="raw")
        app.agent(topic, name="auditap-alerting")(self._agent(app))
        app.on_partitions_assigned.connect(self._on_rebalance)
        app.on_partitions_revoked.connect(self._on_rebalance)
        app.finalize()
        await app.start()
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._monitor(app), name="alerting-monitor"),
            asyncio.create_task(watch.another(self._topic_id), name="alerting-topic"),
            asyncio.create_task(stop.wait(), name="alerting-stop"),
            asyncio.create_task(_crash_of(app), name="alerting-crash"),
        ]
        try:
            awaited: set[asyncio.Future[Any]] = {*tasks, self._failed}
            done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not self._failed.done():
                self._failed.cancel()
            await app.stop()

    def _agent(self, app: faust.App) -> Any:
        async def process(stream: Any) -> None:
            # Not `take`, which acknowledges its batch in a `finally`: a batch whose agent raised would be lost.
            async for batch in stream.noack_take(
                self._limits.batch_events_max, within=self._limits.batch_wait_ms / 1000
            ):
                try:
                    self._is_processing = True
                    await self._process(app, batch)
                    self._is_processing = False
                except Exception as fault:  # noqa: BLE001
                    # If the agent raised, Faust would restart it behind this batch and acknowledge what follows.
                    if self._failed is not None and not self._failed.done():
                        self._failed.set_exception(fault)
                    await asyncio.Event().wait()
                for event in batch:
                    await stream.ack(event)

        return process

    async def _process(self, app: faust.App, batch: Sequence[Any]) -> None:
        self._batches += 1
        events: dict[Partition, list[LoggedEvent]] = {}
        for event in batch:
            message = event.message
            # A Kafka record may have no value at all; it cannot be an event, and is skipped as malformed.
            value = message.value or b""
            received_ms = round(message.timestamp * 1000)
            partition = self._partition(message)
            events.setdefault(partition, []).append(LoggedEvent(message.offset, received_ms, value))
        positions = await self._processor.positions(events)
        admission = self._gaps.admit(events, positions)
        if admission.events:
            await self._processor.process(admission.events)
        for partition, offset in admission.rewind_to.items():
            start = await _log_start(app, partition)
            if start > offset:
                self._gaps.rewind(partition, start)
            await _seek(app, partition, max(offset, start))

    async def _on_rebalance(self, *_arguments: Any, **_more: Any) -> None:
        self._gaps.reset()
        self._processor.reset()

    async def _monitor(self, app: faust.App) -> None:
        """Publish the lag; rewind to the stored positions if no batch arrives although the log has more."""
        idle_checks, seen = 0, -1
        while True:
            await asyncio.sleep(_MONITOR_S)
            # A batch that waits for the store is not idle: to read it again would not help.
            is_idle = self._batches == seen and not self._is_processing
            idle_checks = idle_checks + 1 if is_idle else 0
            seen = self._batches
            with contextlib.suppress(Exception):
                lag = await self._lag(app)
                self._metrics.alerting_lag_events.set(sum(lag.values()))
                self._metrics.partitions_assigned.set(len(app.consumer.assignment()))
                if idle_checks >= _IDLE_CHECKS:
                    idle_checks = 0
                    await self._rewind(app, lag)

    async def _lag(self, app: faust.App) -> dict[Partition, int]:
        """Return how many events of each assigned partition are not processed yet."""
        partitions = {
            self._partition(tp): tp for tp in app.consumer.assignment() if tp.topic == self._settings.topic
        }
        if not partitions:
            return {}
        starts = await app.consumer.earliest_offsets(*partitions.values())
        ends = await app.consumer.highwaters(*partitions.values())
        positions = await self._processor.positions(partitions)
        return {
            partition: max(ends.get(tp, 0) - max(positions.get(partition, 0), starts.get(tp, 0)), 0)
            for partition, tp in partitions.items()
        }

    async def _rewind(self, app: faust.App, lag: Mapping[Partition, int]) -> None:
        positions = await self._processor.positions(lag)
        for partition, events in lag.items():
            if events:
                position = positions.get(partition, 0)
                self._gaps.rewind(partition, position)
                await _seek(app, partition, position)

    def _partition(self, at: Any) -> Partition:
        """Return the partition of a message or of Faust's partition."""
        return Partition(at.topic, at.partition, self._topic_id)


async def _log_start(app: faust.App, partition: Partition) -> int:
    """Return the first offset that the log holds, or 0 if its broker does not say so in time."""
    at = TP(partition.log, partition.number)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_LOG_START_WAIT_S):
            return int((await app.consumer.earliest_offsets(at))[at])
    return 0


async def _seek(app: faust.App, partition: Partition, offset: int) -> None:
    at = TP(partition.log, partition.number)
    # Revoked meanwhile: whoever has it now begins at its stored position.
    if at not in app.consumer.assignment():
        return
    log.warning("reading_again", partition=partition.number, offset=offset)
    await app.consumer.seek(at, offset)


async def _is_current(watch: TopicWatch, topic_id: str) -> bool:
    """Return whether the topic of this id still has the name, as far as is known."""
    try:
        async with asyncio.timeout(_TOPIC_WAIT_S):
            return await watch.find() in {topic_id, NO_ID}
    except TimeoutError:
        return True


async def _unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, str]) -> str | None:
    """Return the result of `work`, or None if `stop` is set before that."""
    working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return None if stop.is_set() else working.result()
    finally:
        for task in (working, stopped):
            task.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)


async def _crash_of(app: faust.App) -> None:
    await app.wait_until_stopped()
    raise RetryableError(f"Faust has ended ({_place(app.crash_reason)})")


def _place(fault: BaseException | None) -> str:
    """Return the type and place of a fault, without its message, which may hold values from traffic."""
    if fault is None:
        return "stopped"
    frames = traceback.extract_tb(fault.__traceback__)
    at = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(fault).__name__}{at}"


def _silence_libraries() -> None:
    # They log what they process, values from traffic included.
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
