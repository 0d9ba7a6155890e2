"""A database that is not UTF-8 could not store half of the records: every role refuses it at start, in one sentence."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from urllib.parse import urlsplit

import asyncpg
import pytest

from alerting.postgres_store import PostgresAlertStore
from auditap.database.connection import administrator
from ingestor.postgres_maintenance import PostgresMaintenance
from ingestor.postgres_store import PostgresStore
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from schemas.errors import StartupError
from schemas.metric_defs import Metrics
from schemas.text_encoding import require_utf8
from tests.audit_database import drop_database


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
async def other_database(postgres: str, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Superuser's address of an empty database in another encoding."""
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(
            f"CREATE DATABASE {name} ENCODING '{request.param}' TEMPLATE template0"
            " LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        await drop_database(connection, name)
    finally:
        await connection.close()


async def as_administrator(dsn: str) -> None:
    async with administrator(dsn):
        pass


async def as_ingestor(dsn: str) -> None:
    store = await PostgresStore.connect(dsn, connections_max=1, command_timeout_ms=60_000)
    await store.check_login()


async def as_maintainer(dsn: str) -> None:
    await PostgresMaintenance(dsn, 1_000).partitions(0)


async def as_log_api(dsn: str) -> None:
    await PostgresLogDatabase(dsn, LogApiConfig(cursor_key=b"k" * 32), Metrics()).start()


async def as_alerting(dsn: str) -> None:
    await PostgresAlertStore.connect(dsn, "test", connections_max=1, command_timeout_ms=60_000)


@pytest.mark.parametrize("start", [as_administrator, as_ingestor, as_maintainer, as_log_api, as_alerting])
async def test_every_role_refuses_it_at_start(
    other_database: str, start: Callable[[str], Awaitable[None]]
) -> None:
    with pytest.raises(StartupError, match=r"The database's encoding is (LATIN1|SQL_ASCII): create one with"):
        await start(other_database)


def test_a_session_in_another_encoding_is_refused() -> None:
    # The second as PgBouncer reports it, in either of its modes.
    for fine in ("UTF8", "'utf-8'"):
        require_utf8(SimpleNamespace(server_encoding="UTF8", client_encoding=fine))
    with pytest.raises(StartupError, match="client_encoding is LATIN1"):
        require_utf8(SimpleNamespace(server_encoding="UTF8", client_encoding="LATIN1"))
