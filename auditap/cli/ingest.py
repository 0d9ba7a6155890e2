"""`auditap ingest`."""

from __future__ import annotations

import click

from auditap.cli.startup import run_process
from auditap.runtime.ingest import IngestorProcess


@click.command("ingest")
def ingest_command() -> None:
    """Build records from events and store them."""
    run_process(lambda settings: IngestorProcess(settings).run)
