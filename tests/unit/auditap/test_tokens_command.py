"""`auditap tokens`, as an administrator types it, on a real Postgres."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.audit_database import migrated

ACCOUNT = "1f0c2b7d9e8a4c3b8d6e5f4a3b2c1d0e"


async def _tokens(folder: Path, dsn: str, *arguments: str) -> tuple[int, str, str]:
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "80", "AUDITAP_POSTGRES__ADMIN_DSN": dsn}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditap", "tokens", *arguments),
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_token_is_shown_once_and_listed_whole_on_a_narrow_terminal(
    database: str, tmp_path: Path
) -> None:
    await migrated(database)
    made, token, told = await _tokens(
        tmp_path, database, "create", "siem", "--account", ACCOUNT, "--days", "3"
    )
    assert made == 0, told
    token_id = told.split()[1].rstrip(",")
    _, table, _ = await _tokens(tmp_path, database, "list")
    assert token_id in table
    assert max(map(len, table.splitlines())) <= 80
    _, lines, _ = await _tokens(tmp_path, database, "list", "--json")
    [row] = map(json.loads, lines.splitlines())
    assert (row["id"], row["accounts"]) == (token_id, [ACCOUNT])
    assert token.strip() not in table + lines


async def test_a_revoked_token_says_so_and_cannot_be_revoked_again(database: str, tmp_path: Path) -> None:
    await migrated(database)
    _, _, told = await _tokens(tmp_path, database, "create", "siem", "--all-accounts")
    token_id = told.split()[1].rstrip(",")
    assert await _tokens(tmp_path, database, "revoke", token_id) == (0, "revoked\n", "")
    _, table, _ = await _tokens(tmp_path, database, "list")
    assert "revoked" in table
    ended, _, sentence = await _tokens(tmp_path, database, "revoke", token_id)
    assert ended == 1
    assert "auditap tokens list" in sentence
