"""`auditap query`: the log, a table for people and NDJSON for pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from auditap.log_client import Reading, cells, filters, for_people, moment, reading
from auditap.settings import load_settings

_PAGE_RECORDS_MAX = 1000


@click.command("query")
@click.argument("given", metavar="[FILTER=VALUE]...", nargs=-1)
@click.option("--account", help="Whose log; by default the example's of `auditap up`.")
@click.option("--since", default="24h", show_default=True, help="A date, an RFC 3339 time, or 2h, 7d ago.")
@click.option("--before", default="now", show_default=True, help="The same, or now.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--oldest-first", is_flag=True)
@click.option("--api", help="The log API, such as https://audit.internal/client/v4.")
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, as into a pipe.")
def query_command(
    *,
    given: tuple[str, ...],
    account: str | None,
    since: str,
    before: str,
    limit: int,
    oldest_first: bool,
    api: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Read the log. Filters are the log API's: action_type=delete, actor_email.not=me@example.com."""
    now = datetime.now(UTC)
    query = [
        *filters(given),
        ("since", moment(since, now)),
        # What is happening now is in it.
        ("before", moment(before, now + timedelta(seconds=1))),
        ("direction", "asc" if oldest_first else "desc"),
        ("limit", str(min(limit, _PAGE_RECORDS_MAX))),
    ]
    found = islice(_records(reading(load_settings(), account, api, token_file), query), limit)
    if not for_people(as_json=as_json):
        for record in found:
            sys.stdout.buffer.write(bytes(record) + b"\n")
        return
    table = Table("time", "action", "actor", "resource", "description", box=None, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True
    table.columns[0].min_width = len(
        "2026-11-20T10:00:00.000Z"
    )  # what the list is ordered by, and `--since` takes
    for record in found:
        table.add_row(*cells(msgspec.json.decode(record)))
    Console().print(table if table.row_count else "No records.")


def _records(source: Reading, query: list[tuple[str, str]]) -> Iterator[msgspec.Raw]:
    for page in source.pages(query):
        yield from page
