"""`auditap collect`."""

from __future__ import annotations

import click

from auditap.cli.startup import run_process
from auditap.runtime.collect import Collector


@click.command("collect")
def collect_command() -> None:
    """Take captures from taps, redact them and publish events."""
    run_process(lambda settings: Collector(settings).run)
