"""Postgres, read by a role that may do nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg

from log_api.config import LogApiConfig
from log_api.listing import ListQuery, page_statement
from log_api.ports import Token
from log_api.records import AuditRecord, Page, audit_record, body_bytes
from schemas.errors import RetryableError, StartupError
from schemas.sql import query as sql_file

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REFUSALS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
_PASSING = (
    OSError,  # TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that the server ended while it was idle
    asyncpg.OperatorInterventionError,  # a statement beyond its time limit, a server going down
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.UndefinedTableError,  # not migrated yet
    asyncpg.InvalidSchemaNameError,
    *_REFUSALS,
)


class PostgresLogDatabase:
    """A bounded pool of read-only connections; the LogDatabase of the port."""

    def __init__(self, dsn: str, config: LogApiConfig) -> None:
        self._dsn = dsn
        self._config = config
        self._pool: asyncpg.Pool | None = None

    async def start(self) -> None:
        """Open the pool. Raises StartupError where Postgres refuses the login; while it is away, starting succeeds."""
        statement_ms = self._config.statement_timeout_ms
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._config.connections_max,
            timeout=self._config.connect_timeout_ms / 1000,
            # The server's limit comes first; this one is for a server that does not answer at all.
            command_timeout=statement_ms / 1000 + 2,
            server_settings={
                "application_name": "auditap-log-api",
                "default_transaction_read_only": "on",
                "statement_timeout": str(statement_ms),
                "idle_in_transaction_session_timeout": str(statement_ms),
                # A plan for the given range opens and locks that range's partitions, a generic one all of them.
                "plan_cache_mode": "force_custom_plan",
                "jit": "off",
            },
        )
        try:
            async with self._pool.acquire(timeout=self._config.connect_timeout_ms / 1000):
                pass
        except _REFUSALS:
            await self.stop()
            raise StartupError(
                "Postgres refuses the log API's login: check user, password and database of its DSN."
            ) from None
        except _PASSING:
            pass

    async def stop(self) -> None:
        """Close the pool, cutting what is under way."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def page(self, query: ListQuery) -> Page:
        """Return one page; see the port."""
        statement = page_statement(query)
        records: list[AuditRecord] = []
        size_bytes = 0
        async with self._transaction() as connection:
            rows = connection.cursor(
                statement.text,
                *statement.arguments,
                prefetch=min(query.limit + 1, self._config.fetch_records_max),
            )
            async for row in rows:
                if len(records) == query.limit or size_bytes > self._config.page_bytes_max:
                    return Page(records, more=True)
                record = audit_record(row)
                size_bytes += body_bytes(record)
                records.append(record)
        return Page(records, more=False)

    async def token(self, sha256: bytes) -> Token | None:
        """Return a token; see the port."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(sql_file("find_token"), sha256)
        if row is None:
            return None
        accounts = None if row["accounts"] is None else frozenset(row["accounts"])
        # "infinity" comes without a zone.
        expires_ms = (row["expires_at"].replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
        return Token(row["id"], accounts, frozenset(row["permissions"]), expires_ms)

    async def ready(self) -> bool:
        """Return whether the server answers and is migrated."""
        try:
            async with self._transaction() as connection:
                await connection.fetchval("SELECT FROM auditap.audit_log LIMIT 0")
        except RetryableError:
            return False
        return True

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[PoolConnectionProxy]:
        if self._pool is None:
            raise RetryableError("the log API's database is not open")
        try:
            async with (
                self._pool.acquire(timeout=self._config.acquire_timeout_ms / 1000) as connection,
                connection.transaction(readonly=True),
            ):
                yield connection
        except _PASSING:
            raise RetryableError("Postgres does not answer the log API") from None
