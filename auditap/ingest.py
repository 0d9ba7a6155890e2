"""`auditap ingest`: events in, records out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

import msgspec
import structlog

from auditap.event_log import own_event_log
from auditap.http_server import HttpServer, bind_tcp_socket
from auditap.kafka import letter_settings, source_settings
from auditap.operations import with_operations
from auditap.settings import Settings, required_dsn
from auditap.waiting import clock_ms, keep_starting, run_until
from enricher.cache import LookUpCache
from enricher.enrich import Enricher
from enricher.look_ups import LookUps
from ingestor.completeness import CompletenessWatch
from ingestor.completion import Completed, Completer, Incomplete
from ingestor.config import DAY_MS
from ingestor.embedded_source import EmbeddedSource
from ingestor.ingest import Ingestor
from ingestor.kafka_source import KafkaSource
from ingestor.letter_topic import PublishedLetters
from ingestor.open_letters import OpenLettersWatch
from ingestor.ports import EventSource, RevokeListener
from ingestor.postgres_maintenance import PostgresMaintenance
from ingestor.postgres_store import PostgresStore
from ingestor.retention import Retainer
from redactor.event_log import EventLog
from redactor.publisher import KafkaPublisher
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics

log = structlog.get_logger("ingest")
_PARTITIONS_INTERVAL_S = 3600
_AWAY_INTERVAL_S = 5


class IngestorProcess:
    """The ingestor's process: log → build → enrich → store → commit, and beside it the later completion."""

    def __init__(self, settings: Settings, shared_log: EventLog | None = None) -> None:
        """Take the operators' address. `shared_log`: the embedded log of this process, if it has one.

        Raises StartupError.
        """
        self._settings = settings
        self._metrics = Metrics()
        self._dsn = required_dsn(settings, "writer_dsn")
        address = settings.ingest.address
        self._server = HttpServer(
            with_operations(None, self._metrics, self._readiness),
            [bind_tcp_socket(address.host, address.port)],
            tls=address.tls,
        )
        self._own_log = own_event_log(settings, shared_log)
        self._log = shared_log or self._own_log
        self._store: PostgresStore | None = None
        kafka = settings.kafka
        self._letters = (
            KafkaPublisher(letter_settings(kafka)) if self._log is None and kafka.dead_letter_topic else None
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Ingest until `stop` is set, then drain within the bound."""
        settings = self._settings
        store = self._store = await PostgresStore.connect(
            self._dsn,
            connections_max=settings.postgres.connections_max,
            command_timeout_ms=settings.postgres.command_timeout_ms,
        )
        look_ups = LookUps(settings.enrich, self._metrics)
        cache = LookUpCache(look_ups, look_ups.caches, self._metrics, key_checks=look_ups.key_checks)
        enricher = Enricher(cache, settings.enrich.batch_budget_ms)
        ingestor = Ingestor(
            connect=self._connect,
            enrichment=enricher,
            store=store,
            dead_letters=store if self._letters is None else PublishedLetters(store, self._letters, clock_ms),
            completeness=store,
            config=settings.ingest.bounds,
            metrics=self._metrics,
            clock_ms=clock_ms,
        )
        completer = Completer(
            store=store,
            resolver=_Resolver(enricher),
            metrics=self._metrics,
            interval_ms=settings.ingest.completion_interval_ms,
            records_max=settings.ingest.completion_records_max,
            share_max=settings.ingest.completion_share_max,
        )
        watch = CompletenessWatch(
            store, settings.ingest.completeness, self._metrics, settings.ingest.completeness_interval_ms
        )
        open_letters = OpenLettersWatch(store, self._metrics, settings.ingest.open_letters_interval_ms)
        await store.check_login()
        await self._server.start()
        log.info("ingesting")
        drained = asyncio.Event()
        try:
            await run_until(
                drained,
                _then_set(ingestor.run(stop), drained),
                completer.run(stop),
                watch.run(stop),
                open_letters.run(stop),
                self._keep_partitions_ahead(store),
                self._keep_to_retention(stop),
                self._start_letters(),
            )
        finally:
            await self._server.stop()
            await cache.stop()
            await look_ups.stop()
            if self._letters is not None:
                await self._letters.stop()
            await store.close()
            if self._own_log is not None:
                await self._own_log.close()
            log.info("stopped")

    def _connect(self, listener: RevokeListener) -> EventSource:
        if self._log is None:
            return KafkaSource(source_settings(self._settings.kafka), listener)
        return EmbeddedSource(self._log, self._settings.kafka.group, listener)

    async def _start_letters(self) -> None:
        """Connect to the dead letters' topic; until it is there, what is to be buried waits."""
        if self._letters is not None:
            await keep_starting(self._letters.start, "dead-letters topic")

    async def _keep_partitions_ahead(self, store: PostgresStore) -> None:
        """Make the coming days' partitions before they are needed; ingest makes what is missing on demand."""
        while True:
            now = clock_ms()
            try:
                await store.ensure_partitions(now, now + self._settings.ingest.partitions_ahead_days * DAY_MS)
            except RetryableError as away:
                log.warning("partitions_deferred", cause=str(away))
                await asyncio.sleep(_AWAY_INTERVAL_S)
            else:
                await asyncio.sleep(_PARTITIONS_INTERVAL_S)

    async def _keep_to_retention(self, stop: asyncio.Event) -> None:
        """Drop what is older than the retention, as the role that may do that and nothing else."""
        ingest, dsn = self._settings.ingest, self._settings.postgres.maintainer_dsn
        if dsn is None:
            log.warning("nothing_is_dropped", setting="postgres.maintainer_dsn")
            return
        maintenance = PostgresMaintenance(dsn.get_secret_value(), ingest.retention.lock_wait_ms_max)
        await Retainer(
            maintenance=maintenance,
            config=ingest.retention,
            keep_days=ingest.bounds.retention_days,
            metrics=self._metrics,
        ).run(stop)

    async def _readiness(self) -> Mapping[str, bool]:
        return {"store": self._store is not None and await self._store.ready()}


class _Resolver:
    """The enricher as the completion pass sees it."""

    def __init__(self, enricher: Enricher) -> None:
        self._enricher = enricher

    async def resolve(self, records: Sequence[Incomplete]) -> Sequence[Completed]:
        return [Completed(**msgspec.structs.asdict(each)) for each in await self._enricher.resolve(records)]


async def _then_set(work: Awaitable[None], done: asyncio.Event) -> None:
    await work
    done.set()
