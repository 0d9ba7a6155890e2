"""The log as its maintainer sees it: the only module on asyncpg that may drop anything, through functions alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from ingestor.retention import PartitionInfo
from schemas.errors import RetryableError

_TIMEOUT_S = 60


class PostgresMaintenance:
    """`Maintenance` on a connection of its own for each call; there is one an hour."""

    def __init__(self, dsn: str, lock_wait_ms_max: int) -> None:
        self._dsn = dsn
        self._lock_wait_ms_max = lock_wait_ms_max

    async def partitions(self) -> Sequence[PartitionInfo]:
        """See `Maintenance.partitions`."""
        async with self._connected() as connection:
            rows = await connection.fetch("SELECT * FROM auditap.partitions()", timeout=_TIMEOUT_S)
        return [PartitionInfo(*row.values()) for row in rows]

    async def kept_since_ms(self, keep_days: int) -> int:
        """See `Maintenance.kept_since_ms`."""
        async with self._connected() as connection:
            since_ms: int = await connection.fetchval("SELECT auditap.kept_since_ms($1)", keep_days)
        return since_ms

    async def drop_expired(self, keep_days: int) -> str | None:
        """See `Maintenance.drop_expired`."""
        async with self._connected() as connection:
            name: str | None = await connection.fetchval(
                "SELECT auditap.drop_expired_partition($1, $2)",
                keep_days,
                self._lock_wait_ms_max,
                timeout=_TIMEOUT_S,
            )
        return name

    async def prune(self, keep_days: int, rows_max: int) -> int:
        """See `Maintenance.prune`."""
        async with self._connected() as connection:
            taken: int = await connection.fetchval(
                "SELECT auditap.prune_beside_log($1, $2)", keep_days, rows_max, timeout=_TIMEOUT_S
            )
        return taken

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            connection = await asyncpg.connect(
                self._dsn, timeout=10, server_settings={"application_name": "auditap-retention"}
            )
            try:
                yield connection
            finally:
                await connection.close(timeout=5)
        except asyncpg.LockNotAvailableError:
            raise RetryableError("a partition to be dropped is in use") from None
        except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as away:
            raise RetryableError(f"Postgres: {type(away).__name__}") from None
