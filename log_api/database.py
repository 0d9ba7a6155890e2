"""The log API's database port on Postgres, with a role that may only read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain, takewhile
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from log_api.completeness import Gap, Gaps, TapCounts
from log_api.config import COMMON_CONNECTIONS, LogApiConfig
from log_api.connections import ConnectionPool, Session
from log_api.cpu_turns import CpuTurns, cpu_queue
from log_api.dead_letters import DeadLetterCount
from log_api.fair_shares import FairQueue
from log_api.keyset_scan import PageIds, TimeLimits, find_page_ids, rows_by_window
from log_api.ports import AlertQuery, Count, Token, UnmatchedCount
from log_api.records import AuditRecord, Page, Row, audit_record, body_bytes
from log_api.resource_changes import ChangeIds, ResourceChanges, WantedChanges, find_change_ids
from log_api.shared_reads import BatchedReads, SharedRead
from log_api.sql_builder import (
    ListQuery,
    Statement,
    SummaryQuery,
    summary_statement,
    unmatched_statement,
)
from log_api.taps import CauseCount, TapRun, TapRuns
from schemas.alert import alert_payload
from schemas.identity import first_id_at, id_ms, rfc3339_ms
from schemas.metric_defs import Metrics
from schemas.sql import query as sql_file

_T = TypeVar("_T")
_INTERVALS_MS = {"hour": 3_600_000, "day": 86_400_000, "month": 31 * 86_400_000}
# Batches start small, because bodies may be large; one below this size lets the next be larger.
_SMALL_BATCH_BYTES = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000
# `auditap.ensure_partitions` creates no partition further ahead than this.
_PARTITIONS_AHEAD_MS = 370 * _DAY_MS
# Records from which the changes of one response are worked out.
_CHANGE_RECORDS_MAX = 2_000
# Every page asks for the watermark, every prober for readiness.
_READ_AGE_MS_MAX = 1_000


class PostgresLogDatabase:
    """`LogDatabase` on two bounded pools of read-only connections.

    Tokens share one by a `FairQueue`. The other is for what no token's queries may delay: looking tokens up, the watermark,
    readiness. Each of these has at most one statement under way.
    """

    def __init__(self, dsn: str, config: LogApiConfig, metrics: Metrics) -> None:
        limits = config.limits
        connections_max = config.connections_max - COMMON_CONNECTIONS
        queue = FairQueue(connections_max, limits.requests_waiting_max, limits.acquire_timeout_ms / 1000)
        metrics.log_api_connections_in_use.set_function(lambda: queue.held)
        metrics.log_api_requests_waiting.set_function(lambda: queue.waiting)
        self._config = config
        self._metrics = metrics
        self._pool = ConnectionPool(dsn, config, connections_max, queue, metrics)
        self._common = ConnectionPool(dsn, config, COMMON_CONNECTIONS, None, metrics)
        self._shape = _LogShape(config)
        self._cpu = cpu_queue()
        self._tokens = BatchedReads(self._read_tokens, limits.lookups_waiting_max)
        self._watermark_ms = SharedRead(self._read_watermark_ms, _READ_AGE_MS_MAX)
        self._readiness = SharedRead(self._read_readiness, _READ_AGE_MS_MAX)

    async def start(self) -> None:
        """Open the pools. Raises StartupError if Postgres refuses the login for good, or its database is not UTF-8.

        Succeeds while Postgres is unavailable or not migrated.
        """
        await self._common.start()
        await self._common.check()
        await self._pool.start()

    async def stop(self) -> None:
        """Close the pools and cancel statements in progress."""
        for reads in (self._tokens, self._watermark_ms, self._readiness):
            await reads.stop()
        self._pool.stop()
        self._common.stop()

    def reads_of(self, token: Token) -> _TokenReads:
        turns = CpuTurns(self._cpu, token.requester)
        return _TokenReads(self._pool, turns, self._config, self._shape)

    async def complete_before_ms(self) -> int | None:
        return await self._watermark_ms.get()

    async def token(self, sha256: bytes) -> Token | None:
        return await self._tokens.get(sha256)

    async def ready(self) -> bool:
        """Return whether the server responds and its schema is up to date."""
        return await self._readiness.get()

    async def _read_watermark_ms(self) -> int | None:
        async def read(session: Session) -> int | None:
            at_ms: int | None = await session.value("SELECT auditap.complete_before()")
            return at_ms

        return await self._common.run(read)

    async def _read_tokens(self, sha256s: Sequence[bytes]) -> Mapping[bytes, Token]:
        async def read(session: Session) -> Sequence[Row]:
            return await session.fetch(sql_file("find_tokens"), list(sha256s))

        tokens = [_token(row) for row in await self._common.run(read)]
        self._metrics.log_api_token_lookups.labels("found").inc(len(tokens))
        self._metrics.log_api_token_lookups.labels("unknown").inc(len(sha256s) - len(tokens))
        return {token.sha256: token for token in tokens}

    async def _read_readiness(self) -> bool:
        async def read(session: Session) -> None:
            # The newest column of a record: over an older schema, this process is not ready. And an id that no record has: a
            # query without an id would lock every partition.
            await session.value(
                "SELECT exchange_host FROM auditap.audit_log WHERE id = '00000000-0000-0000-0000-000000000000'"
            )
            await self._shape.time_limits(session)
            await session.value("SELECT requests_per_s FROM auditap.find_token(NULL)")
            await session.value("SELECT FROM auditap.completeness_gaps LIMIT 0")
            await session.value("SELECT FROM auditap.list_tap_runs(0)")

        return await self._common.succeeds(read)


class _LogShape:
    """The limits of a scan, which depend on the partition interval, so that a statement reads few partitions."""

    def __init__(self, config: LogApiConfig) -> None:
        self._config = config
        self._span_ms: int | None = None

    async def time_limits(self, session: Session) -> TimeLimits:
        # Read once: the interval never changes, because partitions of two lengths would overlap.
        if self._span_ms is None:
            interval = await session.value("SELECT partition_interval FROM auditap.log_shape")
            self._span_ms = self._config.limits.partitions_read_max * _INTERVALS_MS[interval]
        found_ms, empty_ms = self._config.limits.page_time_ms, self._config.statement_timeout_ms
        return TimeLimits(found_ms / 1000, empty_ms / 1000, self._span_ms)


class _TokenReads:
    """`LogReads`: what one token reads, on connections that it shares with others."""

    def __init__(
        self,
        pool: ConnectionPool,
        turns: CpuTurns,
        config: LogApiConfig,
        shape: _LogShape,
    ) -> None:
        self._pool = pool
        self._config = config
        self._shape = shape
        self.turns = turns

    async def page(self, query: ListQuery) -> Page:
        async def read(session: Session) -> Page:
            found = await self._page_ids(session, query)
            records, cut = await self._fetch_records(session, query.accounts, found.ids)
            return Page(records, UUID(records[-1].id) if cut else found.after)

        return await self._run(read)

    async def ids(self, query: ListQuery) -> Sequence[UUID]:
        async def read(session: Session) -> Sequence[UUID]:
            return (await self._page_ids(session, query)).ids

        return await self._run(read)

    async def records(self, accounts: Sequence[str] | None, ids: Sequence[UUID]) -> Sequence[AuditRecord]:
        async def read(session: Session) -> Sequence[AuditRecord]:
            return (await self._fetch_records(session, accounts, ids))[0]

        return await self._run(read)

    async def resource_changes(
        self, accounts: Sequence[str] | None, wanted: Sequence[WantedChanges]
    ) -> Sequence[ResourceChanges]:
        async def read(session: Session) -> Sequence[ResourceChanges]:
            async def oldest() -> UUID:
                oldest_ms = await session.value(sql_file("oldest_partition"))
                return first_id_at(oldest_ms or 0)

            found = await find_change_ids(session, wanted, oldest, await self._shape.time_limits(session))
            ids = sorted({one for each in found for one in each.ids}, reverse=True)[:_CHANGE_RECORDS_MAX]
            records, _ = await self._fetch_records(session, accounts, ids)
            by_id = {UUID(record.id): record for record in records}
            return [_fetched(one, by_id) for one in found]

        return await self._run(read)

    async def counts(self, query: SummaryQuery) -> Sequence[Count]:
        async def read(session: Session) -> Sequence[Count]:
            limits = await self._shape.time_limits(session)
            if query.from_trends:
                rows = await session.rows(_trend_statement(query), limits.empty_s)
                return [Count(row["bucket"] - 1, row["value"], row["count"]) for row in rows]
            low, high = first_id_at(query.bounds_ms[0]), first_id_at(query.bounds_ms[-1])
            counts: Counter[tuple[int, str | None]] = Counter()
            windows = rows_by_window(
                session, lambda window: summary_statement(query, window), (low, high), limits
            )

            def add(some: Sequence[Row]) -> None:
                for row in some:
                    counts[row["bucket"] - 1, row["value"]] += row["count"]

            async for rows in windows:
                async for _ in self.turns.results(rows, add):
                    pass
            return [Count(bucket, value, count) for (bucket, value), count in counts.items()]

        return await self._run(read)

    async def gaps(self, since_ms: int, before_ms: int, gaps_max: int) -> Gaps:
        async def read(session: Session) -> Sequence[Row]:
            return await session.fetch(sql_file("completeness_gaps"), since_ms, before_ms, gaps_max)

        rows = await self._run(read)
        found = [Gap(*(row[name] for name in Gap._fields)) for row in rows]
        return Gaps(found, rows[0]["total"] if rows else 0, rows[0]["missing"] if rows else 0)

    async def taps(self) -> TapCounts:
        async def read(session: Session) -> Sequence[Any]:
            return await session.fetch(
                "SELECT taps_alive, taps_expired, taps_unnumbered, taps_surplus, taps_retired"
                " FROM auditap.completeness_counts"
            )

        rows = await self._run(read)
        return TapCounts(*rows[0]) if rows else TapCounts(0, 0, 0, 0, 0)

    async def tap_runs(self, runs_max: int) -> TapRuns:
        async def read(session: Session) -> Sequence[Row]:
            return await session.fetch(sql_file("tap_runs"), runs_max)

        rows = await self._run(read)
        return TapRuns([_tap_run(row) for row in rows], rows[0]["runs"] if rows else 0)

    async def dead_letters(self, count_max: int) -> Sequence[DeadLetterCount]:
        async def read(session: Session) -> Sequence[Row]:
            statement = "SELECT reason, dead_letters, oldest, newest FROM auditap.summarize_dead_letters($1)"
            return await session.fetch(statement, count_max)

        return [
            DeadLetterCount(
                row["reason"], row["dead_letters"], _unix_ms(row["oldest"]), _unix_ms(row["newest"])
            )
            for row in await self._run(read)
        ]

    async def unmatched(
        self, accounts: tuple[str, ...] | None, since_ms: int, before_ms: int, groups_max: int
    ) -> Sequence[UnmatchedCount]:
        async def read(session: Session) -> Sequence[UnmatchedCount]:
            limits = await self._shape.time_limits(session)
            groups: dict[tuple[str, str | None, str | None], tuple[int, int]] = {}
            windows = rows_by_window(
                session,
                lambda window: unmatched_statement(accounts, window, groups_max),
                (first_id_at(since_ms), first_id_at(before_ms)),
                limits,
            )

            def add(some: Sequence[Row]) -> None:
                for row in some:
                    key = (row["reason"], row["method"], row["path"])
                    records, last_ms = groups.get(key, (0, 0))
                    if key in groups or len(groups) < groups_max:
                        latest_ms = max(last_ms, id_ms(UUID(row["last_id"]).hex))
                        groups[key] = records + row["count"], latest_ms

            async for rows in windows:
                async for _ in self.turns.results(rows, add):
                    pass
            return [UnmatchedCount(*key, *found) for key, found in groups.items()]

        return await self._run(read)

    async def deliveries(self, account: str, alert_id: UUID) -> Sequence[Mapping[str, Any]]:
        async def read(session: Session) -> Sequence[Row]:
            return await session.fetch(sql_file("alert_deliveries"), alert_id, account)

        rows = await self._run(read)
        names = ("channel", "state", "attempts", "outcome")
        return [
            {**{name: row[name] for name in names}, "due_at": rfc3339_ms(_unix_ms(row["due_at"]))}
            for row in rows
        ]

    async def alerts(self, query: AlertQuery) -> Sequence[Mapping[str, Any]]:
        async def read(session: Session) -> Sequence[Mapping[str, Any]]:
            rows = await session.fetch(sql_file("page_alerts"), *query)
            payloads = self.turns.results(rows, lambda some: [alert_payload(dict(row)) for row in some])
            return [payload async for made in payloads for payload in chain.from_iterable(made)]

        return await self._run(read)

    async def acknowledge(self, account: str, alert_id: UUID, token: Token) -> Mapping[str, Any] | None:
        async def write(session: Session) -> bool:
            # The one write that this role may do, through this function alone.
            statement = "SELECT auditap.acknowledge_alert($1, $2, $3)"
            return bool(await session.written_value(statement, alert_id, account, token.sha256))

        # `_run` may do it twice, which is harmless: the first acknowledgement stays.
        if not await self._run(write):
            return None
        after = UUID(int=min(alert_id.int + 1, (1 << 128) - 1))
        [alert] = await self.alerts(AlertQuery(account, alert_id, after, None, None, None, 1))
        return alert

    async def accounts(self, accounts_max: int) -> Sequence[str]:
        async def read(session: Session) -> Sequence[str]:
            # One statement, so no more partitions than one may read.
            limits = await self._shape.time_limits(session)
            since_ms = time.time_ns() // 1_000_000 - limits.span_ms
            rows = await session.fetch(sql_file("accounts"), first_id_at(max(since_ms, 0)), accounts_max)
            return [row["account_id"] for row in rows]

        return await self._run(read)

    async def _run(self, work: Callable[[Session], Awaitable[_T]]) -> _T:
        return await self._pool.run(work, self.turns.requester)

    async def _page_ids(self, session: Session, query: ListQuery) -> PageIds:
        limits = await self._shape.time_limits(session)
        return await find_page_ids(
            session, await _clipped_to_partitions(session, query, limits.span_ms), limits
        )

    async def _fetch_records(
        self, session: Session, accounts: Sequence[str] | None, ids: Sequence[UUID]
    ) -> tuple[list[AuditRecord], bool]:
        """Return the records with `ids`, and whether some at the end are left out because bodies are large."""
        records: list[AuditRecord] = []
        size_bytes = done = 0
        step = self._config.limits.fetch_records_max
        scope = None if accounts is None else list(accounts)
        span_ms = (await self._shape.time_limits(session)).span_ms
        while done < len(ids):
            batch = _within_span(ids[done : done + step], span_ms)
            await session.give_way()
            rows = await session.fetch(sql_file("records_by_id"), batch, min(batch), max(batch), scope)
            before_bytes = size_bytes
            async for made in self.turns.results(rows, self._audit_records):
                for record in chain.from_iterable(made):
                    # Checked before a record is added, so that every page has one, however large, and the list goes on.
                    if size_bytes > self._config.limits.page_bytes_max:
                        return records, True
                    records.append(record)
                    size_bytes += body_bytes(record)
            done += len(batch)
            if size_bytes - before_bytes < _SMALL_BATCH_BYTES:
                # Bodies are small here, so the next batch may be larger.
                step *= 4
        return records, False

    def _audit_records(self, rows: Sequence[Row]) -> Sequence[AuditRecord]:
        return [audit_record(row, keep_unknown_values=self._config.keep_unknown_values) for row in rows]


def _fetched(found: ChangeIds, by_id: Mapping[UUID, AuditRecord]) -> ResourceChanges:
    """Return the records of the newest ids, up to the first one that was not fetched."""
    newest = list(takewhile(by_id.__contains__, found.ids))
    whole = found.from_id is None and len(newest) == len(found.ids)
    return ResourceChanges([by_id[one] for one in reversed(newest)], whole)


def _within_span(ids: Sequence[UUID], span_ms: int) -> Sequence[UUID]:
    """Return the leading ids that lie within `span_ms` of the first one."""
    first_ms = id_ms(ids[0].hex)
    return [each for each in ids if abs(id_ms(each.hex) - first_ms) < span_ms]


async def _clipped_to_partitions(session: Session, query: ListQuery, span_ms: int) -> ListQuery:
    """Return the query with its time range clipped to existing partitions: clients send ranges from 1970 to 9999."""
    now_ms = time.time_ns() // 1_000_000
    before_ms = min(query.before_ms, now_ms + _PARTITIONS_AHEAD_MS)
    since_ms = query.since_ms
    # A shorter range is one statement in any case, and looking for the oldest partition would be another.
    if before_ms - since_ms > span_ms:
        # Without any partition the range is empty.
        oldest_ms = await session.value(sql_file("oldest_partition"))
        since_ms = max(since_ms, before_ms if oldest_ms is None else oldest_ms)
    return replace(query, since_ms=since_ms, before_ms=before_ms)


def _trend_statement(query: SummaryQuery) -> Statement:
    return Statement(
        sql_file("count_trends"),
        # Trends are of given accounts: a query for every account does not ask for them.
        (list(query.accounts or ()), list(query.bounds_ms), str(query.field), query.trend_ms),
    )


def _tap_run(row: Row) -> TapRun:
    gaps = [CauseCount(*each) for each in msgspec.json.decode(row["gaps"])]
    values = {name: row[name] for name in TapRun._fields if name != "gaps"}
    return TapRun(**values, gaps=gaps)


def _unix_ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _token(row: Row) -> Token:
    return Token(
        row["id"],
        None if row["accounts"] is None else frozenset(row["accounts"]),
        frozenset(row["permissions"]),
        # asyncpg returns "infinity" without a time zone.
        (row["expires_at"].replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1),
        row["name"],
        row["email"],
        row["requests_per_s"],
        row["sha256"],
    )
