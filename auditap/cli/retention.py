"""`auditap retention`: show the partitions, and drop those that have expired."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from auditap.runtime.lifecycle import clock_ms
from auditap.runtime.logs import configure_logs
from auditap.settings import Settings, admin_dsn, load_settings
from ingestor.postgres_maintenance import PostgresMaintenance
from ingestor.retention import (
    PartitionInfo,
    Retainer,
    RetentionEvidence,
    RetentionRefused,
    plan_retention,
)
from schemas.identity import rfc3339_ms
from schemas.metric_defs import Metrics


@click.command("retention")
@click.option("--dry-run", is_flag=True, help="Only show what would be dropped.")
@click.option("--yes", is_flag=True, help="Drop it also where retention asks for a confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per partition.")
def retention_command(*, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Drop partitions older than the retention, and list all partitions.

    It drops nothing where the clocks and the newest receipt disagree, or where more records have expired than
    ingest.bounds.retention_share_max allows.
    """
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    passed = asyncio.run(_drop_expired(settings, dry_run=dry_run, confirmed=yes))
    dropped = "to be dropped" if dry_run else "dropped"
    before_ms = passed.evidence.before_ms
    rows = [(each, dropped if each.to_ms <= before_ms else "kept") for each in passed.partitions]
    if as_json:
        for each, state in rows:
            click.echo(json.dumps({**each._asdict(), "state": state}))
    else:
        Console().print(_table(rows))
        click.echo(f"expired: everything before {rfc3339_ms(before_ms)}")
    if passed.refused is not None:
        click.echo(f"auditap retention would drop nothing. {passed.refused}", err=True)


class _Pass(NamedTuple):
    """The partitions that there were before a pass, what it decided by, and why it would be refused."""

    partitions: Sequence[PartitionInfo]
    evidence: RetentionEvidence
    refused: RetentionRefused | None = None


def _table(rows: Sequence[tuple[PartitionInfo, str]]) -> Table:
    table = Table("partition", "from", "to", "rows", "MB", "state")
    for each, state in rows:
        table.add_row(
            each.child,
            rfc3339_ms(each.from_ms)[:16],
            rfc3339_ms(each.to_ms)[:16],
            f"{each.rows:,}",
            f"{each.size_bytes / 1e6:,.1f}",
            state if state == "kept" else f"[yellow]{state}[/yellow]",
        )
    return table


async def _drop_expired(settings: Settings, *, dry_run: bool, confirmed: bool) -> _Pass:
    """Drop expired partitions unless `dry_run`. Raises StartupError, RetryableError, RetentionRefused."""
    given, ingest = settings.postgres.maintainer_dsn, settings.ingest
    dsn = given.get_secret_value() if given else admin_dsn(settings)
    retainer = Retainer(
        maintenance=PostgresMaintenance(dsn, ingest.retention.lock_wait_ms_max),
        config=ingest.retention,
        keep_days=ingest.bounds.retention_days,
        share_max=ingest.bounds.retention_share_max,
        metrics=Metrics(),
        clock_ms=clock_ms,
    )
    evidence, found = await retainer.look()
    try:
        expired = plan_retention(evidence, found, ingest.bounds.retention_share_max, confirmed=confirmed)
    except RetentionRefused as refused:
        if not dry_run:
            raise
        return _Pass(found, evidence, refused)
    if not dry_run:
        await retainer.drop(expired, evidence.before_ms, asyncio.Event())
    return _Pass(found, evidence)
