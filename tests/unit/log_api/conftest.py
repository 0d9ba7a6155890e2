"""The log API on an in-memory log and on a real Postgres."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from auditap.database.connection import administrator
from log_api.config import LogApiConfig, LogApiLimits
from log_api.database import PostgresLogDatabase
from schemas.metric_defs import Metrics
from tests.audit_database import AuditDatabase, drop_database, migrated
from tests.unit.log_api.memory_log import MemoryLog
from tests.unit.log_api.stored_log import StoredLog, unhurried

PAGE_BYTES_MAX = 20_000


@pytest.fixture
def settings() -> LogApiConfig:
    return LogApiConfig(
        cursor_key=b"k" * 32,
        limits=unhurried(LogApiLimits(page_bytes_max=PAGE_BYTES_MAX, fetch_records_max=7)),
    )


@pytest.fixture
def memory_log() -> MemoryLog:
    return MemoryLog(PAGE_BYTES_MAX)


@pytest.fixture(scope="module")
async def audit_database(postgres: str) -> AsyncIterator[AuditDatabase]:
    """A migrated database for a module; `stored_log` empties it for each test."""
    name = f"log_api_{uuid.uuid4().hex}"
    async with administrator(postgres) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
        yield await migrated(urlsplit(postgres)._replace(path=f"/{name}").geturl())
        await drop_database(connection, name)


@pytest.fixture
async def stored_log(audit_database: AuditDatabase) -> AsyncIterator[StoredLog]:
    async with administrator(audit_database.admin_dsn) as connection:
        await connection.execute(
            "TRUNCATE auditap.audit_records, auditap.audit_enrichments, auditap.api_tokens, auditap.lost_offsets,"
            " auditap.tap_epochs, auditap.alerts CASCADE"
        )
        yield StoredLog(connection)


@pytest.fixture
async def postgres_log(
    audit_database: AuditDatabase, settings: LogApiConfig
) -> AsyncIterator[PostgresLogDatabase]:
    reader = PostgresLogDatabase(audit_database.reader_dsn, settings, Metrics())
    await reader.start()
    yield reader
    await reader.stop()
