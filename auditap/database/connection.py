"""A connection to the database as its administrator, or as an operator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from schemas.errors import RetryableError, StartupError
from schemas.postgres_refusals import session_refusal
from schemas.postgres_session import pin_settings
from schemas.text_encoding import require_utf8
from schemas.urls import dsn_rule

Connection = asyncpg.Connection
LOCK_CONFLICTS = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""Errors of a transaction that may succeed once other sessions have released their locks."""
# An older schema has no such table, column or function; an empty database has no such schema.
_NOT_MIGRATED: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
)


@asynccontextmanager
async def administrator(
    dsn: str, connect_timeout_s: float = 10, *, login: str = "administrator"
) -> AsyncIterator[Connection]:
    """Connect as the administrator for the length of a block. `login` is what errors call the login of the DSN.

    Raises RetryableError while the server is away, StartupError where it refuses us, its database is not UTF-8 or not migrated, or the
    login may not do what the block does.
    """
    if rule := dsn_rule(dsn):
        raise StartupError(f"The {login}'s Postgres DSN cannot be read: {rule}.")
    try:
        connection = await asyncpg.connect(dsn, timeout=connect_timeout_s)
    except ValueError as error:
        # A certificate that cannot be verified is a ValueError, too.
        raise StartupError(
            session_refusal(error) or f"The {login}'s Postgres DSN cannot be read: correct it."
        ) from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if refusal := session_refusal(error):
            raise StartupError(refusal) from None
        if isinstance(
            error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError
        ):
            raise StartupError(
                f"Postgres refuses the {login}'s login: check the user, password and database of the DSN."
            ) from None
        raise RetryableError(f"Postgres does not answer at {_address(dsn)}: is it running there?") from None
    try:
        require_utf8(connection.get_settings())
        await pin_settings(connection)
        yield connection
    except _NOT_MIGRATED:
        raise StartupError(
            "The database lacks a table or function of this version: run `auditap migrate`."
        ) from None
    except asyncpg.ReadOnlySQLTransactionError:
        raise StartupError(
            f"The database is read-only to the {login}'s login: is it a standby, or is default_transaction_read_only set?"
        ) from None
    except asyncpg.InsufficientPrivilegeError:
        raise StartupError(
            f"Postgres lets the {login}'s login in, but not do this: check the user of the DSN."
        ) from None
    finally:
        await connection.close()


def _address(dsn: str) -> str:
    """Return host and port of a DSN that can be read, the parts that hold no secret."""
    return urlsplit(dsn).netloc.rpartition("@")[2] or "its local socket"
