"""The database as its administrator sees it: migrations, roles, API tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from schemas.errors import RetryableError, StartupError
from schemas.identity import first_id_at
from schemas.record import Record
from schemas.sql import migrations, query

_LOCK_KEY = 0x61756469746170  # "auditap" in ASCII
_SCRAM_ITERATIONS = 4096
TOKEN_PREFIX = "atp_"  # noqa: S105
ROLES = ("auditap_writer", "auditap_reader", "auditap_maintainer", "auditap_watcher", "auditap_operator")
"""Whom the processes log in as: ingest, serve, retention, watch, dead-letters."""


Connection = asyncpg.Connection


@asynccontextmanager
async def administrator(dsn: str, connect_timeout_s: float = 10) -> AsyncIterator[Connection]:
    """Connect for the length of a block.

    Raises RetryableError while the server is away, StartupError where it refuses us.
    """
    try:
        connection = await asyncpg.connect(dsn, timeout=connect_timeout_s)
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError):
        raise StartupError(
            "Postgres refuses the administrator's login: check the user, password and database of the DSN."
        ) from None
    except ValueError:
        raise StartupError("The administrator's Postgres DSN cannot be read: correct it.") from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        raise RetryableError(f"Postgres does not answer at {_address(dsn)}: is it running there?") from None
    try:
        yield connection
    except asyncpg.UndefinedTableError:
        raise StartupError("The database has no tables of ours yet: run `auditap migrate`.") from None
    finally:
        await connection.close()


def _address(dsn: str) -> str:
    """Return what of a DSN may be shown: host and port."""
    return urlsplit(dsn).netloc.rpartition("@")[2] or "its local socket"


async def migrate(connection: Connection) -> Sequence[str]:
    """Bring the schema up to date and return the names of the migrations that were applied.

    Each is one transaction; an advisory lock lets only one process migrate. Raises StartupError where the
    database is newer than this program.
    """
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
            async with connection.transaction():
                await connection.execute(migration.statements)
                await connection.execute(
                    "INSERT INTO public.auditap_migrations (number, name) VALUES ($1, $2)",
                    migration.number,
                    migration.name,
                )
        return [migration.name for migration in migrations()[done:]]
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK_KEY)


async def shape_log(connection: Connection, partition_interval: str, retention_days: int) -> None:
    """Record how the log is divided and how long it is kept.

    Raises StartupError where it is divided otherwise already: partitions of two lengths would overlap.
    """
    async with connection.transaction():
        recorded = await connection.fetchval("SELECT partition_interval FROM auditap.log_shape FOR UPDATE")
        if recorded != partition_interval and await connection.fetchval(
            "SELECT EXISTS (SELECT FROM auditap.partitions())"
        ):
            raise StartupError(
                f"The log is divided by {recorded}: set postgres.partition_interval to {recorded},"
                " or begin with an empty database."
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


async def let_role_log_in(connection: Connection, role: str, password: str) -> None:
    """Give one of our roles a password. The server receives a SCRAM verifier, so no log of it holds the password."""
    if role not in ROLES:
        raise ValueError("not a role of auditap")
    await connection.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{scram_verifier(password)}'")


def scram_verifier(password: str) -> str:
    """Return what Postgres stores for a password (RFC 5803); made here so that only the verifier travels."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{salt64}${stored64}:{server64}"


async def create_token(
    connection: Connection,
    name: str,
    accounts: Sequence[str] | None,
    permissions: Sequence[str],
    expires_at: datetime,
    *,
    email: str | None = None,
    requests_per_s: float | None = None,
) -> tuple[UUID, str]:
    """Make a token of the log API and return its id and the token itself, which is shown once and stored hashed.

    `accounts` None: every account. `email`: whose it is. `requests_per_s` None: the rate that is configured.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token_id: UUID = await connection.fetchval(
        "INSERT INTO auditap.api_tokens"
        " (token_sha256, name, accounts, permissions, expires_at, email, requests_per_s)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
        hashlib.sha256(token.encode()).digest(),
        name,
        None if accounts is None else list(accounts),
        list(permissions),
        expires_at,
        email,
        requests_per_s,
    )
    return token_id, token


async def token_works(connection: Connection, token: str, days: int) -> bool:
    """Return whether a token is known, not revoked and good for `days` more."""
    return bool(
        await connection.fetchval(
            "SELECT true FROM auditap.api_tokens WHERE token_sha256 = $1 AND revoked_at IS NULL"
            " AND expires_at > now() + make_interval(days => $2)",
            hashlib.sha256(token.encode()).digest(),
            days,
        )
    )


async def list_tokens(connection: Connection) -> Sequence[asyncpg.Record]:
    """Return every token without itself, newest first: id, name, email, accounts, permissions, requests_per_s,
    created_at, expires_at, revoked_at.
    """
    return await connection.fetch(
        "SELECT id, name, email, accounts, permissions, requests_per_s, created_at, expires_at, revoked_at"
        " FROM auditap.api_tokens ORDER BY created_at DESC"
    )


async def revoke_token(connection: Connection, token_id: UUID) -> bool:
    """Revoke a token; return whether there was one to revoke."""
    found = await connection.fetchval(
        "UPDATE auditap.api_tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING id",
        token_id,
    )
    return found is not None


async def list_alerts(
    connection: Connection, account: str | None, since_ms: int, alerts_max: int, *, open_only: bool
) -> Sequence[Mapping[str, Any]]:
    """Return alerts of windows that begin from `since_ms` on (Unix ms), newest first. `account` None: of all."""
    return [
        dict(row)
        for row in await connection.fetch(query("list_alerts"), account, since_ms, alerts_max, open_only)
    ]


class Acknowledged(NamedTuple):
    """Who has seen an alert first, and whether that was only now."""

    by: str
    at: datetime
    is_new: bool


async def acknowledge_alert(
    connection: Connection, alert_id: UUID, who: str, note: str | None
) -> Acknowledged | None:
    """Note that somebody has seen an alert; the first one stays. Return None where there is no such alert."""
    row = await connection.fetchrow(
        "UPDATE auditap.alerts SET acknowledged_at = now(), acknowledged_by = $2, note = $3"
        " WHERE id = $1 AND acknowledged_at IS NULL RETURNING acknowledged_by, acknowledged_at",
        alert_id,
        who,
        note,
    )
    if row is not None:
        return Acknowledged(row["acknowledged_by"], row["acknowledged_at"], is_new=True)
    row = await connection.fetchrow(
        "SELECT acknowledged_by, acknowledged_at FROM auditap.alerts WHERE id = $1", alert_id
    )
    return None if row is None else Acknowledged(row["acknowledged_by"], row["acknowledged_at"], is_new=False)


class WantedDeliveries(NamedTuple):
    """Which deliveries are meant; None and empty: any."""

    state: str | None = None
    alert_ids: Sequence[UUID] = ()
    channels: Sequence[str] = ()
    since_ms: int = 0
    """Of alerts whose windows begin from then on (Unix ms)."""


async def list_deliveries(
    connection: Connection, wanted: WantedDeliveries, deliveries_max: int
) -> Sequence[Mapping[str, Any]]:
    """Return deliveries of alerts, newest alert first: alert_id, channel, state, attempts, due_at, outcome, rule, title."""
    rows = await connection.fetch(query("list_deliveries"), *_selecting(wanted), deliveries_max)
    return [dict(row) for row in rows]


async def retry_deliveries(connection: Connection, wanted: WantedDeliveries) -> int:
    """Make dead deliveries due again, with all their attempts; return how many. What is not dead stays as it is."""
    dead = wanted._replace(state="dead")
    return len(await connection.fetch(query("retry_deliveries"), *_selecting(dead)))


def _selecting(wanted: WantedDeliveries) -> tuple[object, ...]:
    return (
        wanted.state,
        list(wanted.alert_ids) or None,
        list(wanted.channels) or None,
        wanted.since_ms,
    )


async def records_between(
    connection: Connection, account: str | None, since_ms: int, before_ms: int
) -> AsyncIterator[Record]:
    """Yield the stored records of a time (Unix ms) as they are known now, in the order of their ids.

    `account` None: of all. What only the store knows (the digest) is left empty.
    """
    low, high = first_id_at(since_ms), first_id_at(before_ms)
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(query("rehearse_records"), low, high, account, prefetch=1_000):
            address = row["actor_ip_address"]
            yield Record(
                **dict(row)
                | {"actor_ip_address": None if address is None else str(address), "event_digest": b""}
            )
