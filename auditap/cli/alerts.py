"""`auditap alerts`: list and acknowledge alerts, and manage their deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import click
import msgspec
from rich.console import Console
from rich.table import Table

from auditap.cli.administration import as_administrator, current_user
from auditap.cli.deliveries import deliveries, since_option_ms
from auditap.cli.log_client import is_interactive
from auditap.database.alerts import acknowledge_alert, list_alerts
from auditap.plain_text import plain, plain_line, print_json
from schemas.alert import alert_payload
from schemas.errors import StartupError

_STYLES = {"high": "bold red", "medium": "yellow", "low": "cyan", "info": "dim"}


@click.group()
def alerts() -> None:
    """List and acknowledge alerts; manage their deliveries."""


alerts.add_command(deliveries)


@alerts.command("list")
@click.option("--account", help="Only alerts of this account.")
@click.option(
    "--since",
    default="7d",
    show_default=True,
    help="Only alerts since then: an RFC 3339 time, or an age such as 2h or 7d.",
)
@click.option("--open", "open_only", is_flag=True, help="Only alerts that nobody has acknowledged.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, the default for pipes.")
def alerts_list(*, account: str | None, since: str, open_only: bool, limit: int, as_json: bool) -> None:
    """List alerts, newest first."""
    since_ms = since_option_ms(since)
    rows = as_administrator(
        lambda connection: list_alerts(connection, account, since_ms, limit, open_only=open_only)
    )
    payloads = [alert_payload(row) for row in rows]
    if not is_interactive(as_json=as_json):
        for payload in payloads:
            print_json(msgspec.json.encode(payload))
        return
    Console().print(alerts_table(payloads) if payloads else "No alerts.")


@alerts.command("ack")
@click.argument("alert_id", type=click.UUID)
@click.option("--by", "who", default=current_user, help="Who acknowledges; by default you.")
@click.option("--note", help="A remark that is stored with it.")
def alerts_ack(alert_id: UUID, who: str, note: str | None) -> None:
    """Acknowledge an alert. The first acknowledgement stays."""
    acknowledgement = as_administrator(lambda connection: acknowledge_alert(connection, alert_id, who, note))
    if acknowledgement is None:
        raise StartupError("There is no such alert: see `auditap alerts list`.")
    if acknowledgement.is_new:
        click.echo("acknowledged")
    else:
        by, at = plain_line(acknowledgement.by), acknowledgement.at
        click.echo(f"already acknowledged by {by} at {at:%Y-%m-%dT%H:%M:%SZ}")


def alerts_table(payloads: list[dict[str, Any]]) -> Table:
    """Return a table of alerts for people, one row each."""
    table = Table("window", "severity", "alert", "who", "id", box=None, padding=(0, 2, 0, 0))
    # Ids are for `alerts ack`: they stay whole, however narrow the terminal is.
    for column in (0, 4):
        table.columns[column].no_wrap = True
    for payload in payloads:
        severity = payload["severity"]
        acknowledged = " (acknowledged)" if payload.get("acknowledged") else ""
        table.add_row(
            payload["window"]["start"][:16],
            f"[{_STYLES[severity]}]{severity}[/]",
            plain(payload["title"] + acknowledged),
            plain(_who(payload["record"])),
            payload["id"],
        )
    return table


def _who(record: Mapping[str, Any]) -> str:
    actor = record.get("actor", {})
    return str(actor.get("email") or actor.get("id") or actor.get("type") or "")
