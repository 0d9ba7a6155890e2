"""`auditap serve`: the log API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from auditap.http_server import HttpServer, bind_tcp_socket
from auditap.operations import with_operations
from auditap.settings import Settings, kept_secret, made_data_dir, required_dsn
from auditap.waiting import clock_ms
from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from schemas.metric_defs import Metrics

log = structlog.get_logger("serve")


class LogApiProcess:
    """The log API's process."""

    def __init__(self, settings: Settings) -> None:
        """Take the address. Raises StartupError."""
        api = settings.api
        made_data_dir(settings)
        config = LogApiConfig(
            cursor_key=kept_secret(settings, "cursor.key", api.cursor_key),
            prefix=api.prefix,
            connections_max=api.connections_max,
            statement_timeout_ms=api.statement_timeout_ms,
        )
        metrics = Metrics()
        self._database = PostgresLogDatabase(required_dsn(settings, "reader_dsn"), config)
        app = log_api_app(self._database, config, metrics, clock_ms)
        self._server = HttpServer(
            with_operations(app, metrics, self._readiness),
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
            await self._server.stop()
            await self._database.stop()
            log.info("stopped")

    async def _readiness(self) -> Mapping[str, bool]:
        return {"store": await self._database.ready()}
