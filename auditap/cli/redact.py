"""`auditap redact`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from auditap.cli.preview import Preview, spec_options
from auditap.plain_text import print_json
from redactor.pipeline.redactor import redact_lines
from schemas.errors import RefusedCapture


@click.command("redact")
@spec_options
@click.argument("captures", type=click.File("rb"), default="-")
def redact_command(spec: Path | None, envelope: str | None, captures: BinaryIO) -> None:
    """Redact captures as a collector with the same settings does, ids included.

    CAPTURES is NDJSON or a JSON array, plain or compressed with gzip; standard input by default. Prints one audit event for
    each capture, in order.
    """
    preview = Preview.load(spec, envelope)
    number = refused = 0

    def refuse(line: int, reason: RefusedCapture) -> None:
        nonlocal refused
        refused += 1
        click.echo(f"line {line}: {reason}", err=True)

    def texts() -> Iterator[bytes]:
        nonlocal number
        for line in preview.captures(captures, refuse):
            number = line.number
            yield line.text

    events = redact_lines(
        preview.redactor, texts(), lambda _, reason: refuse(number, reason), preview.identity_key
    )
    for event in events:
        print_json(event)
    if refused:
        sys.exit(1)
