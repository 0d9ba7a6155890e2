"""The log API's database port on Postgres, with a role that may only read."""

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
from log_api.keyset_scan import PageIds, TimeLimits, find_page_ids, spans
from log_api.ports import AlertQuery, Count, Token
from log_api.records import AuditRecord, Page, Row, audit_record, body_bytes
from log_api.sql_builder import ListQuery, Statement, SummaryQuery, summary_statement
from schemas.alert import alert_payload
from schemas.errors import RetryableError, StartupError
from schemas.identity import first_id_at, id_ms
from schemas.postgres_refusals import session_refusal
from schemas.sql import query as sql_file
from schemas.text_encoding import require_utf8

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

_T = TypeVar("_T")
_INTERVALS_MS = {"hour": 3_600_000, "day": 86_400_000, "month": 31 * 86_400_000}
# Batches start small, because bodies may be large; one below this size lets the next be larger.
_SMALL_BATCH_BYTES = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000
# `auditap.ensure_partitions` creates no partition further ahead than this.
_PARTITIONS_AHEAD_MS = 370 * _DAY_MS
_LOGIN_ERRORS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
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
    *_LOGIN_ERRORS,
)


class PostgresLogDatabase:
    """`LogDatabase` on a bounded pool of read-only connections."""

    def __init__(self, dsn: str, config: LogApiConfig) -> None:
        self._dsn = dsn
        self._config = config
        self._span_ms: int | None = None
        self._pool: asyncpg.Pool | None = None

    async def start(self) -> None:
        """Open the pool. Raises StartupError if Postgres rejects the session for good or its database is not UTF-8.

        Succeeds while Postgres is unavailable.
        """
        statement_ms = self._config.statement_timeout_ms
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._config.connections_max,
            timeout=self._config.limits.connect_timeout_ms / 1000,
            init=_require_utf8,
            # The server's timeout comes first. This one is for a server that does not respond at all.
            command_timeout=statement_ms / 1000 + 2,
            server_settings={
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
        try:
            async with self._pool.acquire(timeout=self._config.limits.connect_timeout_ms / 1000):
                pass
        except (*_LOGIN_ERRORS, *_TRANSIENT_ERRORS, asyncpg.ProtocolViolationError) as error:
            refusal = session_refusal(error)
            if refusal is None and isinstance(error, _LOGIN_ERRORS):
                refusal = (
                    "Postgres refuses the log API's login: check user, password and database of its DSN."
                )
            if refusal is not None:
                await self.stop()
                raise StartupError(refusal) from None
        except StartupError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the pool and cancel statements in progress."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def page(self, query: ListQuery) -> Page:
        async def read(connection: PoolConnectionProxy) -> Page:
            found = await self._page_ids(connection, query)
            records, cut = await self._fetch_records(connection, query.accounts, found.ids)
            return Page(records, UUID(records[-1].id) if cut else found.after)

        return await self._run(read)

    async def ids(self, query: ListQuery) -> Sequence[UUID]:
        async def read(connection: PoolConnectionProxy) -> Sequence[UUID]:
            return (await self._page_ids(connection, query)).ids

        return await self._run(read)

    async def records(self, accounts: Sequence[str] | None, ids: Sequence[UUID]) -> Sequence[AuditRecord]:
        async def read(connection: PoolConnectionProxy) -> Sequence[AuditRecord]:
            return (await self._fetch_records(connection, accounts, ids))[0]

        return await self._run(read)

    async def counts(self, query: SummaryQuery) -> Sequence[Count]:
        async def read(connection: PoolConnectionProxy) -> Sequence[Count]:
            limits = await self._time_limits(connection)
            if query.from_trends:
                rows = await _ConnectionReader(connection).rows(_trend_statement(query), limits.empty_s)
                return [Count(row["bucket"] - 1, row["value"], row["count"]) for row in rows]
            until_s = time.monotonic() + limits.empty_s
            counts: Counter[tuple[int, str | None]] = Counter()
            low, high = first_id_at(query.bounds_ms[0]), first_id_at(query.bounds_ms[-1])
            for window in spans(low, high, limits.span_ms, ascending=True):
                # asyncpg takes no timeout of zero; this one ends the statement at once.
                left_s = max(until_s - time.monotonic(), 0.001)
                for row in await _ConnectionReader(connection).rows(summary_statement(query, window), left_s):
                    counts[row["bucket"] - 1, row["value"]] += row["count"]
            return [Count(bucket, value, count) for (bucket, value), count in counts.items()]

        return await self._run(read)

    async def complete_before_ms(self) -> int | None:
        async def read(connection: PoolConnectionProxy) -> int | None:
            at_ms: int | None = await connection.fetchval("SELECT auditap.complete_before()")
            return at_ms

        return await self._run(read)

    async def gaps(self, since_ms: int, before_ms: int, gaps_max: int) -> Gaps:
        async def read(connection: PoolConnectionProxy) -> Sequence[asyncpg.Record]:
            return await connection.fetch(sql_file("completeness_gaps"), since_ms, before_ms, gaps_max)

        rows = await self._run(read)
        found = [Gap(*(row[name] for name in Gap._fields)) for row in rows]
        return Gaps(found, rows[0]["total"] if rows else 0, rows[0]["missing"] if rows else 0)

    async def taps(self) -> TapCounts:
        async def read(connection: PoolConnectionProxy) -> asyncpg.Record | None:
            return await connection.fetchrow(
                "SELECT taps_alive, taps_expired, taps_unnumbered, taps_surplus, taps_retired"
                " FROM auditap.completeness_counts"
            )

        row = await self._run(read)
        return TapCounts(0, 0, 0, 0, 0) if row is None else TapCounts(*row)

    async def alerts(self, query: AlertQuery) -> Sequence[Mapping[str, Any]]:
        async def read(connection: PoolConnectionProxy) -> Sequence[Mapping[str, Any]]:
            rows = await connection.fetch(sql_file("page_alerts"), *query)
            return [alert_payload(dict(row)) for row in rows]

        return await self._run(read)

    async def acknowledge(self, account: str, alert_id: UUID, token: Token) -> Mapping[str, Any] | None:
        async def write(connection: PoolConnectionProxy) -> bool:
            async with connection.transaction():
                # The one write that this role may do, through this function alone.
                await connection.execute("SET TRANSACTION READ WRITE")
                statement = "SELECT auditap.acknowledge_alert($1, $2, $3)"
                return bool(await connection.fetchval(statement, alert_id, account, token.sha256))

        # `_run` may do it twice, which is harmless: the first acknowledgement stays.
        if not await self._run(write):
            return None
        after = UUID(int=min(alert_id.int + 1, (1 << 128) - 1))
        [alert] = await self.alerts(AlertQuery(account, alert_id, after, None, None, None, 1))
        return alert

    async def accounts(self, accounts_max: int) -> Sequence[str]:
        async def read(connection: PoolConnectionProxy) -> Sequence[str]:
            # One statement, so no more partitions than one may read.
            since_ms = time.time_ns() // 1_000_000 - (await self._time_limits(connection)).span_ms
            rows = await connection.fetch(sql_file("accounts"), first_id_at(max(since_ms, 0)), accounts_max)
            return [row["account_id"] for row in rows]

        return await self._run(read)

    async def token(self, sha256: bytes) -> Token | None:
        async def read(connection: PoolConnectionProxy) -> asyncpg.Record | None:
            return await connection.fetchrow(sql_file("find_token"), sha256)

        row = await self._run(read)
        if row is None:
            return None
        return Token(
            row["id"],
            None if row["accounts"] is None else frozenset(row["accounts"]),
            frozenset(row["permissions"]),
            # asyncpg returns "infinity" without a time zone.
            (row["expires_at"].replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1),
            row["name"],
            row["email"],
            row["requests_per_s"],
            sha256,
        )

    async def ready(self) -> bool:
        """Return whether the server responds and its schema is up to date."""

        async def read(connection: PoolConnectionProxy) -> None:
            # An id that no record has: a query without an id would lock every partition.
            await connection.fetchval(
                "SELECT FROM auditap.audit_log WHERE id = '00000000-0000-0000-0000-000000000000'"
            )
            await self._time_limits(connection)
            await connection.fetchval("SELECT requests_per_s FROM auditap.find_token(NULL)")
            await connection.fetchval("SELECT FROM auditap.completeness_gaps LIMIT 0")

        try:
            await self._run(read)
        except RetryableError:
            return False
        return True

    async def _page_ids(self, connection: PoolConnectionProxy, query: ListQuery) -> PageIds:
        limits = await self._time_limits(connection)
        return await find_page_ids(
            _ConnectionReader(connection),
            await _clipped_to_partitions(connection, query, limits.span_ms),
            limits,
        )

    async def _time_limits(self, connection: PoolConnectionProxy) -> TimeLimits:
        """Return the limits of a scan. Their span depends on the partition interval, so that a statement reads few partitions."""
        # Read once: the interval never changes, because partitions of two lengths would overlap.
        if self._span_ms is None:
            interval = await connection.fetchval("SELECT partition_interval FROM auditap.log_shape")
            self._span_ms = self._config.limits.partitions_read_max * _INTERVALS_MS[interval]
        found_ms, empty_ms = self._config.limits.page_time_ms, self._config.statement_timeout_ms
        return TimeLimits(found_ms / 1000, empty_ms / 1000, self._span_ms)

    async def _fetch_records(
        self, connection: PoolConnectionProxy, accounts: Sequence[str] | None, ids: Sequence[UUID]
    ) -> tuple[list[AuditRecord], bool]:
        """Return the records with `ids`, and whether some at the end are left out because bodies are large."""
        records: list[AuditRecord] = []
        size_bytes = done = 0
        step = self._config.limits.fetch_records_max
        scope = None if accounts is None else list(accounts)
        span_ms = (await self._time_limits(connection)).span_ms
        while done < len(ids):
            batch = _within_span(ids[done : done + step], span_ms)
            rows = await connection.fetch(sql_file("records_by_id"), batch, min(batch), max(batch), scope)
            before_bytes = size_bytes
            for row in rows:
                # Checked before a record is added, so that every page has one, however large, and the list goes on.
                if size_bytes > self._config.limits.page_bytes_max:
                    return records, True
                records.append(audit_record(row, keep_unknown_values=self._config.keep_unknown_values))
                size_bytes += body_bytes(records[-1])
            done += len(batch)
            if size_bytes - before_bytes < _SMALL_BATCH_BYTES:
                # Bodies are small here, so the next batch may be larger.
                step *= 4
        return records, False

    async def _run(self, work: Callable[[PoolConnectionProxy], Awaitable[_T]]) -> _T:
        """Run `work` on a connection, and once more on a new one if the connection was lost. Raises RetryableError."""
        try:
            return await self._run_once(work)
        except _CONNECTION_LOST:
            pass
        except _TRANSIENT_ERRORS:
            raise RetryableError("Postgres does not answer the log API") from None
        try:
            if self._pool is not None:
                # The other idle connections were most likely cut as well.
                await self._pool.expire_connections()
            return await self._run_once(work)
        except _TRANSIENT_ERRORS:
            raise RetryableError("Postgres does not answer the log API") from None

    async def _run_once(self, work: Callable[[PoolConnectionProxy], Awaitable[_T]]) -> _T:
        if self._pool is None:
            raise RetryableError("the log API's database is not open")
        async with self._pool.acquire(timeout=self._config.limits.acquire_timeout_ms / 1000) as connection:
            return await work(connection)


def _within_span(ids: Sequence[UUID], span_ms: int) -> Sequence[UUID]:
    """Return the leading ids that lie within `span_ms` of the first one."""
    first_ms = id_ms(ids[0].hex)
    return [each for each in ids if abs(id_ms(each.hex) - first_ms) < span_ms]


async def _clipped_to_partitions(
    connection: PoolConnectionProxy, query: ListQuery, span_ms: int
) -> ListQuery:
    """Return the query with its time range clipped to existing partitions: clients send ranges from 1970 to 9999."""
    now_ms = time.time_ns() // 1_000_000
    before_ms = min(query.before_ms, now_ms + _PARTITIONS_AHEAD_MS)
    since_ms = query.since_ms
    # A shorter range is one statement in any case, and looking for the oldest partition would be another.
    if before_ms - since_ms > span_ms:
        # Without any partition the range is empty.
        oldest_ms = await connection.fetchval(sql_file("oldest_partition"))
        since_ms = max(since_ms, before_ms if oldest_ms is None else oldest_ms)
    return replace(query, since_ms=since_ms, before_ms=before_ms)


def _trend_statement(query: SummaryQuery) -> Statement:
    return Statement(
        sql_file("count_trends"),
        (list(query.accounts), list(query.bounds_ms), str(query.field), query.trend_ms),
    )


class _ConnectionReader:
    """`keyset_scan.Reader` on a connection."""

    def __init__(self, connection: PoolConnectionProxy) -> None:
        self._connection = connection

    async def rows(self, statement: Statement, timeout_s: float) -> Sequence[Row]:
        try:
            rows: Sequence[Row] = await self._connection.fetch(
                statement.text, *statement.arguments, timeout=timeout_s
            )
        except asyncpg.QueryCanceledError:
            raise TimeoutError from None
        return rows


async def _require_utf8(connection: asyncpg.Connection) -> None:
    require_utf8(connection.get_settings())
