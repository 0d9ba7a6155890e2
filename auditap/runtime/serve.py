"""`auditap serve`: the log API."""

from __future__ import annotations

import asyncio
import gc

import structlog

from auditap.runtime.health import Health, health_server, with_health_routes
from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from auditap.runtime.lifecycle import clock_ms
from auditap.runtime.read_audit import with_read_audit
from auditap.settings import (
    ApiSettings,
    Settings,
    ensure_data_dir,
    health_token,
    load_or_create_key,
    required_dsn,
)
from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from schemas.metric_defs import Metrics

log = structlog.get_logger("serve")


def log_api_config(api: ApiSettings, cursor_key: bytes) -> LogApiConfig:
    """Return the log API's configuration. Raises StartupError."""
    return LogApiConfig(
        cursor_key=cursor_key,
        prefix=api.prefix,
        connections_max=api.connections_max,
        statement_timeout_ms=api.statement_timeout_ms,
        requests_per_s=api.requests_per_s,
        requests_burst=api.requests_burst,
        streams_max=api.streams_max,
        tail_interval_ms=api.tail_interval_ms,
        organizations=api.organizations,
        product_categories=api.product_categories,
        keep_unknown_values=api.keep_unknown_values,
    )


class LogApiProcess:
    """The process of `auditap serve`: the log API with health routes, metrics and the read audit."""

    def __init__(self, settings: Settings) -> None:
        """Bind the addresses. Raises StartupError."""
        api = settings.api
        data_dir = ensure_data_dir(settings)
        config = log_api_config(api, load_or_create_key(settings, "cursor.key", api.cursor_key))
        metrics = Metrics("serve")
        self._stopping = False
        self._database = PostgresLogDatabase(required_dsn(settings, "reader_dsn"), config, metrics)
        app = log_api_app(self._database, config, metrics, clock_ms, lambda: self._stopping)
        health = Health(metrics, {"store": self._database.ready}, token=health_token(settings))
        served = with_health_routes(app, health) if api.health_address is None else app
        self._audited = with_read_audit(served, settings, data_dir.absolute() / "taps")
        self._servers = [
            HttpServer(
                self._audited.app,
                [bind_tcp_socket(api.address.host, api.address.port, "api.address")],
                limits=settings.http,
                metrics=metrics,
                tls=api.address.tls,
            )
        ]
        if api.health_address is not None:
            self._servers.append(
                health_server(api.health_address, health, settings.http, "api.health_address")
            )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        await self._database.start()
        for server in self._servers:
            await server.start()
        # Our server sends no lifespan scope.
        self._audited.start()
        # The OpenAPI document is a hundred thousand objects that stay. To look at them again, a full collection would stop every
        # request for 70 ms.
        gc.collect()
        gc.freeze()
        log.info("serving")
        if not await self._database.ready():
            log.warning(
                "waiting_for_database",
                hint="requests are answered 503 until Postgres responds, and `auditap migrate` has brought its schema up to date",
            )
        try:
            await stop.wait()
        finally:
            # First, so that tails end: the server waits for requests under way.
            self._stopping = True
            for server in self._servers:
                await server.stop()
            # In a thread, because the tap blocks until its last captures are sent, or its time is up.
            await asyncio.to_thread(self._audited.close)
            await self._database.stop()
            log.info("stopped")
