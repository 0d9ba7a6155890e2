"""`auditap alerts` and `auditap rules`, as an administrator types them, on a real Postgres."""

from __future__ import annotations

import json
import time
from pathlib import Path

import asyncpg
import pytest

from alerting.postgres_store import PostgresAlertStore
from tests.alert_cases import action, raised, rules
from tests.audit_database import AuditDatabase
from tests.unit.auditap.commands import run
from tests.unit.log_api.stored_log import StoredLog

pytestmark = pytest.mark.processes

RULES = """
rules:
  - name: deletions
    title: Something was deleted
    severity: high
    when: {action.type: delete, raw.status_code: {to: 299}}
    key: [resource.id]
"""


async def test_alerts_are_listed_and_acknowledged(audit_database: AuditDatabase, tmp_path: Path) -> None:
    store = await PostgresAlertStore.connect(
        audit_database.alerting_dsn, "test", connections_max=2, command_timeout_ms=60_000
    )
    held = rules({"name": "deletions", "severity": "high", "when": {"action.type": "delete"}})
    now_ms = int(time.time() * 1000)
    try:
        [alert] = await raised(held, [action(now_ms, action_type="delete")], store)
    finally:
        await store.close()
    _, lines, _ = await run(tmp_path, audit_database.admin_dsn, "alerts", "list", "--json")
    [shown] = map(json.loads, lines.splitlines())
    assert (shown["id"], shown["acknowledged"]) == (alert.id.hex, None)
    seen = await run(
        tmp_path, audit_database.admin_dsn, "alerts", "ack", alert.id.hex, "--by", "ana", "--note", "on it"
    )
    assert seen == (0, "acknowledged\n", "")
    _, lines, _ = await run(tmp_path, audit_database.admin_dsn, "alerts", "list")
    acknowledged = json.loads(lines)["acknowledged"]
    assert (acknowledged["by"], acknowledged["note"]) == ("ana", "on it")
    assert (await run(tmp_path, audit_database.admin_dsn, "alerts", "list", "--open"))[1] == ""
    ended, again, _ = await run(
        tmp_path, audit_database.admin_dsn, "alerts", "ack", alert.id.hex, "--by", "ben", "--note", "no"
    )
    assert (ended, again) == (0, f"already acknowledged by ana at {acknowledged['at'][:19]}Z\n")
    ended, _, sentence = await run(tmp_path, audit_database.admin_dsn, "alerts", "ack", "0" * 32)
    assert ended == 1
    assert "auditap alerts list" in sentence


async def test_rules_are_tried_on_history_and_nothing_is_kept(
    audit_database: AuditDatabase, tmp_path: Path
) -> None:
    now_ms = int(time.time() * 1000)
    deleted = {"action_type": "delete", "resource_id": "r", "actor_ip_address": "203.0.113.9"}
    connection = await asyncpg.connect(audit_database.admin_dsn)
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
        _, lines, errors = await run(
            tmp_path, audit_database.admin_dsn, "rules", "test", "--rules", "rules.yaml", "--since", "1h"
        )
        assert len(lines.splitlines()) == 2, errors
        one = ("rules", "test", "--rules", "rules.yaml", "--since", "1h", "--account", "other")
        [alert] = map(json.loads, (await run(tmp_path, audit_database.admin_dsn, *one))[1].splitlines())
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
    assert (await run(tmp_path, "", "rules", "check", "rules.yaml"))[1] == "1 rule, 0 that drop, 0 channels\n"


async def test_a_channel_without_a_usable_file_is_reported(tmp_path: Path) -> None:
    hook = "{type: webhook, url: 'https://hooks.example/in', secret_file: hook.key}"
    chat = "{type: slack, url_file: chat.url}"
    (tmp_path / "rules.yaml").write_text(f"channels:\n  ops: {hook}\n  chat: {chat}\n{RULES}")
    check = ("rules", "check", "rules.yaml")
    ended, _, sentence = await run(tmp_path, "", *check)
    assert ended == 1
    assert "channel ops: hook.key cannot be read or is empty" in sentence
    assert "channel chat: chat.url cannot be read or is empty" in sentence
    assert (await run(tmp_path, "", *check, "--without-files"))[0] == 0
    (tmp_path / "hook.key").write_text("the secret of the hook")
    (tmp_path / "chat.url").write_text("http://chat.example/secret-path")
    ended, _, sentence = await run(tmp_path, "", *check)
    assert (ended, "channel chat: its address is not https" in sentence) == (1, True)
    assert "secret-path" not in sentence
    (tmp_path / "chat.url").write_text("https://chat.example/secret-path")
    assert (await run(tmp_path, "", *check))[:2] == (0, "1 rule, 0 that drop, 2 channels\n")


async def test_dead_deliveries_are_listed_and_retried(audit_database: AuditDatabase, tmp_path: Path) -> None:
    store = await PostgresAlertStore.connect(
        audit_database.alerting_dsn, "test", connections_max=2, command_timeout_ms=60_000
    )
    held = rules(
        {"name": "deletions", "when": {"action.type": "delete"}, "channels": ["ops", "chat"]},
        ops={"type": "stdout"},
        chat={"type": "stdout"},
    )
    now_ms = int(time.time() * 1000)
    retry = ("alerts", "deliveries", "retry")

    async def listed(*more: str) -> list[tuple[str, str, str | None]]:
        _, lines, _ = await run(tmp_path, audit_database.admin_dsn, "alerts", "deliveries", "list", *more)
        rows = map(json.loads, lines.splitlines())
        return [(row["channel"], row["state"], row["outcome"]) for row in rows]

    try:
        [alert] = await raised(held, [action(now_ms, action_type="delete")], store)
        for due in await store.lease(10, 60_000):
            await store.failed(due, "status 410", None)
        assert await listed() == [("chat", "dead", "status 410"), ("ops", "dead", "status 410")]
        assert await listed("--channel", "ops", "--state", "due") == []
        ended, _, sentence = await run(tmp_path, audit_database.admin_dsn, *retry)
        assert (ended, "--all" in sentence) == (2, True)
        chosen = (*retry, alert.id.hex, "--channel", "ops")
        assert (await run(tmp_path, audit_database.admin_dsn, *chosen))[1] == "1 due again\n"
        # Asking twice is asking once.
        assert (await run(tmp_path, audit_database.admin_dsn, *chosen))[1] == "0 due again\n"
        assert await listed("--state", "due") == [("ops", "due", "status 410")]
        [again] = await store.lease(10, 60_000)
        assert (again.alert_id, again.channel, again.attempts) == (alert.id, "ops", 1)
        await store.delivered(again)
        assert (await run(tmp_path, audit_database.admin_dsn, *retry, "--since", "1h"))[1] == "1 due again\n"
        assert (await run(tmp_path, audit_database.admin_dsn, *retry, "--all"))[1] == "0 due again\n"
        assert [state for _, state, _ in await listed()] == ["due", "delivered"]
    finally:
        await store.close()
