"""Lookups by SQL query, with databases that hang, return invalid rows or are asked to write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from enricher.config import PostgresLookupConfig
from enricher.ports import Absent, Found, Kind
from enricher.postgres_lookup import KEYS_MAX, PostgresLookup
from schemas.errors import RetryableError, StartupError

NAMED = Found(name="Example")
QUERY = "SELECT id AS key, name FROM names WHERE id = ANY($1::text[])"


@pytest.fixture
async def admin(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "CREATE TABLE names (id text, name text); INSERT INTO names VALUES ('a', 'Example');"
        "CREATE SEQUENCE drawn;"
        "CREATE FUNCTION written(text) RETURNS text LANGUAGE sql AS"
        " $$ INSERT INTO names VALUES ('new', 'new') RETURNING name $$"
    )
    yield connection
    await connection.close()


@asynccontextmanager
async def asking(
    database: str, query: str = QUERY, *, keys_max: int = KEYS_MAX, **changes: Any
) -> AsyncIterator[PostgresLookup]:
    given: dict[str, Any] = {
        "kind": Kind.ACCOUNT,
        "dsn": database,
        "query": query,
        "columns": {"name": "name"},
        "timeout_ms": 60_000,
    } | changes
    look_up = PostgresLookup([PostgresLookupConfig(**given)], keys_max=keys_max)
    yield look_up
    await look_up.stop()


async def test_concurrent_keys_share_a_query(database: str, admin: asyncpg.Connection) -> None:
    query = "SELECT k AS key, nextval('drawn')::text AS name FROM (SELECT unnest($1::text[]) AS k) AS asked"
    await admin.execute("CREATE TABLE asked (keys text[])")
    counting = "SELECT id AS key, cardinality($1::text[])::text AS name FROM unnest($1::text[]) AS asked (id)"
    async with asking(database, counting, keys_max=50) as look_up:
        answers = await asyncio.gather(*(look_up.look_up(Kind.ACCOUNT, f"k{n}") for n in range(120)))
    assert sorted(str(each.name) for each in answers if isinstance(each, Found)) == sorted(
        ["50"] * 100 + ["20"] * 20
    )
    async with asking(database, query) as look_up:
        with pytest.raises(RetryableError, match="refused by its database"):
            await look_up.look_up(Kind.ACCOUNT, "a")


@pytest.mark.parametrize(
    "key", ["'; DROP TABLE names; --", "a' OR '1'='1", "$1", 'a"b', "a\\", "{a,b}", "NULL", "a\0b"]
)
async def test_a_hostile_key_never_becomes_sql(database: str, admin: asyncpg.Connection, key: str) -> None:
    async with asking(database, key_syntax="(?s).*") as look_up:
        assert isinstance(await look_up.look_up(Kind.ACCOUNT, key), Absent)
        assert await look_up.look_up(Kind.ACCOUNT, "a") == NAMED
    async with asking(database) as look_up:
        assert isinstance(await look_up.look_up(Kind.ACCOUNT, key), Absent)
    assert await admin.fetchval("SELECT count(*) FROM names") == 1


@pytest.mark.parametrize(
    ("query", "cause"),
    [
        ("INSERT INTO names SELECT unnest($1::text[]), 'x' RETURNING id AS key, name", "refused"),
        ("SELECT $1::text[], written('x') AS key, 'x' AS name", "refused"),
        ("SELECT unnest($1::text[]) AS key, pg_sleep(60)::text AS name", "took too long|in time"),
        ("SELECT 'other' AS key, 'x' AS name WHERE $1::text[] IS NOT NULL", "another id"),
        ("SELECT NULL::text AS key, 'x' AS name WHERE $1::text[] IS NOT NULL", "another id"),
        ("SELECT unnest($1::text[] || $1::text[]) AS key, 'x' AS name", "another id"),
        (
            "SELECT unnest($1::text[]) AS key, 'x' AS name FROM generate_series(1, 1e9)",
            "another id|in time|too long",
        ),
        ("SELECT unnest($1::text[]) AS key", "refused"),
        ("SELECT nothing FROM nowhere WHERE $1", "refused"),
        ("SELECT unnest($1::text[]) AS key, repeat('x', 10000000) AS name", "unexpected shape"),
        ("SELECT unnest($1::text[]) AS key, E'a\\nb' AS name", "unexpected shape"),
        ("SELECT unnest($1::text[]) AS key, (1/0)::text AS name", "query failed"),
    ],
)
async def test_invalid_results_are_failures_within_bounds(
    database: str, admin: asyncpg.Connection, query: str, cause: str
) -> None:
    # Only what does not end by itself may meet the timeout.
    timeout_ms = 1_000 if "in time" in cause else 60_000
    async with asking(database, query, timeout_ms=timeout_ms) as look_up:
        with pytest.raises(RetryableError, match=cause) as caught:
            await look_up.look_up(Kind.ACCOUNT, "s3cret")
    assert "s3cret" not in f"{caught.value} {caught.value.__context__} {caught.value.__cause__}"
    assert await admin.fetchval("SELECT count(*) FROM names") == 1


async def test_an_invalid_name_fails_only_its_own_key(database: str, admin: asyncpg.Connection) -> None:
    await admin.execute("INSERT INTO names VALUES ('long', repeat('x', 600)), ('empty', NULL)")
    async with asking(database) as look_up:
        answers = await asyncio.gather(
            *(look_up.look_up(Kind.ACCOUNT, key) for key in ("a", "long", "empty", "nobody")),
            return_exceptions=True,
        )
    assert [answers[0], answers[2], answers[3]] == [NAMED, Found(), Absent()]
    assert isinstance(answers[1], RetryableError)


async def test_the_session_is_read_only_and_has_a_statement_timeout(
    database: str, admin: asyncpg.Connection
) -> None:
    shown = (
        "SELECT unnest($1::text[]) AS key, current_setting('transaction_read_only') || ' ' ||"
        " current_setting('statement_timeout') AS name"
    )
    async with asking(database, shown, timeout_ms=61_500) as look_up:
        assert await look_up.look_up(Kind.ACCOUNT, "a") == Found(name="on 61500ms")


async def test_connections_are_bounded(database: str, admin: asyncpg.Connection) -> None:
    slow = "SELECT unnest($1::text[]) AS key, pg_sleep(0.05)::text AS name"
    async with asking(database, slow, keys_max=1, connections_max=2) as look_up:
        calls = [asyncio.create_task(look_up.look_up(Kind.ACCOUNT, f"k{n}")) for n in range(12)]
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'auditap-enrich'"
        most, ended = 0, False
        while not ended:
            # Looked at once more after the last call: sessions stay open.
            ended = all(call.done() for call in calls)
            most = max(most, await admin.fetchval(f"{sessions} AND datname = current_database()"))
        await asyncio.gather(*calls)
    assert most == 2


async def test_failures_open_the_circuit_breaker() -> None:
    async with asking("postgresql://nobody@127.0.0.1:1/none") as look_up:
        for _ in range(5):
            with pytest.raises(RetryableError, match="query failed"):
                await look_up.look_up(Kind.ACCOUNT, "a")
        with pytest.raises(RetryableError, match="circuit breaker"):
            await look_up.look_up(Kind.ACCOUNT, "a")


async def test_stopping_fails_callers(database: str, admin: asyncpg.Connection) -> None:
    slow = "SELECT unnest($1::text[]) AS key, pg_sleep(60)::text AS name"
    look_up = PostgresLookup(
        [
            PostgresLookupConfig(
                kind=Kind.ACCOUNT, dsn=database, query=slow, columns={"name": "name"}, timeout_ms=60_000
            )
        ]
    )
    call = asyncio.create_task(look_up.look_up(Kind.ACCOUNT, "a"))
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )
    async with asyncio.timeout(120):
        while not await admin.fetchval(sleeping):
            await asyncio.sleep(0.01)
    await look_up.stop()
    with pytest.raises(RetryableError, match="stopped"):
        await call


@pytest.mark.parametrize(
    "changes",
    [
        {"dsn": "names.internal"},
        {"query": "SELECT 1"},
        {"query": "SELECT $1; DROP TABLE names"},
        {"query": "SELECT $1, $2"},
        {"columns": {}},
        {"columns": {"email": "email"}},
        {"columns": {"name": ""}},
        {"key_column": ""},
        {"key_syntax": "("},
        {"connections_max": 0},
        {"timeout_ms": 0},
    ],
)
def test_invalid_settings_are_rejected_at_start(changes: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "kind": Kind.ACCOUNT,
        "dsn": "postgresql://u:s3cret@h/d",
        "query": QUERY,
        "columns": {"name": "n"},
    }
    with pytest.raises(StartupError, match="of the account query") as caught:
        PostgresLookupConfig(**(given | changes))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(PostgresLookupConfig(**given))
