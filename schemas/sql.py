"""The SQL files: ordered migrations and named queries. Each file begins with a comment that says what it does."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Migration(NamedTuple):
    """One step of the database's schema. Numbers count from 1 without gaps."""

    number: int
    name: str
    statements: str


@cache
def migrations() -> tuple[Migration, ...]:
    """Return all migrations in order."""
    found = sorted(
        (entry for entry in files("schemas").joinpath("migrations").iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return tuple(
        Migration(int(entry.name[:4]), entry.name.removesuffix(".sql"), entry.read_text("utf-8"))
        for entry in found
    )


@cache
def query(name: str) -> str:
    """Return the text of `queries/<name>.sql`."""
    return files("schemas").joinpath("queries", f"{name}.sql").read_text("utf-8")
