"""Retention against a real Postgres: what is dropped, by whom, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from auditap.database.schema import set_log_layout
from eventlog.ports import Partition
from ingestor.config import DAY_MS, RetentionConfig
from ingestor.dead_letters.ports import DeadLetter
from ingestor.postgres_maintenance import PostgresMaintenance
from ingestor.postgres_store import PostgresStore
from ingestor.retention import PartitionInfo, Retainer, RetentionRefused, plan_retention
from schemas.errors import DeadLetterReason, RetryableError, StartupError, UnprocessableEvent
from schemas.metric_defs import Metrics
from tests.audit_database import AuditDatabase, assert_denied
from tests.records import record


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
async def admin(audit_database: AuditDatabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(audit_database.admin_dsn)
    yield connection
    await connection.close()


def retainer(
    audit: AuditDatabase,
    keep_days: int = 30,
    lock_wait_ms: int = 60_000,
    clock_ms: Callable[[], int] = now_ms,
) -> Retainer:
    maintenance = PostgresMaintenance(audit.maintainer_dsn, lock_wait_ms)
    return Retainer(
        maintenance=maintenance,
        config=RetentionConfig(),
        keep_days=keep_days,
        share_max=0.5,
        metrics=Metrics(),
        clock_ms=clock_ms,
    )


async def days_left(admin: asyncpg.Connection) -> list[int]:
    rows = await admin.fetch("SELECT id FROM auditap.audit_records ORDER BY id")
    return [round((now_ms() - (row["id"].int >> 80)) / DAY_MS) for row in rows]


async def test_partitions_beyond_the_retention_are_dropped_and_no_others(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await postgres_store.store([record(now_ms() - days * DAY_MS) for days in (0, 1, 29, 33, 60)])
    dropped = await retainer(audit_database).pass_over(asyncio.Event())
    assert len(dropped) == 4
    assert dropped[0].startswith("audit_records_")
    assert await days_left(admin) == [29, 1, 0]
    assert await retainer(audit_database).pass_over(asyncio.Event()) == []


async def test_the_retention_in_the_database_is_a_lower_bound(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await set_log_layout(admin, "day", 548)
    await postgres_store.store([record(now_ms() - days * DAY_MS) for days in (0, 500, 600)])
    await retainer(audit_database, keep_days=1).pass_over(asyncio.Event())
    assert await days_left(admin) == [500, 0]
    await retainer(audit_database, keep_days=100_000).pass_over(asyncio.Event())
    assert await days_left(admin) == [500, 0]


@pytest.mark.parametrize("own_age_days", [40, -40])
async def test_nothing_is_dropped_where_the_database_and_the_host_disagree_about_the_time(
    audit_database: AuditDatabase,
    postgres_store: PostgresStore,
    admin: asyncpg.Connection,
    own_age_days: int,
) -> None:
    """A database 40 days ahead dropped the whole log: to its host, everything of the last days was new."""
    # The oldest has expired by either clock.
    await postgres_store.store([record(now_ms() - days * DAY_MS) for days in (0, 40, 41, 100)])
    wrong = retainer(audit_database, clock_ms=lambda: now_ms() - own_age_days * DAY_MS)
    with pytest.raises(RetentionRefused, match="clock is 960 hours"):
        await wrong.pass_over(asyncio.Event())
    assert await days_left(admin) == [100, 41, 40, 0]


async def test_a_clock_that_jumps_during_a_pass_drops_no_more_than_was_planned(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await postgres_store.store([record(now_ms() - days * DAY_MS) for days in (0, 40, 60)])
    maintenance = PostgresMaintenance(audit_database.maintainer_dsn, 5_000)
    partitions = await maintenance.partitions(0)
    # To what was planned 20 days ago, the database's clock has jumped.
    planned_before_ms = now_ms() - 50 * DAY_MS
    dropped = [await maintenance.drop(each, planned_before_ms, 1) for each in partitions]
    assert dropped == [True] * 2 + [False] * 4
    assert await days_left(admin) == [40, 0]
    assert await maintenance.prune(planned_before_ms, 1, 100) == 1


async def test_a_log_of_which_everything_has_expired_waits_for_a_confirmation(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await postgres_store.store([record(now_ms() - days * DAY_MS) for days in (40, 60)])
    # Collectors report, so time has passed, and nothing was captured.
    await admin.execute("SELECT auditap.note_time($1)", now_ms())
    idle = retainer(audit_database)
    with pytest.raises(RetentionRefused, match="2 of 2 records"):
        await idle.pass_over(asyncio.Event())
    evidence, partitions = await idle.look()
    expired = plan_retention(evidence, partitions, 0.5, confirmed=True)
    assert len(await idle.drop(expired, evidence.before_ms, asyncio.Event())) == 4
    assert await days_left(admin) == []


async def test_two_passes_at_once_drop_a_partition_once(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await postgres_store.store([record(now_ms() - 40 * DAY_MS)])
    maintenance = PostgresMaintenance(audit_database.maintainer_dsn, 5_000)
    [expired, _] = await maintenance.partitions(0)

    async def drop() -> bool:
        while True:
            try:
                return await maintenance.drop(expired, now_ms(), 30)
            except RetryableError as busy:
                if "in use" not in str(busy):
                    raise

    async with admin.transaction():
        await admin.execute("LOCK TABLE auditap.audit_records IN ACCESS SHARE MODE")
        passes = asyncio.gather(drop(), drop())
        # Both have found the partition before one of them can drop it.
        while await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 2:
            await asyncio.sleep(0.005)
    assert sorted(await passes) == [False, True]


async def test_the_newest_receipt_is_the_newest_record_or_report(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    maintenance = PostgresMaintenance(audit_database.maintainer_dsn, 200)
    assert (await maintenance.evidence(30, 0)).received_ms is None
    await admin.execute("SELECT auditap.note_time($1)", now_ms() - 9 * DAY_MS)
    reported = await maintenance.evidence(30, 0)
    assert reported.received_ms is not None
    # A collector of the future cannot move it: its times count as the database's own, at most.
    newest = record(now_ms() - DAY_MS, received_ms=now_ms() + 900 * DAY_MS)
    await postgres_store.store([newest, record(now_ms() - 5 * DAY_MS)])
    found = await maintenance.evidence(30, 7)
    assert (found.received_ms, found.own_ms, found.kept_days) == (newest.id.int >> 80, 7, 30)
    assert reported.received_ms < newest.id.int >> 80
    # Rows are counted whether or not Postgres has looked at them.
    at_ms = now_ms()
    await postgres_store.store([record(at_ms) for _ in range(3)])
    rows = [each.rows for each in await maintenance.partitions(now_ms() + DAY_MS)]
    assert rows == [1, 0, 1, 0, 3, 0]


async def test_a_partition_is_counted_again_only_once_it_has_changed(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    """A refused pass counted all that has expired again every ten minutes."""
    maintenance = PostgresMaintenance(audit_database.maintainer_dsn, 200)
    await postgres_store.store([record(now_ms() - 40 * DAY_MS)])
    counted = await maintenance.partitions(now_ms())
    assert [each.rows for each in counted] == [1, 0]
    await admin.execute("REVOKE EXECUTE ON FUNCTION auditap.count_partition FROM auditap_maintainer")
    assert await maintenance.partitions(now_ms()) == counted
    # More than the page that the first is in.
    await postgres_store.store([record(now_ms() - 40 * DAY_MS) for _ in range(100)])
    with pytest.raises(RetryableError):
        await maintenance.partitions(now_ms())


async def test_expired_rows_of_unpartitioned_tables_are_deleted(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    old, new = record(now_ms() - 60 * DAY_MS), record(now_ms())
    await postgres_store.store([old, new])
    dead_letters = [
        DeadLetter(Partition("log", 0), offset, now_ms(), b"{}", UnprocessableEvent(DeadLetterReason.EXPIRED))
        for offset in range(2)
    ]
    await postgres_store.write_dead_letters(dead_letters)
    await admin.execute(
        "UPDATE auditap.dead_letters SET dead_lettered_at = now() - interval '31 days' WHERE source_offset = 0"
    )
    await retainer(audit_database).pass_over(asyncio.Event())
    assert [row["id"] for row in await admin.fetch("SELECT id FROM auditap.partial_records")] == [new.id]
    assert await admin.fetchval("SELECT array_agg(source_offset) FROM auditap.dead_letters") == [1]


async def test_notes_of_clamped_ids_outlive_every_partition_that_their_records_can_be_in(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    ages_days = (0, 1, 2, 31, 61, 63)
    clamped = [
        record(now_ms() - days * DAY_MS, clamped_from_ms=now_ms() + 900 * DAY_MS + days) for days in ages_days
    ]
    await postgres_store.store(clamped)
    await retainer(audit_database).pass_over(asyncio.Event())
    left = await admin.fetch("SELECT clamped_id FROM auditap.clamped_ids ORDER BY clamped_id DESC")
    assert [row["clamped_id"] for row in left] == [each.id for each in clamped[:5]]


async def test_dropping_gives_up_while_a_reader_holds_the_partition(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await postgres_store.store([record(now_ms() - 60 * DAY_MS), record(now_ms())])
    reader = await asyncpg.connect(audit_database.reader_dsn)
    try:
        async with reader.transaction():
            await reader.fetchval("SELECT count(*) FROM auditap.audit_records")
            with pytest.raises(RetryableError, match="in use"):
                await retainer(audit_database, lock_wait_ms=200).pass_over(asyncio.Event())
            # Whoever comes while the drop waits is served once it has given up.
            drop = await waiting_drop(audit_database, admin)
            assert (await asyncio.wait_for(postgres_store.store([record(now_ms())]), 120)).stored == 1
            with pytest.raises(RetryableError):
                await drop
    finally:
        await reader.close()
    assert len(await retainer(audit_database).pass_over(asyncio.Event())) == 2


async def waiting_drop(audit: AuditDatabase, admin: asyncpg.Connection) -> asyncio.Task[Any]:
    """Begin to drop, and return while that waits; where it gave up before it was seen to wait, it begins anew."""
    while True:
        drop = asyncio.create_task(retainer(audit, lock_wait_ms=1_000).pass_over(asyncio.Event()))
        while not drop.done():
            if await admin.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                return drop
            await asyncio.sleep(0.005)
        with pytest.raises(RetryableError):
            await drop


@pytest.mark.parametrize("role", ["writer_dsn", "reader_dsn", "maintainer_dsn"])
async def test_only_the_maintainer_drops_and_it_has_no_other_right(
    audit_database: AuditDatabase, postgres_store: PostgresStore, role: str
) -> None:
    at_ms = now_ms()
    await postgres_store.store([record(at_ms - 60 * DAY_MS), record(at_ms)])
    today = f"auditap.audit_records_{time.strftime('%Y%m%d', time.gmtime(at_ms / 1000))}"
    refused = [
        f"DROP TABLE {today}",
        f"ALTER TABLE auditap.audit_records DETACH PARTITION {today}",
        f"TRUNCATE {today}",
        "DELETE FROM auditap.audit_records",
        "UPDATE auditap.log_shape SET retention_days = 1",
        "CREATE TABLE auditap.more (id int)",
    ]
    if role != "maintainer_dsn":
        refused += [
            "SELECT auditap.drop_partition('audit_records', 1, 1, 1)",
            "SELECT auditap.count_partition('audit_records')",
            "SELECT auditap.retention_evidence(1)",
            "SELECT auditap.prune_beside_log(1, 1, 1)",
        ]
    else:
        refused += [
            "SELECT id FROM auditap.audit_records",
            "SELECT event FROM auditap.dead_letters",
            "SELECT * FROM auditap.api_tokens",
            "INSERT INTO auditap.partial_records VALUES (gen_random_uuid())",
            "SELECT auditap.ensure_partitions(1, 1)",
        ]
    await assert_denied(getattr(audit_database, role), *refused)


@pytest.mark.parametrize(
    ("interval", "made", "suffix_length"), [("hour", 24, 10), ("day", 1, 8), ("month", 1, 6)]
)
async def test_partitions_have_the_configured_interval(
    audit_database: AuditDatabase, admin: asyncpg.Connection, interval: str, made: int, suffix_length: int
) -> None:
    await set_log_layout(admin, interval, 30)
    store = await PostgresStore.connect(
        audit_database.writer_dsn, connections_max=2, command_timeout_ms=60_000
    )
    try:
        times = [now_ms() - 40 * DAY_MS, now_ms() - 3 * 3_600_000, now_ms()]
        assert (await store.store([record(at_ms) for at_ms in times])).stored == 3
    finally:
        await store.close()
    maintenance = PostgresMaintenance(audit_database.maintainer_dsn, 200)
    found = [each for each in await maintenance.partitions(0) if each.parent == "audit_records"]
    assert len(found) % made == 0
    assert {len(each.child.rpartition("_")[2]) for each in found} == {suffix_length}
    assert all(earlier.to_ms <= later.from_ms for earlier, later in itertools.pairwise(found))
    for at_ms in times:
        assert sum(each.from_ms <= at_ms < each.to_ms for each in found) == 1


async def test_the_partition_interval_cannot_be_changed(
    audit_database: AuditDatabase, admin: asyncpg.Connection, postgres_store: PostgresStore
) -> None:
    await set_log_layout(admin, "month", 30)
    await set_log_layout(admin, "day", 30)
    await postgres_store.store([record(now_ms())])
    with pytest.raises(StartupError, match="partitioned by day"):
        await set_log_layout(admin, "hour", 548)
    row: Any = await admin.fetchrow("SELECT partition_interval, retention_days FROM auditap.log_shape")
    assert tuple(row) == ("day", 30)
    await set_log_layout(admin, "day", 548)


async def test_one_old_event_creates_only_the_partition_of_its_day(
    postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await postgres_store.store([record(now_ms() - 500 * DAY_MS), record(now_ms())])
    assert await admin.fetchval("SELECT count(*) FROM auditap.partitions()") == 4


async def test_a_database_that_is_away_is_retryable() -> None:
    away = PostgresMaintenance("postgresql://nobody@127.0.0.1:1/none", 200)
    partition = PartitionInfo("audit_records", "audit_records_20260101", 0, 1, 0, 0)
    for call in (away.partitions(1), away.drop(partition, 1, 1), away.prune(1, 1, 1), away.evidence(1, 1)):
        with pytest.raises(RetryableError):
            await call
