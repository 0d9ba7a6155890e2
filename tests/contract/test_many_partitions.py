"""18 months of days in a Postgres with the table of locks that it has by default."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from auditap.database.schema import ensure_database
from auditap.runtime.embedded_postgres import EmbeddedPostgres
from ingestor.config import DAY_MS
from ingestor.postgres_store import PostgresStore
from log_api.config import LogApiConfig, LogApiLimits
from log_api.database import PostgresLogDatabase
from log_api.sql_builder import Condition, Direction, Field, ListQuery, SummaryQuery
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.audit_database import AuditDatabase, migrated
from tests.records import record
from tests.unit.log_api.stored_log import reads, unhurried

DAYS = 548
NOW_MS = time.time_ns() // 1_000_000
SINCE_MS, BEFORE_MS = NOW_MS - DAYS * DAY_MS, NOW_MS + 60_000
RECORDS = sorted(
    (
        record(
            NOW_MS - day * DAY_MS + 1_000,
            account_id="rare" if day % 90 == 0 else "common",
            actor_id=f"actor{day % 3}",
            resource_id="r1" if day % 100 == 0 else f"other{day}",
            enrichment="complete",
        )
        for day in range(DAYS)
    ),
    key=lambda each: each.id,
)


@pytest.fixture(scope="module")
async def audit(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AuditDatabase]:
    """A log of 548 days, one record each, in a server of its own whose table of locks is the one by default."""
    settings = {"fsync": "off", "max_connections": "100", "max_locks_per_transaction": "64"}
    async with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), settings=settings) as server:
        connection = await asyncpg.connect(server.dsn())
        await ensure_database(connection, "years")
        await connection.close()
        audit = await migrated(server.dsn(database="years"))
        store = await PostgresStore.connect(audit.writer_dsn, connections_max=2, command_timeout_ms=60_000)
        assert (await store.store(RECORDS)).stored == DAYS
        await store.close()
        yield audit


@pytest.fixture
async def log(audit: AuditDatabase) -> AsyncIterator[PostgresLogDatabase]:
    config = LogApiConfig(
        cursor_key=b"k" * 32,
        connections_max=10,
        limits=unhurried(LogApiLimits()),
        statement_timeout_ms=60_000,
    )
    database = PostgresLogDatabase(audit.reader_dsn, config, Metrics())
    await database.start()
    yield database
    await database.stop()


def ids(**columns: str) -> list[UUID]:
    return [each.id for each in RECORDS if all(getattr(each, name) == of for name, of in columns.items())]


async def listed(log: PostgresLogDatabase, query: ListQuery) -> list[UUID]:
    """Return the ids of all pages, as an export reads them."""
    found: list[UUID] = []
    after: UUID | None = None
    while True:
        page = await reads(log).page(
            ListQuery(
                query.accounts, query.since_ms, query.before_ms, query.direction, 100, query.conditions, after
            )
        )
        found += [UUID(each.id) for each in page.records]
        after = page.after
        if after is None:
            return found


async def same_lists(log: PostgresLogDatabase, direction: Direction) -> None:
    def wanted(**columns: str) -> list[UUID]:
        return ids(**columns)[:: 1 if direction is Direction.ASC else -1]

    def query(account: str, *conditions: Condition) -> ListQuery:
        return ListQuery((account,), SINCE_MS, BEFORE_MS, direction, conditions=conditions)

    assert await listed(log, query("rare")) == wanted(account_id="rare")
    assert await listed(log, query("nobody")) == []
    assert await listed(log, query("common")) == wanted(account_id="common")
    for name, value in (("resource_id", "r1"), ("actor_id", "actor1")):
        filtered = query("common", Condition(name, False, (value,)))
        assert await listed(log, filtered) == wanted(account_id="common", **{name: value})
    far_apart = [ids(account_id="rare")[index] for index in (0, -1)]
    by_id = query("rare", Condition("id", False, tuple(far_apart)))
    assert await listed(log, by_id) == far_apart[:: 1 if direction is Direction.ASC else -1]


async def same_counts(log: PostgresLogDatabase) -> None:
    middle_ms = SINCE_MS + 200 * DAY_MS
    counts = await reads(log).counts(
        SummaryQuery(("common", "rare"), (SINCE_MS, middle_ms, BEFORE_MS), Field.ACTOR_ID)
    )
    found = {(bucket, value): count for bucket, value, count in counts}
    expected: dict[tuple[int, Any], int] = {}
    for each in RECORDS:
        at_ms = each.id.int >> 80
        bucket = int(at_ms >= middle_ms)
        expected[bucket, each.actor_id] = expected.get((bucket, each.actor_id), 0) + 1
    assert found == expected


async def test_many_queries_over_all_days_at_once_stay_within_the_table_of_locks(
    audit: AuditDatabase, log: PostgresLogDatabase
) -> None:
    assert await log.ready()
    work: list[Callable[[], Awaitable[None]]] = [
        lambda: same_lists(log, Direction.DESC),
        lambda: same_lists(log, Direction.ASC),
        lambda: same_counts(log),
    ]
    done = asyncio.Event()

    async def work_on() -> None:
        try:
            await asyncio.gather(*(each() for each in work * 4))
        finally:
            done.set()

    await asyncio.gather(work_on(), sample_locks(audit, done))


async def sample_locks(audit: AuditDatabase, done: asyncio.Event) -> None:
    """Hold every statement to what 33 partitions of both tables, and their indexes, take."""
    held = "SELECT max(count) FROM (SELECT count(*) FROM pg_locks WHERE relation IS NOT NULL GROUP BY pid) AS held"
    connection = await asyncpg.connect(audit.admin_dsn)
    try:
        while not done.is_set():
            assert (await connection.fetchval(held) or 0) < 33 * 14
            await asyncio.sleep(0.01)
    finally:
        await connection.close()


async def test_one_statement_over_all_days_would_take_a_third_of_the_table(audit: AuditDatabase) -> None:
    connection = await asyncpg.connect(audit.reader_dsn)
    try:
        async with connection.transaction():
            await connection.fetchval("SELECT count(*), count(enrichment) FROM auditap.audit_log")
            held = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation IS NOT NULL"
            # The table has room for max_connections * max_locks_per_transaction = 6,400, more or less.
            assert await connection.fetchval(held) > 2_000
    finally:
        await connection.close()


async def test_ingest_and_backfill_lock_only_the_partitions_they_need(audit: AuditDatabase) -> None:
    store = await PostgresStore.connect(audit.writer_dsn, connections_max=2, command_timeout_ms=60_000)
    far_apart: list[Record] = [record(NOW_MS - day * DAY_MS, account_id="late") for day in range(0, DAYS, 60)]
    try:
        assert (await store.store(far_apart)).stored == len(far_apart)
        assert (await store.store(far_apart))[:2] == (0, len(far_apart))
    finally:
        await store.close()
