"""An administrator renames, detaches or moves partitions, or adds one of their own: ingest and retention go on."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from ingestor.config import DAY_MS
from ingestor.postgres_maintenance import PostgresMaintenance
from ingestor.postgres_store import PostgresStore
from schemas.errors import RetryableError
from schemas.sql import query
from tests.audit_database import AuditDatabase
from tests.records import record

_KEEP_DAYS = 30
_UNBOUNDED = ("DEFAULT", "FOR VALUES FROM (MINVALUE) TO ('00010000-0000-0000-0000-000000000000')")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _as_administrator(audit: AuditDatabase, *statements: str) -> None:
    connection = await asyncpg.connect(audit.admin_dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _store_as_new_process(audit: AuditDatabase, at_ms: int) -> int:
    """Store one record with retries, as an ingestor does that has just started; return how many were stored."""
    store = await PostgresStore.connect(audit.writer_dsn, connections_max=1, command_timeout_ms=60_000)
    try:
        for _ in range(3):
            try:
                return (await store.store([record(at_ms)])).stored
            except RetryableError as failed:
                last = failed
                await asyncio.sleep(0)
        raise last
    finally:
        await store.close()


async def _drop_expired(audit: AuditDatabase) -> list[str]:
    maintenance = PostgresMaintenance(audit.maintainer_dsn, 60_000)
    evidence = await maintenance.evidence(_KEEP_DAYS, now_ms())
    expired = [
        each for each in await maintenance.partitions(evidence.before_ms) if each.to_ms <= evidence.before_ms
    ]
    return [each.child for each in expired if await maintenance.drop(each, evidence.before_ms, _KEEP_DAYS)]


def _name(at_ms: int) -> str:
    return time.strftime("audit_records_%Y%m%d", time.gmtime(at_ms / 1000))


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE auditap.audit_records DETACH PARTITION auditap.{today}",
        "ALTER TABLE auditap.{today} RENAME TO kept_for_the_auditors",
        "CREATE SCHEMA archive; ALTER TABLE auditap.{today} SET SCHEMA archive",
        "ALTER TABLE auditap.{today} RENAME TO kept; CREATE TABLE auditap.{today} (n integer)",
    ],
)
async def test_a_partition_in_use_is_changed(
    audit_database: AuditDatabase, postgres_store: PostgresStore, change: str
) -> None:
    """Ingest stood still: a table of the name was taken for the partition, or one was made over the other."""
    today = now_ms()
    await postgres_store.store([record(today), record(today - 40 * DAY_MS)])
    await _as_administrator(audit_database, change.format(today=_name(today)))
    assert await _store_as_new_process(audit_database, today) == 1
    assert await _store_as_new_process(audit_database, today) == 1
    assert len(await _drop_expired(audit_database)) == 2


async def test_an_expired_partition_that_was_moved_or_detached_is_left_to_its_administrator(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    """Retention failed at it, every time, and dropped nothing any more."""
    moved, detached, renamed, other = (now_ms() - days * DAY_MS for days in (40, 42, 44, 46))
    await postgres_store.store([record(at_ms) for at_ms in (now_ms(), moved, detached, renamed, other)])
    await _as_administrator(
        audit_database,
        "CREATE SCHEMA archive",
        f"ALTER TABLE auditap.{_name(moved)} SET SCHEMA archive",
        f"ALTER TABLE auditap.audit_records DETACH PARTITION auditap.{_name(detached)}",
        f"ALTER TABLE auditap.{_name(renamed)} RENAME TO another_name",
    )
    dropped = await _drop_expired(audit_database)
    assert [name for name in dropped if not name.startswith("audit_enrichments_")] == [
        _name(other),
        "another_name",
    ]
    connection = await asyncpg.connect(audit_database.admin_dsn)
    assert await connection.fetchval(f"SELECT count(*) FROM archive.{_name(moved)}") == 1
    assert await connection.fetchval(f"SELECT count(*) FROM auditap.{_name(detached)}") == 1
    await connection.close()


@pytest.mark.parametrize(
    "bounds",
    [*_UNBOUNDED, "FOR VALUES FROM ('fff00000-0000-0000-0000-000000000000') TO (MAXVALUE)"],
)
async def test_a_partition_without_two_bounds_is_not_retention_s(
    audit_database: AuditDatabase, postgres_store: PostgresStore, bounds: str
) -> None:
    """It ended the ingestor with a TypeError."""
    await postgres_store.store([record(now_ms()), record(now_ms() - 40 * DAY_MS)])
    await _as_administrator(
        audit_database, f"CREATE TABLE auditap.others PARTITION OF auditap.audit_records {bounds}"
    )
    assert len(await _drop_expired(audit_database)) == 2
    assert await _store_as_new_process(audit_database, now_ms()) == 1


async def _oldest_ms(audit: AuditDatabase) -> int | None:
    connection = await asyncpg.connect(audit.reader_dsn)
    try:
        found: int | None = await connection.fetchval(query("oldest_partition"))
    finally:
        await connection.close()
    return found


async def test_the_log_api_reads_from_the_oldest_partition_whatever_its_name(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    """The least name was taken for the oldest partition: what was older than a renamed one was not shown."""
    assert await _oldest_ms(audit_database) is None
    oldest_ms, newest_ms = now_ms() - 9 * DAY_MS, now_ms()
    await postgres_store.store([record(oldest_ms), record(newest_ms)])
    first_ms = oldest_ms - oldest_ms % DAY_MS
    assert await _oldest_ms(audit_database) == first_ms
    await _as_administrator(audit_database, f"ALTER TABLE auditap.{_name(newest_ms)} RENAME TO archive")
    assert await _oldest_ms(audit_database) == first_ms
    await _as_administrator(audit_database, f"ALTER TABLE auditap.{_name(oldest_ms)} RENAME TO zebra")
    assert await _oldest_ms(audit_database) == first_ms


@pytest.mark.parametrize("bounds", _UNBOUNDED)
async def test_the_log_api_reads_what_is_in_a_partition_without_a_lower_bound(
    audit_database: AuditDatabase, postgres_store: PostgresStore, bounds: str
) -> None:
    """Where its name was the least, nothing at all was shown."""
    await postgres_store.store([record(now_ms())])
    await _as_administrator(
        audit_database, f"CREATE TABLE auditap.archive PARTITION OF auditap.audit_records {bounds}"
    )
    assert await _oldest_ms(audit_database) == 0
