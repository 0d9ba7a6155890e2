"""`auditap alerts deliveries`: list the deliveries of alerts, and retry dead ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click
import msgspec
from rich.console import Console
from rich.table import Table

from auditap.cli.administration import as_administrator
from auditap.cli.log_client import is_interactive, parse_time
from auditap.cli.options import choice_option
from auditap.database.alerts import DeliveryFilter, list_deliveries, retry_deliveries
from auditap.plain_text import plain, print_json
from schemas.identity import parse_rfc3339_ms

_STATES = ("due", "delivered", "dead")


@click.group()
def deliveries() -> None:
    """List the deliveries of alerts; retry dead ones."""


@deliveries.command("list")
@choice_option("--state", [*_STATES, "all"], default="all")
@click.option(
    "--channel", "channels", multiple=True, help="Only deliveries on this channel; repeat for several."
)
@click.option(
    "--since",
    default="7d",
    show_default=True,
    help="Only of alerts since then: an RFC 3339 time, or an age such as 2h or 7d.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, the default for pipes.")
def deliveries_list(*, state: str, channels: Sequence[str], since: str, limit: int, as_json: bool) -> None:
    """List deliveries, those of the newest alert first."""
    wanted = DeliveryFilter(
        state=None if state == "all" else state, channels=channels, since_ms=since_option_ms(since)
    )
    rows = as_administrator(lambda connection: list_deliveries(connection, wanted, limit))
    if not is_interactive(as_json=as_json):
        for row in rows:
            shown = {
                **row,
                "alert_id": row["alert_id"].hex,
                "due_at": row["due_at"] if row["state"] == "due" else None,
            }
            print_json(msgspec.json.encode(shown))
        return
    Console().print(_table(rows) if rows else "No deliveries.")


@deliveries.command("retry")
@click.argument("alert_ids", type=click.UUID, nargs=-1)
@click.option(
    "--channel", "channels", multiple=True, help="Only deliveries on this channel; repeat for several."
)
@click.option("--since", help="Only of alerts since then: an RFC 3339 time, or an age such as 2h or 7d.")
@click.option("--all", "every", is_flag=True, help="All dead deliveries.")
def deliveries_retry(
    *, alert_ids: Sequence[UUID], channels: Sequence[str], since: str | None, every: bool
) -> None:
    """Make dead deliveries due again, under the same idempotency key as before."""
    if every == bool(alert_ids or channels or since):
        raise click.UsageError("Select deliveries by ids of alerts, --channel or --since, or pass --all.")
    since_ms = since_option_ms(since) if since else 0
    wanted = DeliveryFilter(alert_ids=alert_ids, channels=channels, since_ms=since_ms)
    click.echo(f"{as_administrator(lambda connection: retry_deliveries(connection, wanted))} due again")


def since_option_ms(text: str) -> int:
    """Return the time that an option names (RFC 3339, an age such as 2h, or `now`) in Unix ms. Raises click.UsageError."""
    found = parse_rfc3339_ms(parse_time(text, datetime.now(UTC)))
    if found is None:
        raise click.UsageError("A time is written as 2026-11-20T10:00:00Z, or as an age such as 2h or 7d.")
    return max(found, 0)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("alert", "channel", "state", "attempts", "outcome", "title", box=None, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(
            row["alert_id"].hex,
            plain(row["channel"]),
            row["state"],
            str(row["attempts"]),
            plain(row["outcome"] or ""),
            plain(row["title"]),
        )
    return table
