"""`auditap alerts`: list and acknowledge what the watcher raised, and see to its deliveries."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import click
import msgspec
from rich.console import Console
from rich.table import Table

from auditap.administer import as_administrator
from auditap.deliveries_command import deliveries, since_option_ms
from auditap.log_client import for_people
from auditap.plain_text import plain, plain_line
from schemas.alert import alert_document
from schemas.errors import StartupError

_STYLES = {"high": "bold red", "medium": "yellow", "low": "cyan", "info": "dim"}


@click.group()
def alerts() -> None:
    """List and acknowledge alerts; see to their deliveries."""


alerts.add_command(deliveries)


@alerts.command("list")
@click.option("--account", help="Only this account's.")
@click.option("--since", default="7d", show_default=True, help="An RFC 3339 time, or 2h, 7d ago.")
@click.option("--open", "open_only", is_flag=True, help="Only what nobody has acknowledged.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, as into a pipe.")
def alerts_list(*, account: str | None, since: str, open_only: bool, limit: int, as_json: bool) -> None:
    """List alerts, newest first."""
    from auditap.database import list_alerts  # noqa: PLC0415  the command line starts without its parts

    since_ms = since_option_ms(since)
    rows = as_administrator(
        lambda connection: list_alerts(connection, account, since_ms, limit, open_only=open_only)
    )
    documents = [alert_document(row) for row in rows]
    if not for_people(as_json=as_json):
        for document in documents:
            click.echo(msgspec.json.encode(document).decode())
        return
    Console().print(alerts_table(documents) if documents else "No alerts.")


@alerts.command("ack")
@click.argument("alert_id", type=click.UUID)
@click.option("--by", "who", default=getpass.getuser, help="Who has seen it; by default you.")
@click.option("--note", help="What is to be known of it.")
def alerts_ack(alert_id: UUID, who: str, note: str | None) -> None:
    """Acknowledge an alert; the first who does stays."""
    from auditap.database import acknowledge_alert  # noqa: PLC0415

    seen = as_administrator(lambda connection: acknowledge_alert(connection, alert_id, who, note))
    if seen is None:
        raise StartupError("There is no such alert: see `auditap alerts list`.")
    if seen.is_new:
        click.echo("acknowledged")
    else:
        click.echo(f"already acknowledged by {plain_line(seen.by)} at {seen.at:%Y-%m-%dT%H:%M:%SZ}")


def alerts_table(documents: list[dict[str, Any]]) -> Table:
    """Return alerts as people read them."""
    table = Table("window", "severity", "alert", "who", "id", box=None, padding=(0, 2, 0, 0))
    for column in (0, 4):  # the id is what `alerts ack` takes: whole, however narrow the terminal is
        table.columns[column].no_wrap = True
    for document in documents:
        severity = document["severity"]
        seen = " (acknowledged)" if document.get("acknowledged") else ""
        table.add_row(
            document["window"]["start"][:16],
            f"[{_STYLES[severity]}]{severity}[/]",
            plain(document["title"] + seen),
            plain(_who(document["record"])),
            document["id"],
        )
    return table


def _who(record: Mapping[str, Any]) -> str:
    actor = record.get("actor", {})
    return str(actor.get("email") or actor.get("id") or actor.get("type") or "")
