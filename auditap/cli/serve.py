"""`auditap serve`."""

from __future__ import annotations

import click

from auditap.cli.startup import run_process
from auditap.runtime.serve import LogApiProcess


@click.command("serve")
def serve_command() -> None:
    """Serve the log API."""
    run_process(lambda settings: LogApiProcess(settings).run)
