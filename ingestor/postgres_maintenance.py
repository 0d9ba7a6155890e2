"""`Maintenance` on Postgres, with the role `auditap_maintainer`: it drops and deletes, by database functions alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from ingestor.retention import PartitionInfo, RetentionEvidence
from schemas.errors import RetryableError
from schemas.postgres_refusals import MAINTAINER, cause_of
from schemas.postgres_session import pin_settings
from schemas.text_encoding import require_utf8

_TIMEOUT_S = 60
# A billion rows are counted in minutes.
_COUNT_TIMEOUT_S = 1_800


class PostgresMaintenance:
    """`Maintenance` with a new connection for each call, because there is one pass an hour.

    It remembers what it counted, because a refused pass is repeated every few minutes and a count may take half an hour.
    """

    def __init__(self, dsn: str, lock_wait_ms_max: int) -> None:
        self._dsn = dsn
        self._lock_wait_ms_max = lock_wait_ms_max
        self._counted: dict[PartitionInfo, int] = {}
        """The rows of partitions as Postgres listed them: one that changes has another size or estimate."""

    async def evidence(self, keep_days: int, own_ms: int) -> RetentionEvidence:
        """See `Maintenance.evidence`."""
        async with self._connected() as connection:
            [row] = await connection.fetch(
                "SELECT * FROM auditap.retention_evidence($1)", keep_days, timeout=_TIMEOUT_S
            )
        return RetentionEvidence(own_ms=own_ms, **dict(row))

    async def partitions(self, before_ms: int) -> Sequence[PartitionInfo]:
        """See `Maintenance.partitions`. Where Postgres has no estimate yet, rows are counted too."""
        async with self._connected() as connection:
            rows = await connection.fetch("SELECT * FROM auditap.partitions()", timeout=_TIMEOUT_S)
            found = [PartitionInfo(*row.values()) for row in rows]
            to_count = [each for each in found if each.to_ms <= before_ms or each.rows < 0]
            # A statement for each, because one over all partitions would lock them all.
            for each in to_count:
                if each not in self._counted:
                    self._counted[each] = await _count(connection, each)
        self._counted = {each: self._counted[each] for each in to_count}
        return [each._replace(rows=self._counted.get(each, each.rows)) for each in found]

    async def drop(self, partition: PartitionInfo, before_ms: int, keep_days: int) -> bool:
        """See `Maintenance.drop`."""
        async with self._connected() as connection:
            dropped: bool = await connection.fetchval(
                "SELECT auditap.drop_partition($1, $2, $3, $4)",
                partition.child,
                before_ms,
                keep_days,
                self._lock_wait_ms_max,
                timeout=_TIMEOUT_S,
            )
        return dropped

    async def prune(self, before_ms: int, keep_days: int, rows_max: int) -> int:
        """See `Maintenance.prune`."""
        async with self._connected() as connection:
            deleted: int = await connection.fetchval(
                "SELECT auditap.prune_beside_log($1, $2, $3)",
                before_ms,
                keep_days,
                rows_max,
                timeout=_TIMEOUT_S,
            )
        return deleted

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            connection = await asyncpg.connect(
                self._dsn, timeout=10, server_settings={"application_name": "auditap-retention"}
            )
            try:
                require_utf8(connection.get_settings())
                await pin_settings(connection)
                yield connection
            finally:
                await connection.close(timeout=5)
        except asyncpg.LockNotAvailableError:
            # Waiting longer would make ingest and readers wait behind this lock.
            raise RetryableError("a partition to be dropped is in use") from None
        except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as away:
            raise RetryableError(cause_of(away, MAINTAINER)) from None


async def _count(connection: asyncpg.Connection, partition: PartitionInfo) -> int:
    counted: int = await connection.fetchval(
        "SELECT auditap.count_partition($1)", partition.child, timeout=_COUNT_TIMEOUT_S
    )
    return counted
