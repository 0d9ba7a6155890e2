"""`auditap tokens`, as an administrator types it, on a real Postgres."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.audit_database import AuditDatabase
from tests.unit.auditap.commands import run

pytestmark = pytest.mark.processes

ACCOUNT = "1f0c2b7d9e8a4c3b8d6e5f4a3b2c1d0e"


async def test_a_token_is_shown_once_and_listed_whole_on_a_narrow_terminal(
    audit_database: AuditDatabase, tmp_path: Path
) -> None:
    made, token, stderr = await run(
        tmp_path, audit_database.admin_dsn, "tokens", "create", "siem", "--account", ACCOUNT, "--days", "3"
    )
    assert made == 0, stderr
    token_id = stderr.split()[1].rstrip(",")
    _, table, _ = await run(tmp_path, audit_database.admin_dsn, "tokens", "list")
    assert token_id in table
    assert max(map(len, table.splitlines())) <= 80
    _, lines, _ = await run(tmp_path, audit_database.admin_dsn, "tokens", "list", "--json")
    [row] = map(json.loads, lines.splitlines())
    assert (row["id"], row["accounts"]) == (token_id, [ACCOUNT])
    assert token.strip() not in table + lines


async def test_a_revoked_token_says_so_and_cannot_be_revoked_again(
    audit_database: AuditDatabase, tmp_path: Path
) -> None:
    _, _, stderr = await run(tmp_path, audit_database.admin_dsn, "tokens", "create", "siem", "--all-accounts")
    token_id = stderr.split()[1].rstrip(",")
    assert await run(tmp_path, audit_database.admin_dsn, "tokens", "revoke", token_id) == (0, "revoked\n", "")
    _, table, _ = await run(tmp_path, audit_database.admin_dsn, "tokens", "list")
    assert "revoked" in table
    ended, _, sentence = await run(tmp_path, audit_database.admin_dsn, "tokens", "revoke", token_id)
    assert ended == 1
    assert "auditap tokens list" in sentence


@pytest.mark.parametrize("account", ["", " ", f" {ACCOUNT}", "-", ".."])
async def test_an_account_that_no_record_has_is_refused(
    audit_database: AuditDatabase, tmp_path: Path, account: str
) -> None:
    status, token, stderr = await run(
        tmp_path, audit_database.admin_dsn, "tokens", "create", "siem", "--account", account
    )
    assert (status, token) == (2, "")
    assert "No record has this --account" in stderr
