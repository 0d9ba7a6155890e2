"""`auditap collect`: captures in, redacted events out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from starlette.types import ASGIApp

from auditap.runtime.connection_share import ConnectionShare
from auditap.runtime.document_reload import DocumentReloader
from auditap.runtime.embedded_log import own_event_log
from auditap.runtime.health import Health, HealthSource, OwnHealth, health_server, with_health_routes
from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from auditap.runtime.kafka import publisher_settings
from auditap.runtime.lifecycle import clock_ms, run_until, start_with_retries
from auditap.runtime.receivers import Receivers
from auditap.runtime.redacting_sink import RedactingSink
from auditap.runtime.signing_keys import SigningKeyFetcher
from auditap.settings import ReceiverSettings, Settings, ensure_data_dir, health_token, load_or_create_key
from eventlog.embedded.log import EmbeddedLog
from eventlog.embedded.publisher import EmbeddedPublisher
from eventlog.kafka.publisher import KafkaPublisher
from eventlog.ports import EventPublisher
from eventlog.spool.file import has_files
from eventlog.spool.publisher import SpoolingPublisher
from eventlog.truncating_publisher import TruncatingPublisher
from gateway_tap.collector import collector_app
from gateway_tap.in_flight import InFlight
from gateway_tap.tokens import TapToken, TapTokens
from gateway_tap.unix_socket import bind_unix_socket
from redactor.identity.tokens import TokenVerifier
from redactor.issuer_config import IssuerConfig
from schemas.capture import Capture
from schemas.errors import StartupError
from schemas.metric_defs import Metrics

log = structlog.get_logger("collect")


@dataclass(frozen=True)
class SharedListeners:
    """The sockets that a collector shares with others, as one of several workers; the parent has bound them."""

    unix: socket.socket
    tcp: socket.socket
    # Apart, or connections over TCP, which anybody may open, would decide who takes those of the taps on this host.
    unix_share: ConnectionShare
    tcp_share: ConnectionShare
    health: HealthSource
    """Answers for all workers."""
    number: int
    """Of this worker, from 1 to `collector.workers`."""


class Collector:
    """The collector's process: endpoints → redactor → publisher."""

    def __init__(
        self,
        settings: Settings,
        shared_log: EmbeddedLog | None = None,
        listeners: SharedListeners | None = None,
    ) -> None:
        """Load the OpenAPI documents and bind the addresses. `shared_log`: the embedded log of this process, if it has one.

        `listeners`: of this worker, if it is one of several. Raises StartupError.
        """
        if not settings.redaction.documents:
            raise StartupError(
                "Set redaction.documents (AUDITAP_REDACTION__DOCUMENTS): without an OpenAPI document, records would show only"
                " that a request happened."
            )
        self.metrics = Metrics("collect")
        self._shared = listeners
        self._verifier, self._keys = _token_verifier(settings.redaction.issuers, self.metrics)
        self._documents = DocumentReloader(settings.redaction, self.metrics, self._verifier)
        self._reload_interval_ms = settings.collector.reload_interval_ms
        ensure_data_dir(settings)
        self._own_log = own_event_log(settings, shared_log)
        self._publisher = _publisher(settings, shared_log or self._own_log, self.metrics)
        self._sink = RedactingSink(
            lambda: self._documents.redactor,
            self._publisher,
            self.metrics,
            None if self._keys is None else self._fetch_unknown_keys,
        )
        self._report_interval_ms = settings.collector.report_interval_ms
        self._socket_path = settings.collector_socket
        self.health = OwnHealth(self.metrics, {"log": self._log_ready}, self._degraded)
        self._servers = self._bind(settings)
        self._receivers = Receivers(settings, _receivers(settings, listeners))

    def _bind(self, settings: Settings) -> list[HttpServer]:
        """Bind the addresses and return a server for each. Raises StartupError."""
        collector, limits, shared = settings.collector, settings.http, self._shared
        of_all = self.health if shared is None else shared.health
        health = Health(self.metrics, {}, token=health_token(settings), of_all=of_all)
        identity_key = load_or_create_key(settings, "identity.key", collector.identity_key)
        in_flight = InFlight(settings.intake_limits)

        def application(tokens: TapTokens | None) -> ASGIApp:
            app = collector_app(
                self._sink,
                identity_key=identity_key,
                limits=settings.intake_limits,
                tokens=tokens,
                metrics=self.metrics,
                clock_ms=clock_ms,
                in_flight=in_flight,
            )
            return with_health_routes(app, health) if collector.health_address is None else app

        unix = HttpServer(
            application(None),
            [bind_collector_socket(settings) if shared is None else shared.unix],
            name="unix",
            limits=limits,
            metrics=self.metrics,
            share=None if shared is None else shared.unix_share,
        )
        tcp = HttpServer(
            application(_tokens(settings)),
            [bind_collector_address(settings) if shared is None else shared.tcp],
            limits=limits,
            metrics=self.metrics,
            tls=collector.address.tls,
            share=None if shared is None else shared.tcp_share,
        )
        if collector.health_address is None or shared is not None:
            return [unix, tcp]
        return [
            unix,
            tcp,
            health_server(collector.health_address, health, limits, "collector.health_address"),
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Accept captures until `stop` is set; all that were accepted by then are durable."""
        if self._keys is not None:
            # Before the first capture: a token of it would not be verified without them.
            await self._keys.fetch()
        if self._shared is not None:
            self._shared.unix_share.begin()
            self._shared.tcp_share.begin()
        # Before the log is reached: until then taps are answered 503, and keep their captures.
        for server in self._servers:
            await server.start()
        self.metrics.collector_workers.set(1)
        log.info("collecting")
        try:
            work = [
                self._publish(),
                self._documents.run(self._reload_interval_ms),
                self._receivers.run(),
            ]
            await run_until(stop, *work, *([] if self._keys is None else [self._keys.run()]))
        finally:
            # The endpoints first: what they have in hand must still reach the log.
            for server in self._servers:
                await server.stop()
            if self._shared is None:
                self._socket_path.unlink(missing_ok=True)
            if self._keys is not None:
                await self._keys.stop()
            await self._publisher.stop()
            if self._own_log is not None:
                await self._own_log.close()
            log.info("stopped")

    async def _publish(self) -> None:
        await start_with_retries(self._publisher.start, "log")
        await self._sink.keep_reporting(self._report_interval_ms)

    async def _log_ready(self) -> bool:
        return await self._publisher.ready()

    def _degraded(self) -> Sequence[str]:
        spooling = isinstance(self._publisher, SpoolingPublisher) and self._publisher.spooling
        has_stale_keys = self._keys is not None and self._keys.stale
        return [
            *(["spooling"] if spooling else []),
            *(["stale_documents"] if self._documents.stale else []),
            *(["stale_signing_keys"] if has_stale_keys else []),
        ]

    async def _fetch_unknown_keys(self, capture: Capture) -> None:
        """Fetch the keys of the issuer of a capture's token if it was signed with one that is not known."""
        if self._verifier is not None and self._keys is not None:
            unknown = self._verifier.unknown_keys(capture.request.headers)
            if unknown:
                await self._keys.fetch_unknown(unknown)


def bind_collector_socket(settings: Settings) -> socket.socket:
    """Return the listening Unix socket. Raises StartupError."""
    return bind_unix_socket(settings.collector_socket, setting="collector.socket")


def bind_collector_address(settings: Settings) -> socket.socket:
    """Return the listening TCP socket. Raises StartupError."""
    address = settings.collector.address
    return bind_tcp_socket(address.host, address.port, "collector.address")


def _receivers(settings: Settings, shared: SharedListeners | None) -> Sequence[ReceiverSettings]:
    """Return the receivers that this process runs: each of them is run by one worker."""
    every = settings.collector.receivers
    return every if shared is None else every[shared.number - 1 :: settings.collector.workers]


def _token_verifier(
    issuers: Sequence[IssuerConfig], metrics: Metrics
) -> tuple[TokenVerifier | None, SigningKeyFetcher | None]:
    """Return the verifier of the issuers' tokens and what keeps its keys; None where none is configured."""
    if not issuers:
        return None, None
    verifier = TokenVerifier(issuers)
    keys = SigningKeyFetcher(issuers, verifier.keys, metrics)
    keys.check_files()
    return verifier, keys


def _publisher(settings: Settings, log: EmbeddedLog | None, metrics: Metrics) -> EventPublisher:
    if log is not None:
        return EmbeddedPublisher(log)
    kafka = TruncatingPublisher(KafkaPublisher(publisher_settings(settings.kafka)), metrics)
    # Files in the spool, written while `durability` was `spool`, are still drained.
    drain_only = settings.collector.durability == "kafka"
    if drain_only and not has_files(settings.spool_dir):
        return kafka
    return SpoolingPublisher(
        kafka, settings.spool_dir, settings.collector.spool, metrics, drain_only=drain_only
    )


def _tokens(settings: Settings) -> TapTokens:
    return TapTokens([TapToken(bytes.fromhex(each.sha256), each.taps) for each in settings.collector.tokens])
