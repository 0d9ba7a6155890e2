"""`auditap watch`: rules on the stream, beside the path and never in it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import msgspec
import structlog

from auditap.event_log import own_event_log
from auditap.http_server import HttpServer, bind_tcp_socket
from auditap.kafka import security_of
from auditap.operations import with_operations
from auditap.settings import Settings, made_data_dir, required_dsn
from auditap.waiting import clock_ms, keep_starting, run_until
from ingestor.build import build_record
from ingestor.config import DAY_MS
from ingestor.embedded_source import EmbeddedSource
from ingestor.ports import Partition, SourceEvent
from redactor.event_log import EventLog
from schemas.errors import RetryableError, StartupError
from schemas.metric_defs import Metrics
from schemas.record import Record
from watcher.channels import Channels
from watcher.deliver import Deliverer
from watcher.ports import EventBuilder, Lane
from watcher.postgres_store import PostgresWatchStore
from watcher.rule_book import RuleBook
from watcher.watch import LoggedEvent, Watcher

log = structlog.get_logger("watch")
_ACCOUNTS_INTERVAL_S = 2
_FORGET_INTERVAL_S = 600
_ALERTS_MAX = 1_000
_FORGOTTEN_MAX = 50_000
Show = Callable[[Mapping[str, Any]], None]


class WatchProcess:
    """The watcher's process: log → rules → alerts → channels."""

    def __init__(
        self, settings: Settings, shared_log: EventLog | None = None, show: Show | None = None
    ) -> None:
        """Read the rules and take the operators' address. `shared_log`: the embedded log of this process, if it has
        one. `show`: takes alerts for standard output.

        Raises StartupError.
        """
        self._settings = settings
        self._dsn = required_dsn(settings, "watcher_dsn")
        made_data_dir(settings)
        self._metrics = Metrics()
        self._rules = RuleBook(settings.watch.rules, self._metrics, settings.watch.rules_poll_ms)
        address = settings.watch.address
        self._server = HttpServer(
            with_operations(None, self._metrics, self._readiness),
            [bind_tcp_socket(address.host, address.port)],
            tls=address.tls,
        )
        self._own_log = own_event_log(settings, shared_log)
        self._log = shared_log or self._own_log
        self._show = show or _print_line
        self._store: PostgresWatchStore | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set."""
        settings = self._settings.watch
        store = self._store = await PostgresWatchStore.connect(
            self._dsn,
            settings.group,
            connections_max=settings.connections_max,
            command_timeout_ms=self._settings.postgres.command_timeout_ms,
        )
        watcher = Watcher(
            store=store,
            build=event_builder(self._settings),
            rules=self._rules.current,
            limits=settings.limits,
            metrics=self._metrics,
            clock_ms=clock_ms,
        )
        timeout_s = settings.delivery.timeout_ms / 1000
        async with httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
            channels = Channels(client, lambda: self._rules.current().channels, self._show, time.time)
            deliverer = Deliverer(store, channels.find, settings.delivery, self._metrics)
            await self._server.start()
            log.info("watching")
            try:
                await run_until(
                    stop,
                    self._watch(watcher, stop),
                    deliverer.run(),
                    self._rules.follow(),
                    self._keep_house(store),
                )
            finally:
                await self._server.stop()
                await store.close()
                if self._own_log is not None:
                    await self._own_log.close()
                log.info("stopped")

    async def _watch(self, watcher: Watcher, stop: asyncio.Event) -> None:
        if self._log is not None:
            await EmbeddedWatch(self._log, self._settings, watcher, self._metrics).run(stop)
        else:
            await self._watch_kafka(watcher, stop)
        # Whatever else is under way is ended by whoever set it.
        await stop.wait()

    async def _watch_kafka(self, watcher: Watcher, stop: asyncio.Event) -> None:
        try:
            from watcher.faust_app import FaustSettings, FaustWatch  # noqa: PLC0415  an extra
        except ImportError:
            raise StartupError(
                "Watching Kafka needs faust-streaming: install auditap with its extra, as `auditap[watch]`."
            ) from None
        kafka = self._settings.kafka
        settings = FaustSettings(
            bootstrap_servers=kafka.bootstrap_servers,
            topic=kafka.topic,
            group=self._settings.watch.group,
            data_dir=self._settings.data_dir,
            security=security_of(kafka),
        )
        await FaustWatch(settings, watcher, self._settings.watch.limits, self._metrics).run(stop)

    async def _keep_house(self, store: PostgresWatchStore) -> None:
        """Give alerts the accounts that are found late, and forget what no rule can need any more."""
        settings = self._settings.watch
        forgot_at = 0.0
        while True:
            try:
                await store.find_accounts(_ALERTS_MAX)
                if time.monotonic() - forgot_at >= _FORGET_INTERVAL_S:
                    await store.forget(
                        settings.marks_days * DAY_MS, settings.memories_days * DAY_MS, _FORGOTTEN_MAX
                    )
                    await store.forget_trends(
                        clock_ms() - settings.trends_days * DAY_MS,
                        clock_ms() - settings.panes_days * DAY_MS,
                        _FORGOTTEN_MAX,
                    )
                    forgot_at = time.monotonic()
            except RetryableError as away:
                log.warning("housekeeping_deferred", cause=str(away))
            await asyncio.sleep(_ACCOUNTS_INTERVAL_S)

    async def _readiness(self) -> Mapping[str, bool]:
        return {"store": self._store is not None and await self._store.ready()}


class EmbeddedWatch:
    """The embedded log, watched in this process."""

    def __init__(self, event_log: EventLog, settings: Settings, watcher: Watcher, metrics: Metrics) -> None:
        self._log = event_log
        self._group = settings.watch.group
        self._events_max = settings.watch.limits.batch_events_max
        self._watcher = watcher
        self._metrics = metrics
        self._said_at = 0.0
        self._due: int | None = None
        self._source = EmbeddedSource(event_log, self._group, self)

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set or this is cancelled."""
        await keep_starting(self._start, "log")
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
        self._due = await self._log.position(self._group)
        await self._source.start()

    async def _step(self) -> None:
        for batch in await self._source.fetch(self._events_max):
            events = [LoggedEvent(*event) for event in batch.events]
            self._note_removed(events[0].offset)
            await self._watcher.watch({Lane(*batch.partition): events})
            self._due = position = events[-1].offset + 1
            await self._source.commit({batch.partition: position})
            await self._say_lag(position)

    def _note_removed(self, offset: int) -> None:
        """The log waits for the ingestor without end, for the watcher until it is half full."""
        if self._due is not None and offset > self._due:
            log.error("events_removed_unwatched", events=offset - self._due)
            self._metrics.watch_passed_over.labels("removed").inc(offset - self._due)

    async def _say_lag(self, position: int) -> None:
        if time.monotonic() - self._said_at >= 1:
            self._said_at = time.monotonic()
            self._metrics.watch_lag_events.set(await self._log.end() - position)

    async def on_assigned(self, generations: Mapping[Partition, int]) -> None:
        """Begin at what is kept."""
        self._watcher.forget()
        self._metrics.partitions_assigned.set(len(generations))

    async def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """Nobody takes the only lane away."""


def event_builder(settings: Settings) -> EventBuilder:
    """Return what makes of an event the record that the ingestor makes of it, not yet enriched."""
    bounds = settings.ingest.bounds

    def build(value: bytes, received_ms: int) -> Record:
        return build_record(SourceEvent(0, received_ms, value), bounds, clock_ms())

    return build


def _print_line(document: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    sys.stdout.buffer.flush()
