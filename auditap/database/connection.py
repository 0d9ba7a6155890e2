"""A connection to the database as its administrator, or as an operator."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from schemas.errors import RetryableError, StartupError
from schemas.postgres_refusals import (
    ADMINISTRATOR,
    NOT_MIGRATED,
    Login,
    cause_of,
    is_not_migrated,
    login_refusal,
    start_refusal,
)
from schemas.postgres_session import pin_settings
from schemas.text_encoding import require_utf8
from schemas.urls import dsn_rule

Connection = asyncpg.Connection
_BROKEN_OFF: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # a server that shuts down
    asyncpg.InternalClientError,
)
LOCK_CONFLICTS = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""Errors of a transaction that may succeed once other sessions have released their locks."""


@asynccontextmanager
async def administrator(
    dsn: str, connect_timeout_s: float = 10, *, login: Login = ADMINISTRATOR
) -> AsyncIterator[Connection]:
    """Connect as the administrator, or with another `login`, for the length of a block.

    Raises RetryableError while the server is away, StartupError where it refuses us, its database is not UTF-8 or not migrated, or the
    login may not do what the block does.
    """
    connection = await _connected(dsn, connect_timeout_s, login)
    try:
        require_utf8(connection.get_settings())
        await pin_settings(connection)
        yield connection
    except asyncpg.ReadOnlySQLTransactionError:
        raise StartupError(
            f"The database is read-only to the {login.name}'s login: is it a standby, or is default_transaction_read_only set?"
        ) from None
    except _BROKEN_OFF as error:
        raise RetryableError(
            f"Postgres at {_address(dsn)} ended the session ({type(error).__name__}): try again."
        ) from None
    except asyncpg.PostgresError as error:
        refusal = NOT_MIGRATED if is_not_migrated(error) else login_refusal(error, login)
        if refusal is None:
            raise
        raise StartupError(refusal) from None
    finally:
        await connection.close()


async def _connected(dsn: str, timeout_s: float, login: Login) -> Connection:
    if rule := dsn_rule(dsn):
        raise StartupError(f"The {login.name}'s Postgres DSN cannot be read: {rule}.")
    try:
        return await asyncpg.connect(dsn, timeout=timeout_s)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if refusal := start_refusal(error, login):
            raise StartupError(refusal) from None
        if isinstance(error, FileNotFoundError):
            raise RetryableError(cause_of(error, login)) from None
        if isinstance(error, socket.gaierror):
            raise RetryableError(
                f"The name of Postgres' host, {_address(dsn)}, does not resolve: correct it in {login.setting}."
            ) from None
        raise RetryableError(f"Postgres does not answer at {_address(dsn)}: is it running there?") from None


def _address(dsn: str) -> str:
    """Return host and port of a DSN that can be read, the parts that hold no secret."""
    return urlsplit(dsn).netloc.rpartition("@")[2] or "its local socket"
