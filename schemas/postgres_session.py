"""What every session with auditap's database needs, whatever was set for the database or the login (`ALTER ROLE … SET`)."""

from __future__ import annotations

from typing import Any, Final, Protocol

from schemas.errors import StartupError
from schemas.postgres_refusals import NO_PRIVILEGE, Login

SESSION_SETTINGS: Final[dict[str, str]] = {
    # Offsets are committed after records: where a commit were not on disk, a crash of the server would lose them.
    "synchronous_commit": "on",
    # What has waited for a lock must read what its holder stored.
    "default_transaction_isolation": "read committed",
    # Every statement names its schema; functions and operators are Postgres' own.
    "search_path": "pg_catalog, pg_temp",
    "standard_conforming_strings": "on",
    # The client has time limits of its own. Counting a partition, or a migration, may take longer than a general limit.
    "statement_timeout": "0",
}

_IF_THERE: Final[dict[str, str]] = {
    # Since Postgres 17. It would end a migration, or the counting of a partition.
    "transaction_timeout": "0",
}
_OF_OWN_CONNECTIONS: Final = SESSION_SETTINGS | _IF_THERE


class Session(Protocol):
    """A connection that can execute a statement."""

    async def execute(self, query: str, *args: object) -> str:
        """Execute a statement."""

    async def fetchval(self, query: str, *args: object) -> Any:
        """Return the first value of the first row."""


async def has_privilege(session: Session, login: Login, table: str, privilege: str) -> bool:
    """Return whether the login has a privilege that its task needs. Raises Postgres' error where there is no such table.

    Raises StartupError if it has not and is not the user that it has to be. The right user may get it at any time, by a
    migration.
    """
    is_right_user = await session.fetchval("SELECT current_user") == login.user
    try:
        statement = "SELECT pg_catalog.has_table_privilege($1::pg_catalog.text, $2::pg_catalog.text)"
        if await session.fetchval(statement, table, privilege):
            return True
    except Exception as error:
        # Also where the login may not look into the schema.
        if not is_right_user or getattr(error, "sqlstate", None) != NO_PRIVILEGE:
            raise
    if not is_right_user:
        raise StartupError(login.privilege_refusal)
    return False


async def pin_settings(session: Session) -> None:
    """Set SESSION_SETTINGS for a connection of its own. A pool, which resets sessions, sends them when it connects."""
    await session.execute(
        "SELECT pg_catalog.set_config(name, value, false) FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]),"
        " pg_catalog.unnest($2::pg_catalog.text[])) AS given (name, value)"
        " WHERE pg_catalog.current_setting(name, true) IS NOT NULL",
        list(_OF_OWN_CONNECTIONS),
        list(_OF_OWN_CONNECTIONS.values()),
    )
