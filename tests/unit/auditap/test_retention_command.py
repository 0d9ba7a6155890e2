from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from auditap.cli import cli
from ingestor.config import DAY_MS
from schemas.errors import StartupError
from tests.audit_database import migrated


@pytest.fixture
async def run(database: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    audit = await migrated(database)
    monkeypatch.setenv("AUDITAP_POSTGRES__MAINTAINER_DSN", audit.maintainer_dsn)
    monkeypatch.setenv("AUDITAP_POSTGRES__ADMIN_DSN", audit.admin_dsn)
    connection = await asyncpg.connect(audit.admin_dsn)
    now_ms = time.time_ns() // 1_000_000
    for age in (0, 40):
        at_ms = now_ms - age * DAY_MS
        await connection.execute("SELECT auditap.ensure_partitions($1, $1)", at_ms)
    await connection.close()

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
    assert "is kept" in table.output


async def test_the_command_drops_what_is_older_than_the_setting(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITAP_INGEST__BOUNDS__RETENTION_DAYS", "548")
    assert states((await run("retention", "--json")).stdout) == ["kept"] * 4
    monkeypatch.delenv("AUDITAP_INGEST__BOUNDS__RETENTION_DAYS")
    assert states((await run("retention", "--json")).stdout) == ["dropped"] * 2 + ["kept"] * 2
    assert states((await run("retention", "--json")).stdout) == ["kept"] * 2


async def test_migrating_records_the_retention_and_refuses_another_interval(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITAP_INGEST__BOUNDS__RETENTION_DAYS", "548")
    assert "divided by day and kept for 548 days" in (await run("migrate")).output
    monkeypatch.delenv("AUDITAP_INGEST__BOUNDS__RETENTION_DAYS")
    assert states((await run("retention", "--json")).stdout) == ["kept"] * 4
    monkeypatch.setenv("AUDITAP_POSTGRES__PARTITION_INTERVAL", "hour")
    refused = await run("migrate")
    assert isinstance(refused.exception, StartupError)
    assert "set postgres.partition_interval to day" in str(refused.exception)
