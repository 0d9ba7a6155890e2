"""The database's schema: migrations, and how records are partitioned and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from auditap.database.connection import LOCK_CONFLICTS, Connection
from schemas.errors import RetryableError, StartupError
from schemas.sql import Migration, migrations

_LOCK_KEY = 0x61756469746170  # "auditap" in ASCII
# Ingest queues behind a lock that a migration waits for. Longer than Postgres' deadlock_timeout (1 s), after which
# autovacuum yields to whoever waits for it.
_LOCK_WAIT_MS = 2_000
_ATTEMPTS_MAX = 30


async def migrate(
    connection: Connection, *, lock_wait_ms: int = _LOCK_WAIT_MS, attempts_max: int = _ATTEMPTS_MAX
) -> Sequence[str]:
    """Bring the schema up to date and return the names of the migrations that were applied.

    Each is one transaction; an advisory lock lets only one process migrate. A migration that waits longer than
    `lock_wait_ms` for a lock is rolled back, and tried again after a pause of the same length in which others go on.
    Raises RetryableError after `attempts_max` attempts, and StartupError where the database is newer than this program.
    """
    # Of the session, because each migration is a transaction of its own. It ends with the connection, so a crash leaves
    # no lock.
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS public.auditap_migrations ("
            "number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        done = await connection.fetchval("SELECT coalesce(max(number), 0) FROM public.auditap_migrations")
        if done > len(migrations()):
            raise StartupError("The database was migrated by a newer auditap: upgrade this one.")
        for migration in migrations()[done:]:
            await _apply_with_retries(connection, migration, lock_wait_ms, attempts_max)
        return [migration.name for migration in migrations()[done:]]
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK_KEY)


async def _apply_with_retries(
    connection: Connection, migration: Migration, lock_wait_ms: int, attempts_max: int
) -> None:
    for attempt in range(attempts_max):
        if attempt:
            await asyncio.sleep(lock_wait_ms / 1000)
        try:
            return await _apply(connection, migration, lock_wait_ms)
        except LOCK_CONFLICTS:
            pass
    raise RetryableError(
        f"Migration {migration.name} found its tables in use {attempts_max} times: end long queries and dumps of the"
        " database, and run `auditap migrate` again."
    )


async def _apply(connection: Connection, migration: Migration, lock_wait_ms: int) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {lock_wait_ms:d}")
        await connection.execute(migration.statements)
        await connection.execute(
            "INSERT INTO public.auditap_migrations (number, name) VALUES ($1, $2)",
            migration.number,
            migration.name,
        )


async def set_log_layout(connection: Connection, partition_interval: str, retention_days: int) -> None:
    """Store the partition interval (`hour`, `day` or `month`) and the retention in the database.

    Raises StartupError where partitions of another interval exist: they would overlap.
    """
    async with connection.transaction():
        recorded = await connection.fetchval("SELECT partition_interval FROM auditap.log_shape FOR UPDATE")
        if recorded != partition_interval and await connection.fetchval(
            "SELECT EXISTS (SELECT FROM auditap.partitions())"
        ):
            raise StartupError(
                f"Records are partitioned by {recorded}: set postgres.partition_interval to {recorded},"
                " or start with an empty database."
            )
        await connection.execute(
            "UPDATE auditap.log_shape SET partition_interval = $1, retention_days = $2",
            partition_interval,
            retention_days,
        )


async def ensure_database(connection: Connection, name: str) -> None:
    """Create a database of our own cluster where it is missing. `name` is an identifier of ours, never input."""
    if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
        await connection.execute(f'CREATE DATABASE "{name}"')
