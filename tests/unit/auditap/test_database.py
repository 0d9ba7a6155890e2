from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from auditap.database.connection import administrator
from auditap.database.roles import scram_verifier, set_role_password
from auditap.database.schema import migrate
from auditap.database.tokens import create_token, list_tokens, revoke_token
from schemas.errors import RetryableError, StartupError
from schemas.sql import migrations
from tests.audit_database import migrated

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
