"""`auditap replay`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from auditap.cli.startup import configured_settings
from auditap.plain_text import plain_line
from auditap.settings import DATA_DIR_HINT, Settings
from gateway_tap.replay import ReplayLimits, ReplayReport, replay
from schemas.errors import StartupError, refusal_text
from schemas.private_files import read_token

# For people; `--json` prints every refusal that the report holds.
_REFUSALS_SHOWN_MAX = 20


@click.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--to", "collector", help="unix:/path or http(s)://host:port.  [default: this host's collector]"
)
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--batch-pairs", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def replay_command(
    file: Path, collector: str | None, token_file: Path | None, batch_pairs: int, as_json: bool
) -> None:
    """Send a file of captures to a collector.

    FILE is NDJSON, which has one capture on each line, or a JSON array of captures, plain or compressed with gzip (.gz).
    """
    settings = configured_settings()
    to = collector or f"unix:{_own_socket(settings)}"
    token = read_token(token_file, "write the tap's token into it") if token_file else None
    with _progress(enabled=not as_json) as progress:
        task = progress.add_task("sending", total=None)

        def show(so_far: ReplayReport) -> None:
            progress.update(task, completed=so_far.accepted + so_far.refused)

        limits = ReplayLimits(batch_pairs_max=batch_pairs)
        report = uvloop.run(
            replay(
                file,
                to,
                token=token,
                plain_http_allowed=settings.plain_http_allowed,
                limits=limits,
                on_progress=show,
            )
        )
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        batches = "1 batch" if report.retried == 1 else f"{report.retried} batches"
        click.echo(f"{report.accepted} accepted, {report.refused} refused, {batches} sent again")
        for refusal in report.refusals[:_REFUSALS_SHOWN_MAX]:
            # Reason and path are what whoever answers at this address says.
            why = plain_line(refusal_text(refusal.reason, refusal.path))
            click.echo(f"  line {refusal.line}: {why}", err=True)
    if report.unknown_fields:
        click.echo(
            f"{_captures(report.unknown_fields, 'has', 'have')} unknown fields, which were ignored. The first is on line"
            f" {report.unknown_fields_line}: compare its names with schemas/capture.schema.json.",
            err=True,
        )
    if report.unrepeatable:
        click.echo(
            f"Sent again, {_captures(report.unrepeatable, 'becomes a second record', 'become second records')}. The first is"
            f" on line {report.unrepeatable_line}: give each an id, or captured_at with tap.seq or one x-request-id header.",
            err=True,
        )
    if report.refused:
        sys.exit(1)


def _captures(count: int, of_one: str, of_many: str) -> str:
    """Return how many captures do what the predicates say, in the right number."""
    return f"1 capture {of_one}" if count == 1 else f"{count} captures {of_many}"


def _own_socket(settings: Settings) -> Path:
    """Return the Unix socket of this host's collector. Raises StartupError where there is none."""
    path = settings.collector_socket.absolute()
    if not path.exists():
        raise StartupError(
            f"There is no collector at {path}: start one with `auditap up` or `auditap collect`, {DATA_DIR_HINT}, or give --to."
        )
    return path


def _progress(*, enabled: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not enabled,
    )
