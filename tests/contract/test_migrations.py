"""Migrating a database that holds data, while others use it."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from uuid import UUID

import asyncpg
import pytest

from auditap.database import schema
from auditap.database.connection import administrator
from auditap.database.roles import ROLES, set_role_password
from auditap.database.schema import migrate
from ingestor.config import DAY_MS
from ingestor.postgres_store import PostgresStore
from schemas.errors import RetryableError
from schemas.identity import id_ms_of, new_id, with_ms
from schemas.record import COLUMNS, Record
from schemas.sql import migrations, query
from tests.audit_database import PASSWORD, AuditDatabase, with_roles
from tests.records import record

# No lock is ever waited for so long: the state that a test waits for comes first, or the test fails.
_LONG_MS = 600_000
# Those of the versions before 0027, and of the view that shows them.
_OLD_COLUMNS = tuple(name for name in COLUMNS if not name.startswith("exchange_"))
_LOG_COLUMNS = tuple(name for name in _OLD_COLUMNS if name != "event_digest")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def migrate_to(monkeypatch: pytest.MonkeyPatch) -> Migrate:
    return Migrate(monkeypatch)


class Migrate:
    """Migrates a database to a version, and lets its roles log in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    async def __call__(self, admin: asyncpg.Connection, dsn: str, number: int) -> AuditDatabase:
        with self._monkeypatch.context() as patched:
            patched.setattr(schema, "migrations", lambda: migrations()[:number])
            await migrate(admin)
        for role in ROLES:
            await set_role_password(admin, role, PASSWORD)
        return with_roles(dsn)


async def until_blocked(observer: asyncpg.Connection, waiting_pid: int, by_pid: int) -> None:
    """Return once a session waits for a lock of another one."""
    async with asyncio.timeout(120):
        while by_pid not in await observer.fetchval("SELECT pg_blocking_pids($1)", waiting_pid):
            await asyncio.sleep(0.01)


async def insert(connection: asyncpg.Connection, new: Record) -> None:
    await connection.copy_records_to_table(
        "audit_records",
        schema_name="auditap",
        columns=_OLD_COLUMNS,
        records=[tuple(getattr(new, name) for name in _OLD_COLUMNS)],
    )


async def test_a_migration_waits_for_a_batch_and_never_deadlocks_with_it(
    database: str, migrate_to: Migrate
) -> None:
    """Regression: 0017 locked records before clamped ids, and ingest does the opposite."""
    async with administrator(database) as admin, administrator(database) as observer:
        audit = await migrate_to(admin, database, 16)
        await admin.execute("SELECT auditap.ensure_partitions($1, $1)", now_ms())
        async with administrator(audit.writer_dsn) as writer:
            async with writer.transaction():
                new = record(now_ms())
                await writer.execute("SELECT auditap.hold_clamped_ids($1, $1)", new.id)
                migrating = asyncio.create_task(migrate(admin, lock_wait_ms=_LONG_MS, attempts_max=1))
                await until_blocked(observer, admin.get_server_pid(), writer.get_server_pid())
                await insert(writer, new)
            assert (await migrating)[0].startswith("0017")
        assert await observer.fetchval("SELECT id FROM auditap.audit_records") == new.id


async def test_a_migration_and_dead_letters_of_unnumbered_taps_never_deadlock(
    database: str, migrate_to: Migrate
) -> None:
    async with administrator(database) as admin, administrator(database) as observer:
        audit = await migrate_to(admin, database, 16)
        ahead_ms = now_ms() + DAY_MS
        await admin.execute("SELECT auditap.note_unnumbered(ARRAY['t'], $1)", ahead_ms)
        async with administrator(audit.writer_dsn) as writer:
            async with writer.transaction():
                await writer.execute(_DEAD_LETTER, 1)
                migrating = asyncio.create_task(migrate(admin, lock_wait_ms=_LONG_MS, attempts_max=1))
                await until_blocked(observer, admin.get_server_pid(), writer.get_server_pid())
                await writer.execute("SELECT auditap.note_unnumbered(ARRAY['t'], $1)", ahead_ms + DAY_MS)
            assert (await migrating)[0].startswith("0017")


async def test_a_migration_gives_up_where_its_tables_stay_in_use(
    database: str, migrate_to: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses_s: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses_s.append(seconds)

    monkeypatch.setattr(schema, "asyncio", SimpleNamespace(sleep=sleep))
    async with administrator(database) as admin:
        audit = await migrate_to(admin, database, 16)
        async with administrator(audit.writer_dsn) as writer, writer.transaction():
            await writer.execute("SELECT FROM auditap.clamped_ids")
            with pytest.raises(RetryableError, match="found its tables in use 2 times: end long queries"):
                await migrate(admin, lock_wait_ms=10, attempts_max=2)
            # It leaves the others as much time as it took from them, and in the end holds nothing that they wait for.
            assert pauses_s == [0.01]
            await writer.execute(_DEAD_LETTER, 1)
        assert (await migrate(admin))[0].startswith("0017")


async def test_a_migration_is_tried_again_until_its_tables_are_free(
    database: str, migrate_to: Migrate
) -> None:
    async with administrator(database) as admin, administrator(database) as observer:
        audit = await migrate_to(admin, database, 16)
        async with administrator(audit.writer_dsn) as writer:
            async with writer.transaction():
                await writer.execute("SELECT FROM auditap.clamped_ids")
                migrating = asyncio.create_task(migrate(admin, lock_wait_ms=100, attempts_max=1_000_000))
                await until_blocked(observer, admin.get_server_pid(), writer.get_server_pid())
                # Between two attempts.
                async with asyncio.timeout(120):
                    while await observer.fetchval("SELECT pg_blocking_pids($1)", admin.get_server_pid()):
                        await asyncio.sleep(0.01)
            assert (await migrating)[0].startswith("0017")


_DEAD_LETTER = (
    "INSERT INTO auditap.dead_letters (source_log, source_partition, source_offset, reason, path, event, received_ms)"
    " VALUES ('l', 0, $1, 'expired', '', '', 1)"
)


async def fill(admin: asyncpg.Connection, old: Record, partial: Record, clamped: UUID) -> None:
    """Fill a database of version 15."""
    at_ms = now_ms()
    await admin.execute("SELECT auditap.ensure_partitions($1, $1)", at_ms)
    await insert(admin, old)
    await insert(admin, partial)
    await admin.execute("INSERT INTO auditap.partial_records (id) VALUES ($1)", partial.id)
    await admin.execute(
        "INSERT INTO auditap.clamped_ids (event_id, clamped_id) VALUES ($1, $2)",
        clamped,
        with_ms(clamped, at_ms),
    )
    await admin.execute(
        "SELECT auditap.note_numbers(ARRAY['t-1', 't-2'], ARRAY[7, 7], ARRAY['{[1,4)}', '{[1,2),[3,9)}'],"
        " ARRAY[$1, $2]::bigint[], ARRAY[$1, $2]::bigint[], ARRAY[$1, $2]::bigint[])",
        at_ms - 40 * DAY_MS,
        at_ms - 60_000,
    )
    await admin.execute("UPDATE auditap.tap_epochs SET state = 'killed'")
    for tap_id, noted_ms in (("late", at_ms - DAY_MS), ("ahead", at_ms + 400 * DAY_MS)):
        await admin.execute("SELECT auditap.note_unnumbered(ARRAY[$1], $2)", tap_id, noted_ms)
    for offset in range(3):
        await admin.execute(_DEAD_LETTER, offset)
    await admin.execute(
        "UPDATE auditap.dead_letters SET discarded_at = '2026-01-02', discarded_by = 'ada' WHERE source_offset = 1"
    )
    await admin.execute("UPDATE auditap.dead_letters SET stored_at = '2026-01-03' WHERE source_offset = 2")


async def test_what_a_database_of_version_15_holds_is_kept(database: str, migrate_to: Migrate) -> None:
    at_ms = now_ms()
    text = new_id(at_ms).replace("-", "")
    # Older versions did not look at the version of an id.
    old = record(at_ms, id=UUID(text[:12] + "4" + text[13:]))
    partial = record(at_ms, zone_id="z")
    clamped = UUID(new_id(at_ms + 3_600_000))
    unchanged = {
        "dead_letters": "SELECT * FROM auditap.dead_letters ORDER BY number",
        "gaps": "SELECT * FROM auditap.completeness_gaps ORDER BY tap_id, first",
        "records": f"SELECT {', '.join(_LOG_COLUMNS)} FROM auditap.audit_log ORDER BY id",
        "clamped": "SELECT event_id, clamped_id FROM auditap.clamped_ids",
    }
    async with administrator(database) as admin:
        audit = await migrate_to(admin, database, 15)
        await fill(admin, old, partial, clamped)
        before = {name: await admin.fetch(statement) for name, statement in unchanged.items()}
        assert all(before.values())
        await migrate(admin)
        assert {name: await admin.fetch(statement) for name, statement in unchanged.items()} == before
        ahead = await admin.fetch(
            "SELECT tap_id FROM auditap.unnumbered_taps WHERE latest_ms > auditap.now_ms()"
        )
        assert ahead == []
        # Nobody says who noted a clamped id before that was kept.
        assert [
            tuple(row) for row in await admin.fetch("SELECT noted_at, noted_by FROM auditap.clamped_ids")
        ] == [(None, None)]
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await admin.execute(
                "UPDATE auditap.dead_letters SET discarded_by = 'ben' WHERE source_offset = 1"
            )
        await _check_ingest(audit, admin, partial, clamped)


async def _check_ingest(
    audit: AuditDatabase, admin: asyncpg.Connection, partial: Record, clamped: UUID
) -> None:
    """Check that the ingestor goes on with what it finds."""
    store = await PostgresStore.connect(audit.writer_dsn, connections_max=2, command_timeout_ms=120_000)
    try:
        resent = record(now_ms(), id=with_ms(clamped, now_ms() + 5), clamped_from_ms=id_ms_of(clamped))
        outcome = await store.store([resent, record(now_ms() + 2 * DAY_MS), partial])
    finally:
        await store.close()
    assert (outcome.stored, outcome.repeated, list(outcome.refused)) == (2, 1, [])
    noted = await admin.fetchval("SELECT clamped_id FROM auditap.clamped_ids")
    assert await admin.fetchval("SELECT id FROM auditap.audit_records WHERE clamped_from_ms > 0") == noted
    async with administrator(audit.writer_dsn) as writer:
        names: list[list[str | None]] = [["acc"], [None], [None], [None], [None], ["complete"]]
        await writer.execute(query("store_enrichments"), [partial.id], *names, [partial.id])
    assert await admin.fetchval("SELECT account_id FROM auditap.audit_enrichments") == "acc"


async def test_what_goes_by_a_position_in_a_log_is_kept_without_its_id(
    database: str, migrate_to: Migrate
) -> None:
    unchanged = {
        "dead_letters": "SELECT * FROM auditap.dead_letters ORDER BY number",
        "lost_offsets": "SELECT log, partition, first, last, from_ms, to_ms FROM auditap.lost_offsets",
        "gaps": "SELECT * FROM auditap.completeness_gaps",
        "positions": "SELECT consumer_group, log, partition, next_offset FROM auditap.alert_positions",
    }
    async with administrator(database) as admin:
        audit = await migrate_to(admin, database, 21)
        for offset in range(3):
            await admin.execute(_DEAD_LETTER, offset)
        await admin.execute("SELECT auditap.note_lost_offsets('l', 0, 1, 90, NULL, $1)", now_ms())
        await admin.execute("INSERT INTO auditap.alert_positions VALUES ('group', 'l', 0, 500)")
        before = {name: await admin.fetch(statement) for name, statement in unchanged.items()}
        assert all(before.values())
        await migrate(admin)
        assert {name: await admin.fetch(statement) for name, statement in unchanged.items()} == before
        log_ids = (
            "SELECT log_id FROM auditap.lost_offsets UNION ALL SELECT log_id FROM auditap.alert_positions"
        )
        assert [row["log_id"] for row in await admin.fetch(log_ids)] == ["", ""]
        async with administrator(audit.writer_dsn) as writer:
            for offset in (1, 3, 3):
                await writer.execute(f"{_DEAD_LETTER} ON CONFLICT DO NOTHING", offset)
        numbers = [row["number"] for row in await admin.fetch("SELECT number FROM auditap.dead_letters")]
        assert len(numbers) == 4
        assert min(set(numbers) - {row["number"] for row in before["dead_letters"]}) > 3


async def test_a_migration_never_deadlocks_with_who_counts_taps(database: str, migrate_to: Migrate) -> None:
    async with (
        administrator(database) as admin,
        administrator(database) as observer,
        administrator(database) as reader,
    ):
        await migrate_to(admin, database, 15)
        async with reader.transaction():
            # As a reader of the view does first: its lock, before that of the table.
            await reader.execute("COMMENT ON VIEW auditap.completeness_counts IS NULL")
            migrating = asyncio.create_task(migrate(admin, lock_wait_ms=_LONG_MS, attempts_max=1))
            await until_blocked(observer, admin.get_server_pid(), reader.get_server_pid())
            await reader.execute("SELECT FROM auditap.tap_epochs")
        assert (await migrating)[0].startswith("0016")


async def test_a_heartbeat_of_the_future_does_not_keep_an_old_epoch(
    database: str, migrate_to: Migrate
) -> None:
    at_ms = now_ms()
    async with administrator(database) as admin:
        await migrate_to(admin, database, 15)
        await admin.execute(
            "INSERT INTO auditap.tap_epochs (tap_id, epoch, state, oldest_ms, latest_ms, heard_ms, lease_until_ms,"
            " waits_until_ms) SELECT 't', epoch, 'alive', 1, latest_ms, 1, 1, 1"
            " FROM unnest(ARRAY[1, 2], ARRAY[$1, $2]::bigint[]) AS given (epoch, latest_ms)",
            at_ms - DAY_MS,
            at_ms + 75 * 365 * DAY_MS,
        )
        await migrate(admin)
        past_ms, future_ms = [
            row["latest_ms"]
            for row in await admin.fetch("SELECT latest_ms FROM auditap.tap_epochs ORDER BY epoch")
        ]
        assert past_ms == at_ms - DAY_MS
        assert at_ms <= future_ms <= now_ms() + 1


async def test_records_of_before_have_no_exchange_and_ingest_goes_on(
    database: str, migrate_to: Migrate
) -> None:
    at_ms = now_ms()
    old, repeated = record(at_ms), record(at_ms + 1)
    known = {"exchange_host": "a.example", "exchange_duration_ms": 12, "exchange_response_bytes": 2**53 - 1}
    new = record(at_ms + 2, **known)
    async with administrator(database) as admin:
        audit = await migrate_to(admin, database, 26)
        await admin.execute("SELECT auditap.ensure_partitions($1, $1)", at_ms)
        await insert(admin, old)
        await insert(admin, repeated)
        await migrate(admin)
        store = await PostgresStore.connect(audit.writer_dsn, connections_max=1, command_timeout_ms=120_000)
        try:
            # With a repetition, so that the batch goes through the staging table.
            outcome = await store.store([repeated, new])
        finally:
            await store.close()
        assert (outcome.stored, outcome.repeated, list(outcome.refused)) == (1, 1, [])
        rows = await admin.fetch(f"SELECT {', '.join(known)} FROM auditap.audit_log ORDER BY id")
        assert [tuple(row) for row in rows] == [(None,) * 3, (None,) * 3, tuple(known.values())]


async def test_a_migration_never_deadlocks_with_who_reads_the_log(database: str, migrate_to: Migrate) -> None:
    async with (
        administrator(database) as admin,
        administrator(database) as observer,
        administrator(database) as reader,
    ):
        await migrate_to(admin, database, 26)
        async with reader.transaction():
            # As a reader of the view does first: its lock, before that of the table.
            await reader.execute("COMMENT ON VIEW auditap.audit_log IS NULL")
            migrating = asyncio.create_task(migrate(admin, lock_wait_ms=_LONG_MS, attempts_max=1))
            await until_blocked(observer, admin.get_server_pid(), reader.get_server_pid())
            await reader.execute("SELECT FROM auditap.audit_records")
        assert (await migrating)[0].startswith("0027")
