"""What each role may do: by the catalogue, and by trying it.

`python -m tests.role_powers` prints the table that ARCHITECTURE.md has.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import asyncpg

from auditap.database.connection import administrator
from auditap.database.roles import ROLES
from auditap.runtime.embedded_postgres import EmbeddedPostgres
from tests.audit_database import migrated

BEGIN, END = "<!-- role powers -->\n", "<!-- end of role powers -->\n"
_COLUMN_STATEMENTS = {
    "SELECT": "SELECT {column} FROM {table} LIMIT 0",
    "INSERT": "INSERT INTO {table} ({column}) VALUES (DEFAULT)",
    "UPDATE": "UPDATE {table} SET {column} = DEFAULT WHERE false",
}
_TABLE_STATEMENTS = {"DELETE": "DELETE FROM {table} WHERE false", "TRUNCATE": "TRUNCATE {table}"}
_CALL = "CALL"
# Refused before rights are looked at, such as a change of a view.
_IMPOSSIBLE = (
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.WrongObjectTypeError,
)


class Power(NamedTuple):
    """One thing that a role may do. `column` is empty for what concerns a whole table or a function."""

    role: str
    thing: str
    act: str
    column: str = ""


class Things(NamedTuple):
    """Tables and views with their columns, partitions included, and calls of functions with NULL for each argument."""

    columns: Mapping[str, list[str]]
    calls: Mapping[str, str]


async def things(admin: asyncpg.Connection) -> Things:
    """Return everything in the schema."""
    columns: dict[str, list[str]] = defaultdict(list)
    for row in await admin.fetch(
        "SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'auditap'::regnamespace AND c.relkind IN ('r', 'p', 'v')"
        " AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum"
    ):
        columns[row["relname"]].append(row["attname"])
    calls = {
        f"{row['proname']}()": f"SELECT auditap.{row['proname']}({row['arguments'] or ''})"
        for row in await admin.fetch(
            "SELECT p.proname, (SELECT string_agg('NULL::' || format_type(t, NULL), ', ' ORDER BY place)"
            " FROM unnest(p.proargtypes) WITH ORDINALITY AS given (t, place)) AS arguments"
            " FROM pg_proc AS p WHERE p.pronamespace = 'auditap'::regnamespace ORDER BY p.proname"
        )
    }
    return Things(dict(columns), calls)


async def granted(admin: asyncpg.Connection, all_things: Things) -> set[Power]:
    """Return what the catalogue says that the roles may do, by membership in another role or PUBLIC too."""
    powers = set()
    for role in ROLES:
        for table, columns in all_things.columns.items():
            name = f"auditap.{table}"
            for act in _TABLE_STATEMENTS:
                if await admin.fetchval("SELECT has_table_privilege($1, $2, $3)", role, name, act):
                    powers.add(Power(role, table, act))
            for act in _COLUMN_STATEMENTS:
                statement = (
                    "SELECT c FROM unnest($3::text[]) AS c WHERE has_column_privilege($1::name, $2, c, $4)"
                )
                for row in await admin.fetch(statement, role, name, columns, act):
                    powers.add(Power(role, table, act, row["c"]))
        for row in await admin.fetch(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'auditap'::regnamespace"
            " AND has_function_privilege($1::name, oid, 'EXECUTE')",
            role,
        ):
            powers.add(Power(role, f"{row['proname']}()", _CALL))
    return powers


async def tried(dsn: str, role: str, all_things: Things) -> set[Power]:
    """Return what a login of the role could do when it tried everything. Nothing is kept."""
    connection = await asyncpg.connect(dsn)
    powers = set()
    try:
        for table, columns in all_things.columns.items():
            for act, statement in _TABLE_STATEMENTS.items():
                if await _may(connection, statement.format(table=f"auditap.{table}")):
                    powers.add(Power(role, table, act))
            for act, statement in _COLUMN_STATEMENTS.items():
                for column in columns:
                    if await _may(
                        connection, statement.format(table=f"auditap.{table}", column=f'"{column}"')
                    ):
                        powers.add(Power(role, table, act, column))
        for name, call in all_things.calls.items():
            if await _may(connection, call):
                powers.add(Power(role, name, _CALL))
    finally:
        await connection.close()
    return powers


async def _may(connection: asyncpg.Connection, statement: str) -> bool:
    """Whether the rights allow a statement, whatever else is wrong with it."""
    attempt = connection.transaction()
    await attempt.start()
    try:
        await connection.execute(statement)
    except (asyncpg.InsufficientPrivilegeError, *_IMPOSSIBLE):
        return False
    except asyncpg.PostgresError:
        return True
    else:
        return True
    finally:
        await attempt.rollback()


def table_of(powers: Iterable[Power], all_things: Things) -> str:
    """Return the powers as a Markdown table. The operator's are those that it has beyond the writer's."""
    held: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    of_writer = {power[1:] for power in powers if power.role == "auditap_writer"}
    for power in sorted(powers):
        if power.role != "auditap_operator" or power[1:] not in of_writer:
            held[power.thing, power.role][power.act].append(power.column)
    names = [*all_things.columns, *all_things.calls]
    shown = [name for name in names if any((name, role) in held for role in ROLES)]
    lines = ["| | " + " | ".join(f"`{role}`" for role in ROLES) + " |", "| --- " * (len(ROLES) + 1) + "|"]
    for name in shown:
        cells = [_cell(held.get((name, role), {}), all_things.columns.get(name, [])) for role in ROLES]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    rest = ", ".join(f"`{name}`" for name in names if name not in shown)
    return "\n".join([*lines, "", f"The owner alone: {rest}.", ""])


def _cell(acts: Mapping[str, list[str]], columns: list[str]) -> str:
    parts = []
    for act in (*_COLUMN_STATEMENTS, *_TABLE_STATEMENTS, _CALL):
        if act not in acts:
            continue
        among = [column for column in columns if column in acts[act]]
        is_whole = act not in _COLUMN_STATEMENTS or len(among) == len(columns)
        parts.append(act.lower() if is_whole else f"{act.lower()} ({', '.join(among)})")
    return "; ".join(parts)


async def _print_table() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres") as server:
            database = await migrated(server.dsn())
            async with administrator(database.admin_dsn) as admin:
                all_things = await things(admin)
                print(table_of(await granted(admin, all_things), all_things))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(_print_table())
