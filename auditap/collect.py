"""`auditap collect`: captures in, redacted events out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from auditap.accept import RedactingSink
from auditap.current_documents import CurrentDocuments
from auditap.event_log import own_event_log
from auditap.http_server import HttpServer, bind_tcp_socket
from auditap.kafka import publisher_settings
from auditap.operations import with_operations
from auditap.settings import Settings, kept_secret, made_data_dir
from auditap.waiting import clock_ms, keep_starting, run_until
from gateway_tap.collector import TapToken, TapTokens, collector_app
from gateway_tap.unix_socket import bind_unix_socket
from redactor.cutting_publisher import CuttingPublisher
from redactor.embedded_publisher import EmbeddedPublisher
from redactor.event_log import EventLog
from redactor.ports import EventPublisher
from redactor.publisher import KafkaPublisher
from redactor.spool import SpoolingPublisher
from redactor.spool_file import has_files
from schemas.errors import StartupError
from schemas.metric_defs import Metrics

log = structlog.get_logger("collect")


class Collector:
    """The collector's process: endpoint → redactor → publisher."""

    def __init__(self, settings: Settings, shared_log: EventLog | None = None) -> None:
        """Load the documents and take the addresses. `shared_log`: the embedded log of this process, if it has one.

        Raises StartupError.
        """
        if not settings.redaction.documents:
            raise StartupError(
                "Set redaction.documents (AUDITAP_REDACTION__DOCUMENTS): without a document nothing would be recorded of"
                " a request but that it happened."
            )
        self._metrics = Metrics()
        self._documents = CurrentDocuments(settings.redaction, self._metrics)
        self._reload_interval_ms = settings.collector.reload_interval_ms
        made_data_dir(settings)
        self._own_log = own_event_log(settings, shared_log)
        self._publisher = _publisher(settings, shared_log or self._own_log, self._metrics)
        sink = self._sink = RedactingSink(lambda: self._documents.redactor, self._publisher, self._metrics)
        self._report_interval_ms = settings.collector.report_interval_ms
        identity_key = kept_secret(settings, "identity.key", settings.collector.identity_key)
        address = settings.collector.address
        self._socket_path = settings.collector_socket
        sockets = {
            None: bind_unix_socket(self._socket_path),
            _tokens(settings): bind_tcp_socket(address.host, address.port),
        }
        self._servers = [
            HttpServer(
                with_operations(
                    collector_app(
                        sink,
                        identity_key=identity_key,
                        limits=settings.collector.limits,
                        tokens=tokens,
                        metrics=self._metrics,
                        clock_ms=clock_ms,
                    ),
                    self._metrics,
                    self._readiness,
                    self._degraded,
                ),
                [socket],
                tls=address.tls if tokens is not None else None,
            )
            for tokens, socket in sockets.items()
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Take captures until `stop` is set; what was accepted by then is durable."""
        for server in self._servers:
            await server.start()
        log.info("collecting")
        try:
            await run_until(stop, self._publish(), self._documents.watch(self._reload_interval_ms))
        finally:
            for server in self._servers:
                await server.stop()
            self._socket_path.unlink(missing_ok=True)
            await self._publisher.stop()
            if self._own_log is not None:
                await self._own_log.close()
            log.info("stopped")

    async def _publish(self) -> None:
        await keep_starting(self._publisher.start, "log")
        await self._sink.keep_reporting(self._report_interval_ms)

    async def _readiness(self) -> Mapping[str, bool]:
        return {"log": await self._publisher.ready()}

    def _degraded(self) -> Sequence[str]:
        spooling = isinstance(self._publisher, SpoolingPublisher) and self._publisher.spooling
        return [*(["spooling"] if spooling else []), *(["stale_documents"] if self._documents.stale else [])]


def _publisher(settings: Settings, log: EventLog | None, metrics: Metrics) -> EventPublisher:
    if log is not None:
        return EmbeddedPublisher(log)
    kafka = CuttingPublisher(KafkaPublisher(publisher_settings(settings.kafka)), metrics)
    # What was accepted while the setting was another is not forgotten.
    drain_only = settings.collector.durability == "kafka"
    if drain_only and not has_files(settings.spool_dir):
        return kafka
    return SpoolingPublisher(
        kafka, settings.spool_dir, settings.collector.spool, metrics, drain_only=drain_only
    )


def _tokens(settings: Settings) -> TapTokens:
    return TapTokens([TapToken(bytes.fromhex(each.sha256), each.taps) for each in settings.collector.tokens])
