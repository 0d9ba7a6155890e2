"""What a case is, and the servers and the folder that it runs with."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg

from tests.audit_database import drop_database


class Bench(NamedTuple):
    """What a case runs with: the folder of its inputs, an empty folder, and the addresses of a Postgres (as superuser) and a Kafka."""

    inputs: Path
    scratch: Path
    postgres: str
    kafka: str


@dataclass(frozen=True)
class Case:
    """One folder. `see` runs its inputs and says what happens, in the words of `expected` if all is well."""

    folder: str
    expected: str
    see: Callable[[Bench], Awaitable[str]]
    tests: tuple[str, ...]
    """The tests of the suite that show the same with inputs of their own: `file::function`, below tests/."""


@asynccontextmanager
async def database(postgres: str, options: str = "") -> AsyncIterator[str]:
    """Yield the superuser's address of a new, empty database; `options` are those of CREATE DATABASE."""
    name = f"case_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(f"CREATE DATABASE {name} {options}")
        yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        await drop_database(connection, name)
    finally:
        await connection.close()


def counted(number: int, of: int, what: str) -> str:
    """Return such as "27 of 27 in the account's list"."""
    return f"{number} of {of} {what}"
