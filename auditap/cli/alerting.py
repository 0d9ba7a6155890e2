"""`auditap alerting`."""

from __future__ import annotations

import click

from auditap.cli.startup import run_process
from auditap.runtime.alerting import AlertingProcess


@click.command("alerting")
def alerting_command() -> None:
    """Evaluate alert rules on the stream and deliver alerts."""
    run_process(lambda settings: AlertingProcess(settings).run)
