"""`auditap retention`: what of the log is kept, and dropping what is not."""

from __future__ import annotations

import asyncio
import json

import click
from rich.console import Console
from rich.table import Table

from auditap.logs import configure_logs
from auditap.settings import Settings, admin_dsn, load_settings
from ingestor.retention import PartitionInfo
from schemas.identity import rfc3339_ms


@click.command("retention")
@click.option("--dry-run", is_flag=True, help="Drop nothing; show what would be dropped.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a partition.")
def retention_command(*, dry_run: bool, as_json: bool) -> None:
    """Drop what of the log is older than the retention, and show what there is."""
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    found, since_ms = asyncio.run(_kept_to(settings, dry_run=dry_run))
    done = "to be dropped" if dry_run else "dropped"
    rows = [(each, done if each.to_ms <= since_ms else "kept") for each in found]
    if as_json:
        for each, state in rows:
            click.echo(json.dumps({**each._asdict(), "state": state}))
        return
    table = Table("partition", "from", "to", "rows", "MB", "state")
    for each, state in rows:
        table.add_row(
            each.child,
            rfc3339_ms(each.from_ms)[:16],
            rfc3339_ms(each.to_ms)[:16],
            "?" if each.rows_estimated < 0 else f"{each.rows_estimated:,}",
            f"{each.size_bytes / 1e6:,.1f}",
            state if state == "kept" else f"[yellow]{state}[/yellow]",
        )
    Console().print(table)
    click.echo(f"nothing before {rfc3339_ms(since_ms)} is kept")


async def _kept_to(settings: Settings, *, dry_run: bool) -> tuple[list[PartitionInfo], int]:
    """Return the partitions that there were, and before which time nothing is kept; drop it unless `dry_run`.

    Raises StartupError, RetryableError.
    """
    from ingestor.postgres_maintenance import PostgresMaintenance  # noqa: PLC0415  asyncpg is not needed to start
    from ingestor.retention import Retainer  # noqa: PLC0415
    from schemas.metric_defs import Metrics  # noqa: PLC0415

    given, ingest = settings.postgres.maintainer_dsn, settings.ingest
    dsn = given.get_secret_value() if given else admin_dsn(settings)
    maintenance = PostgresMaintenance(dsn, ingest.retention.lock_wait_ms_max)
    keep_days = ingest.bounds.retention_days
    since_ms = await maintenance.kept_since_ms(keep_days)
    found = list(await maintenance.partitions())
    if not dry_run:
        retainer = Retainer(
            maintenance=maintenance, config=ingest.retention, keep_days=keep_days, metrics=Metrics()
        )
        await retainer.pass_over(asyncio.Event())
    return found, since_ms
