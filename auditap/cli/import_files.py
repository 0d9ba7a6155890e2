"""`auditap import`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from auditap.cli.sending import Sending, print_counts, print_refusals, sending_options
from auditap.plain_text import counted, plain_line
from gateway_tap.formats.port import NoPair
from gateway_tap.replay import ReplayLimits, ReplayReport, import_file
from gateway_tap.traffic_file import read_captures
from schemas.errors import RefusedCapture


@click.command("import")
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--to-captures", is_flag=True, help="Print the captures as NDJSON, and send nothing.")
@sending_options
def import_command(
    *,
    files: Sequence[Path],
    to_captures: bool,
    collector: str | None,
    token_file: Path | None,
    batch_pairs: int,
    as_json: bool,
) -> None:
    """Send the traffic in files of other tools to a collector.

    FILE is a HAR file, as browsers and proxies export them, or a flow file of mitmproxy, plain or compressed with gzip. Entries
    without a complete HTTP pair, such as WebSockets, are skipped. Importing a file again adds nothing. To see first what would
    be recorded, pipe `auditap import --to-captures FILE` into `auditap redact` or `auditap explain`.
    """
    if to_captures:
        _print_captures(files)
        return
    sending = Sending.by_options(collector, token_file, batch_pairs)
    refused = 0
    for file in files:
        name = plain_line(str(file))
        report = sending.send(import_file, file, description=name, progress_shown=not as_json)
        refused += report.refused
        if as_json:
            click.echo(json.dumps({"file": str(file), **asdict(report)}))
        else:
            print_counts(report, of=f"{name}: " if len(files) > 1 else "")
            print_refusals(report, "entry")
    if refused:
        sys.exit(1)


def _print_captures(files: Sequence[Path]) -> None:
    output = click.get_binary_stream("stdout")
    report = ReplayReport()

    def refuse(number: int, reason: RefusedCapture) -> None:
        if isinstance(reason, NoPair):
            report.skipped += 1
        else:
            report.refused += 1
            click.echo(f"entry {number}: {reason}", err=True)

    for file in files:
        for line in read_captures(file, ReplayLimits().line_bytes_max, refuse):
            output.write(line.text + b"\n")
            report.accepted += 1
    output.flush()
    click.echo(
        f"{counted(report.accepted, 'capture')}, {report.refused} refused, {report.skipped} skipped", err=True
    )
    if report.refused:
        sys.exit(1)
