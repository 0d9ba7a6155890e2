"""A bounded pool of read-only connections to Postgres, and what its errors mean to the log API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import structlog

from log_api.config import LogApiConfig
from log_api.fair_shares import FairQueue, Requester, Slot
from log_api.records import Row
from log_api.sql_builder import Statement
from schemas.errors import RetryableError, StartupError
from schemas.metric_defs import Metrics
from schemas.postgres_refusals import READER, cause_of, start_refusal
from schemas.postgres_session import SESSION_SETTINGS, has_privilege
from schemas.text_encoding import require_utf8

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

log = structlog.get_logger("log_api")
_T = TypeVar("_T")
# A connection that was cut while idle fails at its next use.
_CONNECTION_LOST = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
)
_TRANSIENT_ERRORS = (
    *_CONNECTION_LOST,
    OSError,  # TimeoutError is one
    asyncpg.OperatorInterventionError,  # statement timeout, server shutting down
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.UndefinedTableError,  # not migrated yet
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.DuplicatePreparedStatementError,  # of a pooler that mixes sessions, as the next one
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


class ConnectionPool:
    """At most `connections_max` connections, which are opened when they are needed.

    Requesters wait for one in `queue`, which has a slot for each. Without a queue, callers have to be fewer than connections, or
    quick.
    """

    def __init__(
        self,
        dsn: str,
        config: LogApiConfig,
        connections_max: int,
        queue: FairQueue | None,
        metrics: Metrics,
    ) -> None:
        self._dsn = dsn
        self._config = config
        self._connections_max = connections_max
        self._queue = queue
        self.metrics = metrics
        self.statement_s = config.statement_timeout_ms / 1000
        self._pool: asyncpg.Pool | None = None

    async def start(self) -> None:
        """Open the pool, without a connection."""
        statement_ms = self._config.statement_timeout_ms
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._connections_max,
            timeout=self._config.limits.connect_timeout_ms / 1000,
            init=_require_utf8,
            # The server's timeout comes first. This one is for a server that does not respond at all.
            command_timeout=statement_ms / 1000 + 2,
            server_settings={
                **SESSION_SETTINGS,
                "application_name": "auditap-log-api",
                "default_transaction_read_only": "on",
                "statement_timeout": str(statement_ms),
                # A custom plan opens and locks the partitions of the given range, a generic plan all partitions.
                "plan_cache_mode": "force_custom_plan",
                # Every query has an index. A wrong row estimate must not lead to a scan of a whole partition.
                "enable_seqscan": "off",
                # The rows of one account are scattered. On any current disk it is cheaper to fetch each than to read
                # everything in between.
                "random_page_cost": "1.1",
                "max_parallel_workers_per_gather": "0",
                "jit": "off",
            },
        )

    async def check(self) -> None:
        """Use a connection. Raises StartupError if Postgres refuses that for good, the database is not UTF-8, or the login may not read
        the log.

        Succeeds while Postgres is unavailable or not migrated.
        """
        try:
            connection = await self._acquired(self._config.limits.connect_timeout_ms)
            try:
                await has_privilege(connection, READER, "auditap.audit_log", "SELECT")
            finally:
                await self.release(connection)
        except (*_TRANSIENT_ERRORS, asyncpg.PostgresError, ValueError) as error:
            if refusal := start_refusal(error, READER):
                raise StartupError(refusal) from None

    def stop(self) -> None:
        """Close the pool and cancel statements in progress."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def run(self, work: Callable[[Session], Awaitable[_T]], requester: Requester | None = None) -> _T:
        """Run `work` in a session, and once more in another one if the connection was lost. Raises RetryableError.

        Where there is a queue, it raises what `FairQueue.slot` raises.
        """
        try:
            return await self._run_once(work, requester)
        except _CONNECTION_LOST:
            pass
        except _TRANSIENT_ERRORS as away:
            raise RetryableError(cause_of(away, READER)) from None
        try:
            if self._pool is not None:
                # The other idle connections were most likely cut as well.
                await self._pool.expire_connections()
            return await self._run_once(work, requester)
        except _TRANSIENT_ERRORS as away:
            raise RetryableError(cause_of(away, READER)) from None

    async def succeeds(self, work: Callable[[Session], Awaitable[None]]) -> bool:
        """Return whether `work` succeeds. If it does not, the cause is logged; no error of Postgres is raised."""
        try:
            await self.run(work)
        except RetryableError as away:
            cause = str(away)
        except asyncpg.PostgresError as error:
            cause = cause_of(error, READER)
        else:
            return True
        log.warning("database_unavailable", cause=cause)
        return False

    async def acquire(self) -> PoolConnectionProxy:
        return await self._acquired(self._config.limits.acquire_timeout_ms)

    async def release(self, connection: PoolConnectionProxy) -> None:
        if self._pool is not None:
            await self._pool.release(connection)

    async def _acquired(self, timeout_ms: int) -> PoolConnectionProxy:
        if self._pool is None:
            raise RetryableError("the log API's database is not open")
        return await self._pool.acquire(timeout=timeout_ms / 1000)

    async def _run_once(self, work: Callable[[Session], Awaitable[_T]], requester: Requester | None) -> _T:
        slot = None if self._queue is None or requester is None else Slot(self._queue, requester)
        session = Session(self, slot)
        try:
            await session.open()
            return await work(session)
        finally:
            await session.close()


class Session:
    """Statements on one connection at a time. Each statement is a transaction of its own."""

    def __init__(self, pool: ConnectionPool, slot: Slot | None) -> None:
        self._pool = pool
        self._slot = slot
        self._held: PoolConnectionProxy | None = None

    async def open(self) -> None:
        if self._slot is not None:
            with self._pool.metrics.log_api_connection_wait_seconds.time():
                await self._slot.take()
        self._held = await self._pool.acquire()

    async def close(self) -> None:
        try:
            await self._release()
        finally:
            if self._slot is not None:
                self._slot.release()

    async def give_way(self) -> None:
        """Let a requester that waits and has less use the connection first, and wait for the next turn.

        It waits for as long as a statement may take: what was read so far should not be lost. Raises as `FairQueue.slot` does
        if the turn does not come. The session is then over.
        """
        if self._slot is not None and self._slot.is_wanted():
            self._pool.metrics.log_api_scans_paused.inc()
            # First the connection: whoever has a slot finds one.
            await self._release()
            await self._slot.give_way(self._pool.statement_s)
            self._held = await self._pool.acquire()

    async def _release(self) -> None:
        connection, self._held = self._held, None
        if connection is not None:
            await self._pool.release(connection)

    async def rows(self, statement: Statement, timeout_s: float) -> Sequence[Row]:
        """Return all rows. Raises TimeoutError if that takes longer; the statement is then no longer running."""
        try:
            rows: Sequence[Row] = await self._connection.fetch(
                statement.text, *statement.arguments, timeout=timeout_s
            )
        except asyncpg.QueryCanceledError:
            raise TimeoutError from None
        return rows

    async def fetch(self, text: str, *arguments: object) -> Sequence[Any]:
        """Return all rows, each a mapping of its columns and a sequence of their values."""
        rows: Sequence[Any] = await self._connection.fetch(text, *arguments)
        return rows

    async def value(self, text: str, *arguments: object) -> Any:
        """Return the first column of the first row; None without a row."""
        return await self._connection.fetchval(text, *arguments)

    async def written_value(self, text: str, *arguments: object) -> Any:
        """Return the same of a statement that writes."""
        async with self._connection.transaction():
            await self._connection.execute("SET TRANSACTION READ WRITE")
            return await self._connection.fetchval(text, *arguments)

    @property
    def _connection(self) -> PoolConnectionProxy:
        if self._held is None:
            raise RetryableError("the session is over")
        return self._held


async def _require_utf8(connection: asyncpg.Connection) -> None:
    require_utf8(connection.get_settings())
