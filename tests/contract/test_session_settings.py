"""Settings of a database or a login (`ALTER DATABASE … SET`, `ALTER ROLE … SET`) change no guarantee of ours."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from alerting.postgres_store import PostgresAlertStore
from auditap.database.connection import administrator
from auditap.database.schema import migrate
from auditap.settings import PostgresSettings
from ingestor.config import DAY_MS
from ingestor.postgres_maintenance import PostgresMaintenance
from ingestor.postgres_store import PostgresStore
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from schemas.errors import StartupError
from schemas.metric_defs import Metrics
from tests.audit_database import AuditDatabase
from tests.records import record

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
# PgBouncer passes these on.
TRACKED_BY_POOLERS = {"application_name", "client_encoding", "standard_conforming_strings"}
# What users set, and what somebody may set by mistake.
HOSTILE = (
    "synchronous_commit = off",
    "default_transaction_isolation = 'repeatable read'",
    "standard_conforming_strings = off",
    "search_path = evil, pg_catalog",
    "statement_timeout = '200ms'",
    "transaction_timeout = '30min'",
    "timezone = 'America/New_York'",
    "datestyle = 'German'",
    "intervalstyle = 'postgres_verbose'",
    "extra_float_digits = -15",
    "bytea_output = 'escape'",
    "quote_all_identifiers = on",
    "array_nulls = off",
    "transform_null_equals = on",
    "check_function_bodies = off",
    "default_transaction_deferrable = on",
)
PINNED = {
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "search_path": "pg_catalog, pg_temp",
}
# Each would win over Postgres' own with this search_path.
EVIL = """
    CREATE SCHEMA evil;
    GRANT USAGE ON SCHEMA evil TO PUBLIC;
    CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '2001-01-01Z'::timestamptz $$;
    CREATE FUNCTION evil.floor(numeric) RETURNS numeric LANGUAGE sql AS $$ SELECT 0::numeric $$;
    CREATE FUNCTION evil.lpad(text, integer, text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
    CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
    CREATE TABLE evil.staging (id integer);
"""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _make_hostile(address: str) -> None:
    connection = await asyncpg.connect(address)
    try:
        await connection.execute(EVIL)
        for setting in HOSTILE:
            await connection.execute(f"ALTER DATABASE {urlsplit(address).path[1:]} SET {setting}")
    finally:
        await connection.close()


@pytest.fixture
async def hostile(audit_database: AuditDatabase) -> AuditDatabase:
    await _make_hostile(audit_database.admin_dsn)
    return audit_database


@pytest.fixture
async def store(hostile: AuditDatabase) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.connect(hostile.writer_dsn, connections_max=2, command_timeout_ms=60_000)
    yield store
    await store.close()


async def _shown(session: asyncpg.Connection | asyncpg.Pool) -> dict[str, str]:
    return {name: await session.fetchval(f"SHOW {name}") for name in PINNED}


async def test_what_is_committed_is_durable_and_read_after_a_lock(
    hostile: AuditDatabase, store: PostgresStore
) -> None:
    """With synchronous_commit off, offsets were committed for records that a crash of the server lost."""
    assert await _shown(store._pool) == PINNED
    async with administrator(hostile.admin_dsn) as connection:
        assert await _shown(connection) == PINNED
        assert await connection.fetchval("SHOW transaction_timeout") == "0"
    async with PostgresMaintenance(hostile.maintainer_dsn, 1_000)._connected() as connection:
        assert await _shown(connection) == PINNED
    alerts = await PostgresAlertStore.connect(
        hostile.alerting_dsn, "test", connections_max=1, command_timeout_ms=60_000
    )
    assert await _shown(alerts._pool) == PINNED
    await alerts.close()


async def test_records_are_stored_and_dropped_as_ever(hostile: AuditDatabase, store: PostgresStore) -> None:
    stored = await store.store([record(now_ms() - days * DAY_MS) for days in (0, 1, 40)])
    assert stored.stored == 3
    assert abs(await store.clock_ms() - now_ms()) < 60_000
    maintenance = PostgresMaintenance(hostile.maintainer_dsn, 60_000)
    evidence = await maintenance.evidence(30, now_ms())
    assert abs(evidence.database_ms - now_ms()) < 60_000
    assert not evidence.same_host or evidence.received_ms is not None
    partitions = await maintenance.partitions(evidence.before_ms)
    assert [each.rows for each in partitions if each.parent == "audit_records"] == [1, 1, 1]
    # A general limit for statements does not apply: counting may take longer.
    async with maintenance._connected() as connection:
        await connection.execute("SELECT pg_sleep(0.4)")
    assert [await maintenance.drop(each, evidence.before_ms, 30) for each in partitions].count(True) == 2


async def test_the_log_api_reads_as_ever(hostile: AuditDatabase, store: PostgresStore) -> None:
    await store.store([record(now_ms() - 1_000)])
    database = PostgresLogDatabase(hostile.reader_dsn, LogApiConfig(cursor_key=b"k" * 32), Metrics())
    await database.start()
    try:
        async with asyncio.timeout(60):
            assert await database.ready()
    finally:
        await database.stop()


async def test_migrations_apply(database: str) -> None:
    await _make_hostile(database)
    async with administrator(database) as connection:
        assert await migrate(connection)
        # So that another schema's function is shown with its schema.
        await connection.execute("SET search_path = pg_catalog")
        default = await connection.fetchval(
            "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'auditap.api_tokens'::regclass"
            " AND pg_get_expr(adbin, adrelid) LIKE '%now%'"
        )
    assert "evil" not in default


async def test_a_database_that_is_read_only_is_reported(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        f"ALTER DATABASE {urlsplit(database).path[1:]} SET default_transaction_read_only = on"
    )
    await connection.close()
    with pytest.raises(StartupError, match="read-only to the administrator's login"):
        async with administrator(database) as session:
            await migrate(session)


async def test_a_pooler_may_drop_settings_that_the_documentation_gives_to_the_roles(
    audit_database: AuditDatabase,
) -> None:
    page = DEPLOYMENT.read_text()
    async with administrator(audit_database.admin_dsn) as connection:
        for statement in re.findall(r"^ALTER ROLE auditap_.*;$", page, re.MULTILINE):
            # In this database alone, because roles belong to those of other tests, too.
            own = statement.replace(
                " SET ", f" IN DATABASE {urlsplit(audit_database.admin_dsn).path[1:]} SET "
            )
            await connection.execute(own)
    names: set[str] = set()
    async for dsn, session in _sessions(audit_database):
        rows = await session.fetch("SELECT name, setting FROM pg_settings WHERE source = 'client'")
        sent = {name: setting for name, setting in rows if name not in TRACKED_BY_POOLERS}
        plain = await asyncpg.connect(dsn)
        rows = await plain.fetch("SELECT name, setting FROM pg_settings WHERE source = 'database user'")
        await plain.close()
        assert {row["name"]: row["setting"] for row in rows} == sent
        names |= set(sent)
    [listed] = re.findall(r"`ignore_startup_parameters`:\n`([^`]+)`", page)
    assert set(re.split(r",\s+", listed)) == names


async def _sessions(database: AuditDatabase) -> AsyncIterator[tuple[str, Any]]:
    """Yield a session of each role that sends settings when it connects, with the role's DSN."""
    writer = await PostgresStore.connect(database.writer_dsn, connections_max=1, command_timeout_ms=60_000)
    async with writer._pool.acquire() as session:
        yield database.writer_dsn, session
    await writer.close()
    # With the settings' own defaults.
    alerting = await PostgresAlertStore.connect(
        database.alerting_dsn,
        "test",
        connections_max=1,
        command_timeout_ms=PostgresSettings().command_timeout_ms,
    )
    async with alerting._pool.acquire() as session:
        yield database.alerting_dsn, session
    await alerting.close()
    log_api = PostgresLogDatabase(database.reader_dsn, LogApiConfig(cursor_key=b"k" * 32), Metrics())
    await log_api.start()
    session = await log_api._common.acquire()
    yield database.reader_dsn, session
    await log_api.stop()
