from __future__ import annotations

import asyncio
import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from auditap.database import roles
from auditap.database.connection import administrator
from auditap.database.roles import ROLES, scram_verifier, set_role_password
from auditap.database.schema import migrate
from auditap.database.tokens import create_token, list_tokens, revoke_token
from schemas.errors import RetryableError, StartupError
from schemas.sql import migrations
from tests.audit_database import migrated
from tests.unit.auditap.commands import run

SOON = datetime.now(UTC) + timedelta(days=1)


async def test_migrating_twice_changes_nothing(database: str) -> None:
    async with administrator(database) as connection:
        assert list(await migrate(connection)) == [each.name for each in migrations()]
        assert await migrate(connection) == []


async def test_processes_that_migrate_at_once_do_it_once(database: str) -> None:
    async def one() -> int:
        async with administrator(database) as connection:
            return len(await migrate(connection))

    assert sorted(await asyncio.gather(*(one() for _ in range(4)))) == [0, 0, 0, len(migrations())]


async def test_a_database_of_a_newer_program_is_left_alone(database: str) -> None:
    async with administrator(database) as connection:
        await migrate(connection)
        await connection.execute(
            "INSERT INTO public.auditap_migrations (number, name) VALUES (9999, 'later')"
        )
        with pytest.raises(StartupError, match="newer"):
            await migrate(connection)


async def test_a_password_works_and_only_its_verifier_travels(database: str) -> None:
    audit = await migrated(database)
    async with administrator(audit.admin_dsn) as connection:
        with pytest.raises(ValueError, match="not a role"):
            await set_role_password(connection, "postgres", "x")
    writer = await asyncpg.connect(audit.writer_dsn)
    assert await writer.fetchval("SELECT current_user") == "auditap_writer"
    await writer.close()
    assert "s3cret" not in scram_verifier("s3cret")
    assert scram_verifier("s3cret") != scram_verifier("s3cret")


async def test_a_server_that_is_away_can_be_waited_for_and_a_refusal_cannot(database: str) -> None:
    with pytest.raises(RetryableError, match="does not answer"):
        async with administrator("postgresql://nobody@127.0.0.1:1/none", connect_timeout_s=2):
            pass
    host = database.rpartition("@")[2]
    with pytest.raises(StartupError, match="refuses") as caught:
        async with administrator(f"postgresql://nobody:S3CRET@{host}"):
            pass
    assert "S3CRET" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_token_is_stored_hashed_listed_without_it_and_revoked(database: str) -> None:
    audit = await migrated(database)
    async with administrator(audit.admin_dsn) as connection:
        token_id, token = await create_token(connection, "siem", ["a1"], ["audit_logs:read"], SOON)
        [row] = await list_tokens(connection)
        assert (row["id"], row["name"], row["accounts"]) == (token_id, "siem", ["a1"])
        assert token not in str(dict(row))
        stored = await connection.fetchval("SELECT token_sha256 FROM auditap.api_tokens")
        assert stored == hashlib.sha256(token.encode()).digest()
        assert await revoke_token(connection, token_id)
        assert not await revoke_token(connection, token_id)


async def test_a_second_migration_says_which_passwords_stay(database: str, tmp_path: Path) -> None:
    await migrated(database)
    status, shown, stderr = await run(tmp_path, database, "migrate")
    assert status == 0, stderr
    for role in ROLES:
        assert f"{role} may log in; its password is unchanged" in shown


async def test_a_role_has_a_password_once_it_may_log_in(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Roles are shared by all databases of the server: those of other tests stay as they are.
    role = f"test_{uuid.uuid4().hex}"
    monkeypatch.setattr(roles, "ROLES", (role,))
    async with administrator(database) as connection:
        await connection.execute(f"CREATE ROLE {role} NOLOGIN")
        try:
            assert await roles.roles_that_log_in(connection) == set()
            await set_role_password(connection, role, "for-tests-only")
            assert await roles.roles_that_log_in(connection) == {role}
        finally:
            await connection.execute(f"DROP ROLE {role}")
