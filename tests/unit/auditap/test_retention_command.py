from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
from click.testing import CliRunner

from auditap.cli.main import cli
from auditap.runtime.lifecycle import clock_ms
from ingestor.config import DAY_MS
from ingestor.retention import RetentionRefused
from schemas.errors import StartupError
from schemas.record import COLUMNS
from tests.audit_database import AuditDatabase, migrated
from tests.records import record


@pytest.fixture
async def audit(database: str) -> AuditDatabase:
    return await migrated(database)


@pytest.fixture
async def admin(audit: AuditDatabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(audit.admin_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def now_ms() -> int:
    """One time for partitions and records: between two looks at the clock, another day may begin."""
    return clock_ms()


async def insert_record(admin: asyncpg.Connection, at_ms: int) -> None:
    made = record(at_ms)
    await admin.copy_records_to_table(
        "audit_records", schema_name="auditap", records=[msgspec.structs.astuple(made)], columns=COLUMNS
    )


@pytest.fixture
async def run(
    audit: AuditDatabase, admin: asyncpg.Connection, now_ms: int, monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.setenv("AUDITAP_POSTGRES__MAINTAINER_DSN", audit.maintainer_dsn)
    monkeypatch.setenv("AUDITAP_POSTGRES__ADMIN_DSN", audit.admin_dsn)
    for age in (0, 40):
        await admin.execute("SELECT auditap.ensure_partitions($1, $1)", now_ms - age * DAY_MS)

    async def run(*arguments: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, cli, arguments)

    return run


def states(text: str) -> list[str]:
    return [json.loads(line)["state"] for line in text.splitlines() if line.startswith("{")]


async def test_a_dry_run_drops_nothing_and_shows_what_would_go(run: Any) -> None:
    for _ in range(2):
        shown = await run("retention", "--dry-run", "--json")
        assert states(shown.stdout) == ["to be dropped"] * 2 + ["kept"] * 2
    table = await run("retention", "--dry-run")
    assert "to be dropped" in table.output
    assert "expired: everything before" in table.output


async def test_the_command_drops_what_is_older_than_the_setting(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITAP_INGEST__BOUNDS__RETENTION_DAYS", "548")
    assert states((await run("retention", "--json")).stdout) == ["kept"] * 4
    monkeypatch.delenv("AUDITAP_INGEST__BOUNDS__RETENTION_DAYS")
    assert states((await run("retention", "--json")).stdout) == ["dropped"] * 2 + ["kept"] * 2
    assert states((await run("retention", "--json")).stdout) == ["kept"] * 2


async def test_more_than_a_share_is_dropped_after_a_confirmation_alone(
    run: Any, admin: asyncpg.Connection, now_ms: int
) -> None:
    for age in (0, 40, 40, 40):
        await insert_record(admin, now_ms - age * DAY_MS)
    shown = await run("retention", "--dry-run", "--json")
    assert [json.loads(line)["rows"] for line in shown.stdout.splitlines()] == [3, 0, 1, 0]
    assert "3 of 4 records have expired" in shown.stderr
    refused = await run("retention")
    assert isinstance(refused.exception, RetentionRefused)
    assert await admin.fetchval("SELECT count(*) FROM auditap.audit_records") == 4
    assert states((await run("retention", "--yes", "--json")).stdout) == ["dropped"] * 2 + ["kept"] * 2
    assert await admin.fetchval("SELECT count(*) FROM auditap.audit_records") == 1


async def test_no_confirmation_makes_up_for_a_clock_that_is_wrong(
    run: Any, admin: asyncpg.Connection, now_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await insert_record(admin, now_ms)
    await insert_record(admin, now_ms - 40 * DAY_MS)
    monkeypatch.setattr("auditap.cli.retention.clock_ms", lambda: clock_ms() + 40 * DAY_MS)
    refused = await run("retention", "--yes")
    assert "960 hours behind this host's" in str(refused.exception)
    assert await admin.fetchval("SELECT count(*) FROM auditap.audit_records") == 2


async def test_migrating_records_the_retention_and_refuses_another_interval(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITAP_INGEST__BOUNDS__RETENTION_DAYS", "548")
    assert "partitioned by day and kept for 548 days" in (await run("migrate")).output
    monkeypatch.delenv("AUDITAP_INGEST__BOUNDS__RETENTION_DAYS")
    assert states((await run("retention", "--json")).stdout) == ["kept"] * 4
    monkeypatch.setenv("AUDITAP_POSTGRES__PARTITION_INTERVAL", "hour")
    refused = await run("migrate")
    assert isinstance(refused.exception, StartupError)
    assert "set postgres.partition_interval to day" in str(refused.exception)
