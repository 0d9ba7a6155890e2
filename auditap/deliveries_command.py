"""`auditap alerts deliveries`: which alerts were told where, and telling again what was given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click
import msgspec
from rich.console import Console
from rich.table import Table

from auditap.administer import as_administrator
from auditap.log_client import for_people, moment
from auditap.plain_text import plain
from schemas.identity import parse_rfc3339_ms

_STATES = ("due", "delivered", "dead")


@click.group()
def deliveries() -> None:
    """See which alerts were told where; tell again what was given up."""


@deliveries.command("list")
@click.option("--state", type=click.Choice([*_STATES, "all"]), default="dead", show_default=True)
@click.option("--channel", "channels", multiple=True, help="Only of this channel; repeat for several.")
@click.option("--since", default="7d", show_default=True, help="An RFC 3339 time, or 2h, 7d ago.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, as into a pipe.")
def deliveries_list(*, state: str, channels: Sequence[str], since: str, limit: int, as_json: bool) -> None:
    """List deliveries, of the newest alert first."""
    from auditap.database import WantedDeliveries, list_deliveries  # noqa: PLC0415  starts without its parts

    wanted = WantedDeliveries(
        state=None if state == "all" else state, channels=channels, since_ms=since_option_ms(since)
    )
    rows = as_administrator(lambda connection: list_deliveries(connection, wanted, limit))
    if not for_people(as_json=as_json):
        for row in rows:
            told = {
                **row,
                "alert_id": row["alert_id"].hex,
                "due_at": row["due_at"] if row["state"] == "due" else None,
            }
            click.echo(msgspec.json.encode(told).decode())
        return
    Console().print(_table(rows) if rows else "No deliveries.")


@deliveries.command("retry")
@click.argument("alert_ids", type=click.UUID, nargs=-1)
@click.option("--channel", "channels", multiple=True, help="Only of this channel; repeat for several.")
@click.option("--since", help="Only of alerts since then: an RFC 3339 time, or 2h, 7d ago.")
@click.option("--all", "every", is_flag=True, help="Every dead one.")
def deliveries_retry(
    *, alert_ids: Sequence[UUID], channels: Sequence[str], since: str | None, every: bool
) -> None:
    """Make dead deliveries due again; the watcher tells them, under the same idempotency key as before."""
    from auditap.database import WantedDeliveries, retry_deliveries  # noqa: PLC0415

    if every == bool(alert_ids or channels or since):
        raise click.UsageError("Say which: ids of alerts, --channel or --since; or --all.")
    since_ms = since_option_ms(since) if since else 0
    wanted = WantedDeliveries(alert_ids=alert_ids, channels=channels, since_ms=since_ms)
    click.echo(f"{as_administrator(lambda connection: retry_deliveries(connection, wanted))} due again")


def since_option_ms(text: str) -> int:
    """Return what an option says as Unix milliseconds. Raises click.UsageError."""
    found = parse_rfc3339_ms(moment(text, datetime.now(UTC)))
    if found is None:
        raise click.UsageError("A time is written as 2026-11-20T10:00:00Z, or as 2h, 7d ago.")
    return max(found, 0)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("alert", "channel", "state", "tried", "why not", "title", box=None, padding=(0, 2, 0, 0))
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
