"""`auditap replay`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from auditap.cli.sending import Sending, print_counts, print_refusals, sending_options
from auditap.plain_text import counted
from gateway_tap.replay import replay


@click.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@sending_options
def replay_command(
    file: Path, collector: str | None, token_file: Path | None, batch_pairs: int, as_json: bool
) -> None:
    """Send a file of captures to a collector.

    FILE is NDJSON, which has one capture on each line, or a JSON array of captures, plain or compressed with gzip (.gz).
    """
    sending = Sending.by_options(collector, token_file, batch_pairs)
    report = sending.send(replay, file, progress_shown=not as_json)
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        print_counts(report)
        print_refusals(report, "line")
    if report.unknown_fields:
        click.echo(
            f"{counted(report.unknown_fields, 'capture has', 'captures have')} unknown fields, which were ignored. The first is on line"
            f" {report.unknown_fields_line}: compare its names with schemas/capture.schema.json.",
            err=True,
        )
    if report.unrepeatable:
        click.echo(
            f"Sent again, {counted(report.unrepeatable, 'capture becomes a second record', 'captures become second records')}. The first is"
            f" on line {report.unrepeatable_line}: give each an id, or captured_at with tap.seq or one x-request-id header.",
            err=True,
        )
    if report.refused:
        sys.exit(1)
