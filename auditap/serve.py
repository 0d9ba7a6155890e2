"""`auditap serve`: the log API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from auditap.http_server import HttpServer, bind_tcp_socket
from auditap.operations import with_operations
from auditap.read_audit import with_read_audit
from auditap.settings import ApiSettings, Settings, kept_secret, made_data_dir, required_dsn
from auditap.waiting import clock_ms
from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from schemas.metric_defs import Metrics

log = structlog.get_logger("serve")


def log_api_config(api: ApiSettings, cursor_key: bytes) -> LogApiConfig:
    """Return what the settings decide about the log API. Raises StartupError."""
    return LogApiConfig(
        cursor_key=cursor_key,
        prefix=api.prefix,
        connections_max=api.connections_max,
        statement_timeout_ms=api.statement_timeout_ms,
        page_time_ms=api.page_time_ms,
        requests_per_s=api.requests_per_s,
        requests_burst=api.requests_burst,
        streams_max=api.streams_max,
        tail_interval_ms=api.tail_interval_ms,
        tail_lookback_ms=api.tail_lookback_ms,
        organizations=api.organizations,
        product_categories=api.product_categories,
    )


class LogApiProcess:
    """The log API's process."""

    def __init__(self, settings: Settings) -> None:
        """Take the address. Raises StartupError."""
        api = settings.api
        data_dir = made_data_dir(settings)
        config = log_api_config(api, kept_secret(settings, "cursor.key", api.cursor_key))
        metrics = Metrics()
        self._stopping = False
        self._database = PostgresLogDatabase(required_dsn(settings, "reader_dsn"), config)
        app = log_api_app(self._database, config, metrics, clock_ms, lambda: self._stopping)
        self._audited = with_read_audit(
            with_operations(app, metrics, self._readiness), api.read_audit, data_dir.absolute() / "taps"
        )
        self._server = HttpServer(
            self._audited.app,
            [bind_tcp_socket(api.address.host, api.address.port)],
            tls=api.address.tls,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until `stop` is set."""
        await self._database.start()
        await self._server.start()
        log.info("serving")
        if not await self._database.ready():
            log.warning(
                "database_away", hint="queries are answered 503 until Postgres answers and is migrated"
            )
        try:
            await stop.wait()
        finally:
            self._stopping = True
            await self._server.stop()
            await asyncio.to_thread(self._audited.close)
            await self._database.stop()
            log.info("stopped")

    async def _readiness(self) -> Mapping[str, bool]:
        return {"store": await self._database.ready()}
