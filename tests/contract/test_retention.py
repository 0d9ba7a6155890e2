"""Retention against a real Postgres: what is dropped, by whom, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from auditap.database import shape_log
from ingestor.config import DAY_MS, RetentionConfig
from ingestor.ports import DeadLetter, Partition
from ingestor.postgres_maintenance import PostgresMaintenance
from ingestor.postgres_store import PostgresStore
from ingestor.retention import Retainer
from schemas.errors import BuriedEvent, DeadLetterReason, RetryableError, StartupError
from schemas.metric_defs import Metrics
from tests.audit_database import AuditDatabase, migrated
from tests.records import record


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
async def audit_database(database: str) -> AuditDatabase:
    return await migrated(database)


@pytest.fixture
async def store(audit_database: AuditDatabase) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.connect(
        audit_database.writer_dsn, connections_max=4, command_timeout_ms=20_000
    )
    yield store
    await store.close()


@pytest.fixture
async def admin(audit_database: AuditDatabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(audit_database.admin_dsn)
    yield connection
    await connection.close()


def retainer(audit: AuditDatabase, keep_days: int = 30, lock_wait_ms: int = 200) -> Retainer:
    maintenance = PostgresMaintenance(audit.maintainer_dsn, lock_wait_ms)
    return Retainer(maintenance=maintenance, config=RetentionConfig(), keep_days=keep_days, metrics=Metrics())


async def days_left(admin: asyncpg.Connection) -> list[int]:
    rows = await admin.fetch("SELECT id FROM auditap.audit_records ORDER BY id")
    return [round((now_ms() - (row["id"].int >> 80)) / DAY_MS) for row in rows]


async def test_partitions_beyond_the_retention_are_dropped_and_no_others(
    audit_database: AuditDatabase, store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await store.store([record(now_ms() - days * DAY_MS) for days in (0, 1, 29, 33, 60)])
    dropped = await retainer(audit_database).pass_over(asyncio.Event())
    assert len(dropped) == 4
    assert dropped[0].startswith("audit_records_")
    assert await days_left(admin) == [29, 1, 0]
    assert await retainer(audit_database).pass_over(asyncio.Event()) == []


async def test_what_the_database_was_told_to_keep_is_kept_whatever_the_maintainer_asks(
    audit_database: AuditDatabase, store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await shape_log(admin, "day", 548)
    await store.store([record(now_ms() - days * DAY_MS) for days in (60, 500, 600)])
    await retainer(audit_database, keep_days=1).pass_over(asyncio.Event())
    assert await days_left(admin) == [500, 60]
    await retainer(audit_database, keep_days=100_000).pass_over(asyncio.Event())
    assert await days_left(admin) == [500, 60]


async def test_rows_beside_the_log_are_pruned_with_it(
    audit_database: AuditDatabase, store: PostgresStore, admin: asyncpg.Connection
) -> None:
    old, new = record(now_ms() - 60 * DAY_MS), record(now_ms())
    await store.store([old, new])
    letters = [
        DeadLetter(Partition("log", 0), offset, now_ms(), b"{}", BuriedEvent(DeadLetterReason.EXPIRED))
        for offset in range(2)
    ]
    await store.bury(letters)
    await admin.execute(
        "UPDATE auditap.dead_letters SET buried_at = now() - interval '31 days' WHERE source_offset = 0"
    )
    await retainer(audit_database).pass_over(asyncio.Event())
    assert [row["id"] for row in await admin.fetch("SELECT id FROM auditap.partial_records")] == [new.id]
    assert await admin.fetchval("SELECT array_agg(source_offset) FROM auditap.dead_letters") == [1]


async def test_notes_of_clamped_ids_outlive_every_partition_that_their_records_can_be_in(
    audit_database: AuditDatabase, store: PostgresStore, admin: asyncpg.Connection
) -> None:
    ages_days = (0, 31, 61, 63)
    clamped = [
        record(now_ms() - days * DAY_MS, clamped_from_ms=now_ms() + 900 * DAY_MS + days) for days in ages_days
    ]
    await store.store(clamped)
    await retainer(audit_database).pass_over(asyncio.Event())
    left = await admin.fetch("SELECT clamped_id FROM auditap.clamped_ids ORDER BY clamped_id DESC")
    assert [row["clamped_id"] for row in left] == [each.id for each in clamped[:3]]


async def test_dropping_gives_up_in_the_face_of_a_reader_and_nobody_waits_long_behind_it(
    audit_database: AuditDatabase, store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await store.store([record(now_ms() - 60 * DAY_MS)])
    reader = await asyncpg.connect(audit_database.reader_dsn)
    try:
        async with reader.transaction():
            await reader.fetchval("SELECT count(*) FROM auditap.audit_records")
            with pytest.raises(RetryableError, match="in use"):
                await retainer(audit_database).pass_over(asyncio.Event())
            # Whoever comes while the drop waits is served once it has given up.
            drop = asyncio.create_task(
                retainer(audit_database, lock_wait_ms=1_000).pass_over(asyncio.Event())
            )
            while not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                await asyncio.sleep(0.005)
            assert (await asyncio.wait_for(store.store([record(now_ms())]), 20)).stored == 1
            with pytest.raises(RetryableError):
                await drop
    finally:
        await reader.close()
    assert len(await retainer(audit_database).pass_over(asyncio.Event())) == 2


@pytest.mark.parametrize("role", ["writer_dsn", "reader_dsn", "maintainer_dsn"])
async def test_nobody_drops_but_the_maintainer_and_it_does_nothing_else(
    audit_database: AuditDatabase, store: PostgresStore, role: str
) -> None:
    await store.store([record(now_ms() - 60 * DAY_MS), record(now_ms())])
    [today] = [f"auditap.audit_records_{time.strftime('%Y%m%d', time.gmtime())}"]
    refused = [
        f"DROP TABLE {today}",
        f"ALTER TABLE auditap.audit_records DETACH PARTITION {today}",
        f"TRUNCATE {today}",
        "DELETE FROM auditap.audit_records",
        "UPDATE auditap.log_shape SET retention_days = 1",
        "CREATE TABLE auditap.more (id int)",
    ]
    if role != "maintainer_dsn":
        refused += ["SELECT auditap.drop_expired_partition(1, 1)", "SELECT auditap.prune_beside_log(1, 1)"]
    else:
        refused += [
            "SELECT id FROM auditap.audit_records",
            "SELECT event FROM auditap.dead_letters",
            "SELECT * FROM auditap.api_tokens",
            "INSERT INTO auditap.partial_records VALUES (gen_random_uuid())",
            "SELECT auditap.ensure_partitions(1, 1)",
        ]
    connection = await asyncpg.connect(getattr(audit_database, role))
    try:
        for statement in refused:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("interval", "made", "suffix_length"), [("hour", 24, 10), ("day", 1, 8), ("month", 1, 6)]
)
async def test_the_log_is_divided_as_it_was_told(
    audit_database: AuditDatabase, admin: asyncpg.Connection, interval: str, made: int, suffix_length: int
) -> None:
    await shape_log(admin, interval, 30)
    store = await PostgresStore.connect(
        audit_database.writer_dsn, connections_max=2, command_timeout_ms=20_000
    )
    try:
        times = [now_ms() - 40 * DAY_MS, now_ms() - 3 * 3_600_000, now_ms()]
        assert (await store.store([record(at_ms) for at_ms in times])).stored == 3
    finally:
        await store.close()
    maintenance = PostgresMaintenance(audit_database.maintainer_dsn, 200)
    found = [each for each in await maintenance.partitions() if each.parent == "audit_records"]
    assert len(found) % made == 0
    assert {len(each.child.rpartition("_")[2]) for each in found} == {suffix_length}
    assert all(earlier.to_ms <= later.from_ms for earlier, later in itertools.pairwise(found))
    for at_ms in times:
        assert sum(each.from_ms <= at_ms < each.to_ms for each in found) == 1


async def test_a_log_that_is_divided_stays_so(
    audit_database: AuditDatabase, admin: asyncpg.Connection, store: PostgresStore
) -> None:
    await shape_log(admin, "month", 30)
    await shape_log(admin, "day", 30)
    await store.store([record(now_ms())])
    with pytest.raises(StartupError, match="divided by day"):
        await shape_log(admin, "hour", 548)
    row: Any = await admin.fetchrow("SELECT partition_interval, retention_days FROM auditap.log_shape")
    assert tuple(row) == ("day", 30)
    await shape_log(admin, "day", 548)


async def test_one_old_event_makes_the_partition_of_its_day_alone(
    store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await store.store([record(now_ms() - 500 * DAY_MS), record(now_ms())])
    assert await admin.fetchval("SELECT count(*) FROM auditap.partitions()") == 4


async def test_a_database_that_is_away_is_retryable() -> None:
    away = PostgresMaintenance("postgresql://nobody@127.0.0.1:1/none", 200)
    for call in (away.partitions(), away.drop_expired(1), away.prune(1, 1), away.kept_since_ms(1)):
        with pytest.raises(RetryableError):
            await call
