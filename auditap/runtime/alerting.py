"""`auditap alerting`: evaluates rules on the stream of events, beside the pipeline. A fault here never reaches it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import msgspec
import structlog

from alerting.channels import Channels
from alerting.delivery import Deliverer
from alerting.ports import EventBuilder
from alerting.postgres_store import PostgresAlertStore
from alerting.processor import AlertingLimits, AlertProcessor
from alerting.rules_file import RulesFile
from alerting.rules_parser import LOOK_BACK_DAYS_MAX
from auditap.plain_text import print_json
from auditap.runtime.embedded_log import own_event_log
from auditap.runtime.health import Health, health_server
from auditap.runtime.kafka import connection_of
from auditap.runtime.lifecycle import clock_ms, run_until, start_with_retries
from auditap.settings import Settings, ensure_data_dir, health_token, required_dsn
from eventlog.embedded.log import EmbeddedLog
from eventlog.embedded.source import EmbeddedSource
from eventlog.ports import LoggedEvent, Partition
from ingestor.build import build_record
from ingestor.config import DAY_MS
from schemas.errors import RetryableError, StartupError
from schemas.metric_defs import Metrics
from schemas.record import Record

log = structlog.get_logger("alerting")
_ACCOUNTS_INTERVAL_S = 2
_CLEANUP_INTERVAL_S = 600
# Both bound how long one statement holds its locks.
_ACCOUNTS_MAX = 1_000
_DELETED_ROWS_MAX = 50_000
# The consumer, deliveries and maintenance use one each; one is spare.
_CONNECTIONS_MAX = 4
# Longer than any rule looks back: no window can need an entry that is deleted.
_WINDOW_ENTRIES_DAYS = LOOK_BACK_DAYS_MAX + 5
# A value that no record had for a quarter counts as unseen again.
_SEEN_VALUES_DAYS = 90
# 18 months, so that a year can be compared with the one before.
_HOURLY_TRENDS_DAYS = 550
# Hopping windows are asked for recent days; of older ones the hours remain.
_TEN_MINUTE_TRENDS_DAYS = 35
_LAG_INTERVAL_S = 1
Print = Callable[[Mapping[str, Any]], None]


class AlertingProcess:
    """The process of alerting: log → rules → alerts → channels."""

    def __init__(
        self, settings: Settings, shared_log: EmbeddedLog | None = None, print_payload: Print | None = None
    ) -> None:
        """Read the rules and bind the operations address.

        `shared_log`: the embedded log of this process, if it has one. `print_payload`: takes the payloads of channels
        of type `stdout`. Raises StartupError.
        """
        self._settings = settings
        self._dsn = required_dsn(settings, "alerting_dsn")
        ensure_data_dir(settings)
        self._metrics = Metrics("alerting")
        self._rules = RulesFile(settings.alerting.rules, self._metrics)
        self._limits = AlertingLimits()
        health = Health(self._metrics, {"store": self._store_ready}, token=health_token(settings))
        self._server = health_server(settings.alerting.address, health, settings.http, "alerting.address")
        self._own_log = own_event_log(settings, shared_log)
        self._log = shared_log or self._own_log
        self._print_payload = print_payload or _print_json
        self._store: PostgresAlertStore | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Consume, evaluate and deliver until `stop` is set."""
        settings = self._settings.alerting
        store = self._store = await PostgresAlertStore.connect(
            self._dsn,
            settings.group,
            connections_max=_CONNECTIONS_MAX,
            command_timeout_ms=self._settings.postgres.command_timeout_ms,
        )
        processor = AlertProcessor(
            store=store,
            build=event_builder(self._settings),
            rules=self._rules.current,
            limits=self._limits,
            metrics=self._metrics,
            clock_ms=clock_ms,
        )
        # No proxy from the environment gets to see alerts.
        async with httpx.AsyncClient(timeout=settings.delivery.timeout_ms / 1000, trust_env=False) as client:
            channels = Channels(
                client, lambda: self._rules.current().channels, self._print_payload, time.time
            )
            deliverer = Deliverer(store, channels.find, settings.delivery, self._metrics)
            await self._server.start()
            log.info("consuming")
            if not await store.ready():
                log.warning(
                    "waiting_for_database",
                    hint="events wait until Postgres responds, and `auditap migrate` has brought its schema up to date",
                )
            try:
                await run_until(
                    stop,
                    self._consume(processor, stop),
                    deliverer.run(),
                    self._rules.follow(),
                    self._maintain(store),
                )
            finally:
                await self._server.stop()
                await store.close()
                if self._own_log is not None:
                    await self._own_log.close()
                log.info("stopped")

    async def _consume(self, processor: AlertProcessor, stop: asyncio.Event) -> None:
        if self._log is not None:
            consumer = EmbeddedConsumer(
                self._log, self._settings.alerting.group, processor, self._limits, self._metrics
            )
            await consumer.run(stop)
        else:
            await self._consume_kafka(processor, stop)

    async def _consume_kafka(self, processor: AlertProcessor, stop: asyncio.Event) -> None:
        try:
            from alerting.faust_app import FaustSettings  # noqa: PLC0415  an extra
            from alerting.faust_consumer import FaustConsumer  # noqa: PLC0415
        except ImportError:
            raise StartupError(
                "Reading Kafka needs faust-streaming: install auditap with its extra, as `auditap[alerting]`."
            ) from None
        kafka = self._settings.kafka
        settings = FaustSettings(
            connection=connection_of(kafka),
            topic=kafka.topic,
            group=self._settings.alerting.group,
            data_dir=self._settings.data_dir,
        )
        await FaustConsumer(settings, processor, self._limits, self._metrics).run(stop)

    async def _maintain(self, store: PostgresAlertStore) -> None:
        """Set accounts that enrichment found late; delete state that no rule can need any more."""
        cleaned_at = 0.0
        while True:
            try:
                await store.set_accounts(_ACCOUNTS_MAX)
                if time.monotonic() - cleaned_at >= _CLEANUP_INTERVAL_S:
                    await self._clean_up(store)
                    cleaned_at = time.monotonic()
            except RetryableError as away:
                log.warning("maintenance_deferred", cause=str(away))
            await asyncio.sleep(_ACCOUNTS_INTERVAL_S)

    @staticmethod
    async def _clean_up(store: PostgresAlertStore) -> None:
        now_ms = clock_ms()
        await store.delete_old_state(
            _WINDOW_ENTRIES_DAYS * DAY_MS, _SEEN_VALUES_DAYS * DAY_MS, _DELETED_ROWS_MAX
        )
        await store.delete_old_trends(
            now_ms - _HOURLY_TRENDS_DAYS * DAY_MS,
            now_ms - _TEN_MINUTE_TRENDS_DAYS * DAY_MS,
            _DELETED_ROWS_MAX,
        )

    async def _store_ready(self) -> bool:
        return self._store is not None and await self._store.ready()


class EmbeddedConsumer:
    """Hands the events of the embedded log to a processor."""

    def __init__(
        self,
        event_log: EmbeddedLog,
        group: str,
        processor: AlertProcessor,
        limits: AlertingLimits,
        metrics: Metrics,
    ) -> None:
        self._log = event_log
        self._group = group
        self._events_max = limits.batch_events_max
        self._processor = processor
        self._metrics = metrics
        self._lag_published_at = 0.0
        self._due: int | None = None
        self._source = EmbeddedSource(event_log, self._group, self)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set or this is cancelled."""
        await start_with_retries(self._start, "log")
        try:
            while not stop.is_set():
                try:
                    await self._step()
                except RetryableError as away:
                    log.warning("log_away", cause=str(away))
                    await asyncio.sleep(1)
        finally:
            await self._source.stop()

    async def _start(self) -> None:
        await self._log.open()
        self._due = await self._log.committed(self._group)
        await self._source.start()

    async def _step(self) -> None:
        for batch in await self._source.fetch(self._events_max):
            self._report_removed(batch.events[0].offset)
            await self._processor.process({batch.partition: batch.events})
            self._due = position = batch.events[-1].offset + 1
            # After the alerts are stored, so that this position is never ahead of theirs.
            await self._source.commit({batch.partition: position})
        # Also where nothing was fetched, or the lag before the last batch would stay until there is another.
        await self._publish_lag()

    def _report_removed(self, offset: int) -> None:
        # The log keeps events for the ingestor without limit, but for alerting only until its file is half full.
        if self._due is not None and offset > self._due:
            log.error("events_removed_unread", events=offset - self._due)
            self._metrics.alerting_events_skipped.labels("removed").inc(offset - self._due)

    async def _publish_lag(self) -> None:
        if self._due is not None and time.monotonic() - self._lag_published_at >= _LAG_INTERVAL_S:
            self._lag_published_at = time.monotonic()
            self._metrics.alerting_lag_events.set(await self._log.end_offset() - self._due)

    async def on_assigned(self, generations: Mapping[Partition, int]) -> None:
        """Begin at the stored position."""
        self._processor.reset()
        self._metrics.partitions_assigned.set(len(generations))

    async def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """Never called: the embedded log has one partition and one reader a group."""


def event_builder(settings: Settings) -> EventBuilder:
    """Return a function that makes of an event the record that the ingestor makes of it, before enrichment."""
    config = settings.ingest.bounds

    def build(value: bytes, received_ms: int) -> Record:
        return build_record(LoggedEvent(0, received_ms, value), config, clock_ms())

    return build


def _print_json(payload: Mapping[str, Any]) -> None:
    print_json(msgspec.json.encode(payload))
    sys.stdout.buffer.flush()
