"""`auditap ingest`: events in, records out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import structlog

from auditap.runtime.embedded_log import own_event_log
from auditap.runtime.health import Health, health_server
from auditap.runtime.kafka import dead_letter_topic_settings, source_settings
from auditap.runtime.lifecycle import clock_ms, run_until, start_with_retries
from auditap.settings import Settings, health_token, required_dsn
from enricher.cache import LookupCache
from enricher.enrich import Enricher
from enricher.lookup_router import LookupRouter
from eventlog.embedded.log import EmbeddedLog
from eventlog.embedded.source import EmbeddedSource
from eventlog.kafka.publisher import KafkaPublisher
from eventlog.kafka.source import KafkaSource
from eventlog.ports import EventSource, RevokeListener
from ingestor.checked_clock import CheckedClock
from ingestor.config import DAY_MS
from ingestor.dead_letters.gauge import UnresolvedDeadLettersGauge
from ingestor.dead_letters.topic import PublishingDeadLetterWriter
from ingestor.enrichment_backfill import EnrichmentBackfill
from ingestor.gap_gauges import GapGauges
from ingestor.ingest import Ingestor
from ingestor.periodic_task import run_periodically
from ingestor.postgres_maintenance import PostgresMaintenance
from ingestor.postgres_store import PostgresStore
from ingestor.retention import Retainer
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics

log = structlog.get_logger("ingest")
# Partitions exist before the first event of their day, even after a weekend without an ingestor.
_PARTITIONS_AHEAD_MS = 3 * DAY_MS
_PARTITIONS_INTERVAL_S = 3600
_AWAY_INTERVAL_S = 5


class IngestorProcess:
    """The ingestor's process: log → build → enrich → store → commit, and beside it backfill, metrics and retention."""

    def __init__(self, settings: Settings, shared_log: EmbeddedLog | None = None) -> None:
        """Bind the operations address. `shared_log`: the embedded log that other parts of this process use too, if any.

        Raises StartupError.
        """
        self._settings = settings
        self._metrics = Metrics("ingest")
        self._dsn = required_dsn(settings, "writer_dsn")
        checks = {
            "store": self._store_ready,
            "clock": self._clock_agrees,
            "events": self._events_go_on,
        }
        health = Health(self._metrics, checks, token=health_token(settings))
        self._server = health_server(settings.ingest.address, health, settings.http, "ingest.address")
        self._own_log = own_event_log(settings, shared_log)
        self._log = shared_log or self._own_log
        self._store: PostgresStore | None = None
        self._clock: CheckedClock | None = None
        self._ingestor: Ingestor | None = None
        kafka = settings.kafka
        self._dead_letter_topic = (
            KafkaPublisher(dead_letter_topic_settings(kafka))
            if self._log is None and kafka.dead_letter_topic
            else None
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Ingest until `stop` is set, then drain within `drain_wait_ms`. Raises StartupError."""
        settings = self._settings
        store = self._store = await PostgresStore.connect(
            self._dsn,
            connections_max=settings.postgres.connections_max,
            command_timeout_ms=settings.postgres.command_timeout_ms,
        )
        clock = self._clock = CheckedClock(
            clock_ms=clock_ms, database_clock_ms=store.clock_ms, metrics=self._metrics
        )
        lookups = LookupRouter(settings.enrich, self._metrics)
        cache = LookupCache(lookups, lookups.cache_configs, self._metrics, key_checks=lookups.key_checks)
        enrich = settings.enrich
        enricher = Enricher(cache, enrich.batch_budget_ms, enrich.unresolvable_after_ms, clock_ms)
        ingestor = self._ingestor = self._ingestor_into(store, enricher, clock)
        backfill = EnrichmentBackfill(
            store=store,
            resolver=enricher,
            metrics=self._metrics,
            interval_ms=settings.ingest.backfill_interval_ms,
            share_max=settings.ingest.backfill_share_max,
        )
        gap_gauges = GapGauges(store, settings.ingest.gap_ledger, self._metrics)
        dead_letter_gauge = UnresolvedDeadLettersGauge(store, self._metrics)
        interval_ms = settings.ingest.gauge_interval_ms
        is_usable = await store.check_login()
        await self._server.start()
        log.info("ingesting")
        if not is_usable:
            log.warning(
                "waiting_for_database",
                hint="events wait until Postgres responds, and `auditap migrate` has brought its schema up to date",
            )
        drained = asyncio.Event()
        try:
            # Until the ingestor has drained, and not until `stop`: what is in flight still needs partitions and the
            # dead-letter topic.
            await run_until(
                drained,
                _then_set(ingestor.run(stop), drained),
                backfill.run(stop),
                # Also where no batch asks for the time: the process is ready only if the clocks agree.
                run_periodically(clock.now_ms, interval_ms, stop, "clock_not_checked"),
                run_periodically(gap_gauges.refresh, interval_ms, stop, "gap_ledger_not_refreshed"),
                run_periodically(dead_letter_gauge.refresh, interval_ms, stop, "dead_letters_not_counted"),
                self._keep_partitions_ahead(store, clock),
                self._drop_expired_partitions(stop),
                self._start_dead_letter_topic(),
            )
        finally:
            await self._server.stop()
            await cache.stop()
            await lookups.stop()
            if self._dead_letter_topic is not None:
                await self._dead_letter_topic.stop()
            await store.close()
            if self._own_log is not None:
                await self._own_log.close()
            log.info("stopped")

    def _ingestor_into(self, store: PostgresStore, enricher: Enricher, clock: CheckedClock) -> Ingestor:
        return Ingestor(
            connect=self._connect,
            enrichment=enricher,
            store=store,
            dead_letters=store
            if self._dead_letter_topic is None
            else PublishingDeadLetterWriter(store, self._dead_letter_topic, clock_ms),
            gap_ledger=store,
            config=self._settings.ingest.bounds,
            metrics=self._metrics,
            clock_ms=clock.now_ms,
        )

    def _connect(self, listener: RevokeListener) -> EventSource:
        if self._log is None:
            return KafkaSource(source_settings(self._settings.kafka), listener)
        return EmbeddedSource(self._log, self._settings.kafka.group, listener)

    async def _start_dead_letter_topic(self) -> None:
        """Connect to the dead-letter topic. Until it is there, dead letters wait."""
        if self._dead_letter_topic is not None:
            await start_with_retries(self._dead_letter_topic.start, "dead-letter topic")

    async def _keep_partitions_ahead(self, store: PostgresStore, clock: CheckedClock) -> None:
        """Create the partitions of the next days. What is still missing is created on demand, which delays a batch."""
        while True:
            try:
                now = await clock.now_ms()
                await store.ensure_partitions(now, now + _PARTITIONS_AHEAD_MS)
            except RetryableError as away:
                log.warning("partitions_deferred", cause=str(away))
                await asyncio.sleep(_AWAY_INTERVAL_S)
            else:
                await asyncio.sleep(_PARTITIONS_INTERVAL_S)

    async def _drop_expired_partitions(self, stop: asyncio.Event) -> None:
        """Drop expired partitions, with the role `auditap_maintainer`, which has no other right."""
        ingest, dsn = self._settings.ingest, self._settings.postgres.maintainer_dsn
        if dsn is None:
            log.warning("retention_off", setting="postgres.maintainer_dsn")
            return
        maintenance = PostgresMaintenance(dsn.get_secret_value(), ingest.retention.lock_wait_ms_max)
        await Retainer(
            maintenance=maintenance,
            config=ingest.retention,
            keep_days=ingest.bounds.retention_days,
            share_max=ingest.bounds.retention_share_max,
            metrics=self._metrics,
            clock_ms=clock_ms,
        ).run(stop)

    async def _store_ready(self) -> bool:
        return self._store is not None and await self._store.ready()

    async def _clock_agrees(self) -> bool:
        return self._clock is not None and self._clock.agrees

    async def _events_go_on(self) -> bool:
        return self._ingestor is not None and not self._ingestor.halted


async def _then_set(work: Awaitable[None], done: asyncio.Event) -> None:
    await work
    done.set()
