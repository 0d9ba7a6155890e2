"""Postgres, read by a role that may do nothing else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import asyncpg

from log_api.completeness import Gap, Gaps, TapCounts
from log_api.config import LogApiConfig
from log_api.listing import ListQuery, Statement, SummaryQuery, summary_statement
from log_api.ports import AlertQuery, Count, Token
from log_api.records import AuditRecord, Page, Row, audit_record, body_bytes
from log_api.walk import Ids, TimeLimits, find_ids, spans
from schemas.alert import alert_document
from schemas.errors import RetryableError, StartupError
from schemas.identity import first_id_at, id_ms
from schemas.sql import query as sql_file

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

_T = TypeVar("_T")
_INTERVALS_MS = {"hour": 3_600_000, "day": 86_400_000, "month": 31 * 86_400_000}
_SMALL_BATCH_BYTES = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000
# Further ahead `auditap.ensure_partitions` makes none.
_PARTITIONS_AHEAD_MS = 370 * _DAY_MS
_REFUSALS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
# A connection that was cut while it was idle, which shows at its first use.
_CUT = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
)
_PASSING = (
    *_CUT,
    OSError,  # TimeoutError is one
    asyncpg.OperatorInterventionError,  # a statement beyond its time limit, a server going down
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.UndefinedTableError,  # not migrated yet
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
    *_REFUSALS,
)


class PostgresLogDatabase:
    """A bounded pool of read-only connections; the LogDatabase of the port."""

    def __init__(self, dsn: str, config: LogApiConfig) -> None:
        self._dsn = dsn
        self._config = config
        self._span_ms: int | None = None
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
                # A plan for the given range opens and locks that range's partitions, a generic one all of them.
                "plan_cache_mode": "force_custom_plan",
                # Every question has an index; a wrong guess about how many rows it finds must not cost a day's scan.
                "enable_seqscan": "off",
                # The rows of one account lie apart: reading each where it is costs less than all in between, on any disk
                # that a log is kept on today.
                "random_page_cost": "1.1",
                "max_parallel_workers_per_gather": "0",
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

        async def read(connection: PoolConnectionProxy) -> Page:
            found = await self._found(connection, query)
            records, cut = await self._whole(connection, query.accounts, found.ids)
            return Page(records, UUID(records[-1].id) if cut else found.after)

        return await self._read(read)

    async def ids(self, query: ListQuery) -> Sequence[UUID]:
        """Return the ids of one page; see the port."""

        async def read(connection: PoolConnectionProxy) -> Sequence[UUID]:
            return (await self._found(connection, query)).ids

        return await self._read(read)

    async def records(self, accounts: Sequence[str] | None, ids: Sequence[UUID]) -> Sequence[AuditRecord]:
        """Return records by their ids; see the port."""

        async def read(connection: PoolConnectionProxy) -> Sequence[AuditRecord]:
            return (await self._whole(connection, accounts, ids))[0]

        return await self._read(read)

    async def counts(self, query: SummaryQuery) -> Sequence[Count]:
        """Return a summary; see the port."""

        async def read(connection: PoolConnectionProxy) -> Sequence[Count]:
            limits = await self._limits_on(connection)
            if query.of_trends:
                rows = await _Statements(connection).rows(_trend_statement(query), limits.empty_s)
                return [Count(row["bucket"] - 1, row["value"], row["count"]) for row in rows]
            until_s = time.monotonic() + limits.empty_s
            counts: Counter[tuple[int, str | None]] = Counter()
            low, high = first_id_at(query.bounds_ms[0]), first_id_at(query.bounds_ms[-1])
            for window in spans(low, high, limits.span_ms, ascending=True):
                left_s = max(until_s - time.monotonic(), 0.001)
                for row in await _Statements(connection).rows(summary_statement(query, window), left_s):
                    counts[row["bucket"] - 1, row["value"]] += row["count"]
            return [Count(bucket, value, count) for (bucket, value), count in counts.items()]

        return await self._read(read)

    async def complete_before_ms(self) -> int | None:
        """Return before when everything is there; see the port."""

        async def read(connection: PoolConnectionProxy) -> int | None:
            at_ms: int | None = await connection.fetchval("SELECT auditap.complete_before()")
            return at_ms

        return await self._read(read)

    async def gaps(self, since_ms: int, before_ms: int, gaps_max: int) -> Gaps:
        """Return the gaps of a range of time; see the port."""

        async def read(connection: PoolConnectionProxy) -> Sequence[asyncpg.Record]:
            return await connection.fetch(sql_file("completeness_gaps"), since_ms, before_ms, gaps_max)

        rows = await self._read(read)
        found = [Gap(*(row[name] for name in Gap._fields)) for row in rows]
        return Gaps(found, rows[0]["total"] if rows else 0, rows[0]["missing"] if rows else 0)

    async def taps(self) -> TapCounts:
        """Return how many taps there are; see the port."""

        async def read(connection: PoolConnectionProxy) -> asyncpg.Record | None:
            return await connection.fetchrow(
                "SELECT taps_alive, taps_expired, taps_unnumbered FROM auditap.completeness_counts"
            )

        row = await self._read(read)
        return TapCounts(0, 0, 0) if row is None else TapCounts(*row)

    async def alerts(self, query: AlertQuery) -> Sequence[Mapping[str, Any]]:
        """Return alerts; see the port."""

        async def read(connection: PoolConnectionProxy) -> Sequence[Mapping[str, Any]]:
            rows = await connection.fetch(sql_file("page_alerts"), *query)
            return [alert_document(dict(row)) for row in rows]

        return await self._read(read)

    async def acknowledge(self, account: str, alert_id: UUID, who: str) -> Mapping[str, Any] | None:
        """Acknowledge an alert; see the port."""

        async def write(connection: PoolConnectionProxy) -> bool:
            async with connection.transaction():
                # The one thing that this role may write, and only by this function.
                await connection.execute("SET TRANSACTION READ WRITE")
                statement = "SELECT auditap.acknowledge_alert($1, $2, $3, NULL)"
                return bool(await connection.fetchval(statement, alert_id, account, who))

        if not await self._read(write):
            return None
        after = UUID(int=min(alert_id.int + 1, (1 << 128) - 1))
        [alert] = await self.alerts(AlertQuery(account, alert_id, after, None, None, None, 1))
        return alert

    async def token(self, sha256: bytes) -> Token | None:
        """Return a token; see the port."""

        async def read(connection: PoolConnectionProxy) -> asyncpg.Record | None:
            return await connection.fetchrow(sql_file("find_token"), sha256)

        row = await self._read(read)
        if row is None:
            return None
        return Token(
            row["id"],
            None if row["accounts"] is None else frozenset(row["accounts"]),
            frozenset(row["permissions"]),
            # "infinity" comes without a zone.
            (row["expires_at"].replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1),
            row["name"],
            row["email"],
            row["requests_per_s"],
        )

    async def ready(self) -> bool:
        """Return whether the server answers and is migrated."""

        async def read(connection: PoolConnectionProxy) -> None:
            # By an id that nothing has, which opens no partition: all of them would fill the server's table of locks.
            await connection.fetchval(
                "SELECT FROM auditap.audit_log WHERE id = '00000000-0000-0000-0000-000000000000'"
            )
            await self._limits_on(connection)
            await connection.fetchval("SELECT requests_per_s FROM auditap.api_tokens LIMIT 0")
            await connection.fetchval("SELECT FROM auditap.completeness_gaps LIMIT 0")

        try:
            await self._read(read)
        except RetryableError:
            return False
        return True

    async def _found(self, connection: PoolConnectionProxy, query: ListQuery) -> Ids:
        limits = await self._limits_on(connection)
        return await find_ids(
            _Statements(connection), await _within_the_log(connection, query, limits.span_ms), limits
        )

    async def _limits_on(self, connection: PoolConnectionProxy) -> TimeLimits:
        """Return the limits of a walk, by how the log is divided: a statement touches a bounded number of partitions."""
        if self._span_ms is None:
            interval = await connection.fetchval("SELECT partition_interval FROM auditap.log_shape")
            self._span_ms = self._config.partitions_read_max * _INTERVALS_MS[interval]
        found_ms, empty_ms = self._config.page_time_ms, self._config.statement_timeout_ms
        return TimeLimits(found_ms / 1000, empty_ms / 1000, self._span_ms)

    async def _whole(
        self, connection: PoolConnectionProxy, accounts: Sequence[str] | None, ids: Sequence[UUID]
    ) -> tuple[list[AuditRecord], bool]:
        """Return whole records by their `ids`, and whether the last are left out because bodies are large."""
        records: list[AuditRecord] = []
        size_bytes = done = 0
        step = self._config.fetch_records_max
        scope = None if accounts is None else list(accounts)
        span_ms = (await self._limits_on(connection)).span_ms
        while done < len(ids):
            wanted = _near(ids[done : done + step], span_ms)
            rows = await connection.fetch(sql_file("records_by_id"), wanted, min(wanted), max(wanted), scope)
            before_bytes = size_bytes
            for row in rows:
                if size_bytes > self._config.page_bytes_max:
                    return records, True
                records.append(audit_record(row))
                size_bytes += body_bytes(records[-1])
            done += len(wanted)
            if size_bytes - before_bytes < _SMALL_BATCH_BYTES:
                # Where bodies are small, the next batch may have more of them.
                step *= 4
        return records, False

    async def _read(self, work: Callable[[PoolConnectionProxy], Awaitable[_T]]) -> _T:
        """Return what `work` reads on a connection; on a new one where the first turns out to be cut."""
        try:
            return await self._once(work)
        except _CUT:
            pass
        except _PASSING:
            raise RetryableError("Postgres does not answer the log API") from None
        try:
            if self._pool is not None:
                # What else is idle was cut as well.
                await self._pool.expire_connections()
            return await self._once(work)
        except _PASSING:
            raise RetryableError("Postgres does not answer the log API") from None

    async def _once(self, work: Callable[[PoolConnectionProxy], Awaitable[_T]]) -> _T:
        if self._pool is None:
            raise RetryableError("the log API's database is not open")
        async with self._pool.acquire(timeout=self._config.acquire_timeout_ms / 1000) as connection:
            return await work(connection)


def _near(ids: Sequence[UUID], span_ms: int) -> Sequence[UUID]:
    """Return the first of sorted ids, as many as lie within a span of time."""
    first_ms = id_ms(ids[0].hex)
    return [each for each in ids if abs(id_ms(each.hex) - first_ms) < span_ms]


async def _within_the_log(connection: PoolConnectionProxy, query: ListQuery, span_ms: int) -> ListQuery:
    """Return the query without time for which there is no partition: clients ask from 1970, and until the year 9999."""
    now_ms = time.time_ns() // 1_000_000
    before_ms = min(query.before_ms, now_ms + _PARTITIONS_AHEAD_MS)
    since_ms = query.since_ms
    if before_ms - since_ms > span_ms:
        # No partition at all is nothing at all.
        oldest_ms = await connection.fetchval(sql_file("oldest_partition"))
        since_ms = max(since_ms, before_ms if oldest_ms is None else oldest_ms)
    return replace(query, since_ms=since_ms, before_ms=before_ms)


def _trend_statement(query: SummaryQuery) -> Statement:
    return Statement(
        sql_file("count_trends"),
        (list(query.accounts), list(query.bounds_ms), str(query.field), query.trend_ms),
    )


class _Statements:
    """The walk's Reader on a connection."""

    def __init__(self, connection: PoolConnectionProxy) -> None:
        self._connection = connection

    async def rows(self, statement: Statement, timeout_s: float) -> Sequence[Row]:
        """Return all rows; see the protocol."""
        try:
            rows: Sequence[Row] = await self._connection.fetch(
                statement.text, *statement.arguments, timeout=timeout_s
            )
        except asyncpg.QueryCanceledError:
            raise TimeoutError from None
        return rows
