"""`auditap query`: reads the log, as a table on a terminal and as NDJSON in a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from auditap.cli.log_client import (
    LogReader,
    is_interactive,
    parse_filters,
    reading_the_log,
    request_cells,
    table_cells,
    time_range,
)
from auditap.cli.options import number_option
from auditap.plain_text import print_json

# The maximum of `limit` in the OpenAPI document of the log API.
_PAGE_RECORDS_MAX = 1000
_RECORD_COLUMNS = ("time", "action", "actor", "resource", "description")
_REQUEST_COLUMNS = ("time", "user", "method", "host", "uri", "status", "bytes", "ms")
_FACTS = tuple(_REQUEST_COLUMNS.index(name) for name in ("host", "bytes", "ms"))


@click.command("query")
@click.argument("filters", metavar="[FILTER=VALUE]...", nargs=-1)
@reading_the_log()
@click.option("--since", default="24h", show_default=True, help="A date, an RFC 3339 time, or 2h, 7d ago.")
@click.option("--before", default="now", show_default=True, help="The same, or now.")
@number_option("--limit", default=50)
@click.option("--oldest-first", is_flag=True)
@click.option("--requests", is_flag=True, help="Show the log's requests, one line each.")
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, as in a pipe.")
def query_command(
    *,
    source: LogReader,
    filters: tuple[str, ...],
    since: str,
    before: str,
    limit: int,
    oldest_first: bool,
    requests: bool,
    as_json: bool,
) -> None:
    """Read the log. Filters are the log API's: action_type=delete, actor_email.not=me@example.com."""
    query = [
        *parse_filters(filters),
        *time_range(since, before),
        ("direction", "asc" if oldest_first else "desc"),
        ("limit", str(min(limit, _PAGE_RECORDS_MAX))),
    ]
    if requests:
        source = source.of_requests()
    found = islice(_records(source, query), limit)
    if not is_interactive(as_json=as_json):
        for record in found:
            print_json(bytes(record))
        return
    rows = [(request_cells if requests else table_cells)(record) for record in found]
    _print_table(rows, requests=requests)


def _print_table(rows: Sequence[Sequence[Text]], *, requests: bool) -> None:
    columns = _REQUEST_COLUMNS if requests else _RECORD_COLUMNS
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True
    # Times stay whole on narrow terminals: they order the list, and `--since` accepts them.
    table.columns[0].min_width = len("2026-11-20T10:00:00.000Z")
    for row in rows:
        table.add_row(*row)
    if requests and rows and not any(row[place].plain for row in rows for place in _FACTS):
        click.echo("Host, bytes and ms are recorded with redaction.exchange_facts_kept = true.", err=True)
    Console().print(table if table.row_count else f"No {'requests' if requests else 'records'}.")


def _records(source: LogReader, query: list[tuple[str, str]]) -> Iterator[msgspec.Raw]:
    for page in source.pages(query):
        yield from page
