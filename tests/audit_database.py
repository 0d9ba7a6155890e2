"""A migrated database and the addresses of its roles."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg
import pytest

from auditap.database.connection import administrator
from auditap.database.roles import ROLES, set_role_password
from auditap.database.schema import migrate

# One password per role, because roles are shared by all databases of a server and tests may overlap.
PASSWORD = "for-tests-only"


@dataclass(frozen=True)
class AuditDatabase:
    """Addresses of one migrated database: as superuser, as the ingestor, the log API, who drops what is old,
    alerting, who decides on dead letters."""

    admin_dsn: str
    writer_dsn: str
    reader_dsn: str
    maintainer_dsn: str = ""
    alerting_dsn: str = ""
    operator_dsn: str = ""


async def migrated(admin_dsn: str) -> AuditDatabase:
    """Migrate an empty database and let all roles log in."""
    async with administrator(admin_dsn) as connection:
        await migrate(connection)
        for role in ROLES:
            await set_role_password(connection, role, PASSWORD)
    return with_roles(admin_dsn)


async def drop_database(connection: asyncpg.Connection, name: str) -> None:
    """Drop a database, whoever is connected to it."""
    async with asyncio.timeout(120):
        while True:
            try:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            except asyncpg.ObjectInUseError:
                # Postgres ends the sessions and waits five seconds for them, which a busy machine may exceed.
                await asyncio.sleep(0.1)
            else:
                return


def with_roles(admin_dsn: str) -> AuditDatabase:
    """Return the addresses of a database that is migrated, or a copy of one that is."""
    return AuditDatabase(admin_dsn, *(_as(admin_dsn, role) for role in ROLES))


def _as(dsn: str, role: str) -> str:
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{role}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()


async def assert_denied(dsn: str, *statements: str) -> None:
    """Assert that the role of the DSN has no privilege for any of the statements."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
