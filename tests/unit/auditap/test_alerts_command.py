"""`auditap alerts` and `auditap rules`, as an administrator types them, on a real Postgres."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from tests.audit_database import AuditDatabase, migrated
from tests.unit.log_api.stored_log import StoredLog
from tests.watching import action, raised, rules
from watcher.postgres_store import PostgresWatchStore

RULES = """
rules:
  - name: deletions
    title: Something was deleted
    severity: high
    when: {action.type: delete, raw.status_code: {to: 299}}
    key: [resource.id]
"""


async def run(folder: Path, dsn: str, *arguments: str) -> tuple[int, str, str]:
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "80", "AUDITAP_POSTGRES__ADMIN_DSN": dsn}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditap", *arguments),
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
async def prepared(database: str) -> AuditDatabase:
    return await migrated(database)


async def test_alerts_are_listed_and_acknowledged(prepared: AuditDatabase, tmp_path: Path) -> None:
    store = await PostgresWatchStore.connect(
        prepared.watcher_dsn, "test", connections_max=2, command_timeout_ms=10_000
    )
    held = rules({"name": "deletions", "severity": "high", "when": {"action.type": "delete"}})
    now_ms = int(time.time() * 1000)
    try:
        [alert] = await raised(held, [action(now_ms, action_type="delete")], store)
    finally:
        await store.close()
    _, lines, _ = await run(tmp_path, prepared.admin_dsn, "alerts", "list", "--json")
    [shown] = map(json.loads, lines.splitlines())
    assert (shown["id"], shown["acknowledged"]) == (alert.id.hex, None)
    seen = await run(
        tmp_path, prepared.admin_dsn, "alerts", "ack", alert.id.hex, "--by", "ana", "--note", "on it"
    )
    assert seen == (0, "acknowledged\n", "")
    _, lines, _ = await run(tmp_path, prepared.admin_dsn, "alerts", "list")
    told = json.loads(lines)["acknowledged"]
    assert (told["by"], told["note"]) == ("ana", "on it")
    assert (await run(tmp_path, prepared.admin_dsn, "alerts", "list", "--open"))[1] == ""
    ended, _, sentence = await run(tmp_path, prepared.admin_dsn, "alerts", "ack", "0" * 32)
    assert ended == 1
    assert "auditap alerts list" in sentence


async def test_rules_are_tried_on_history_and_nothing_is_kept(
    prepared: AuditDatabase, tmp_path: Path
) -> None:
    now_ms = int(time.time() * 1000)
    deleted = {"action_type": "delete", "resource_id": "r", "actor_ip_address": "203.0.113.9"}
    connection = await asyncpg.connect(prepared.admin_dsn)
    try:
        await StoredLog(connection).add(
            [
                action(now_ms - 1000, raw_status_code=200, **deleted),
                action(now_ms - 900, raw_status_code=404, **deleted | {"resource_id": "s"}),
                action(now_ms - 3 * 3_600_000, raw_status_code=200, **deleted),
                action(now_ms - 800, account_id="other", raw_status_code=200, **deleted),
            ]
        )
        (tmp_path / "rules.yaml").write_text(RULES)
        _, lines, told = await run(
            tmp_path, prepared.admin_dsn, "rules", "test", "--rules", "rules.yaml", "--since", "1h"
        )
        assert len(lines.splitlines()) == 2, told
        one = ("rules", "test", "--rules", "rules.yaml", "--since", "1h", "--account", "other")
        [alert] = map(json.loads, (await run(tmp_path, prepared.admin_dsn, *one))[1].splitlines())
        assert (alert["rule"], alert["account"]) == ("deletions", {"id": "other"})
        assert await connection.fetchval("SELECT count(*) FROM auditap.alerts") == 0
    finally:
        await connection.close()


async def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.replace("high", "loud"))
    ended, _, sentence = await run(tmp_path, "", "rules", "check", "rules.yaml")
    assert ended == 1
    assert "rules.yaml, line 5: " in sentence
    (tmp_path / "rules.yaml").write_text(RULES)
    assert (await run(tmp_path, "", "rules", "check", "rules.yaml"))[
        1
    ] == "1 rules, 0 that drop, 0 channels\n"
