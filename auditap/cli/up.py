"""`auditap up`."""

from __future__ import annotations

import click
import uvloop
from rich.console import Console

from auditap.runtime.descriptors import raise_descriptor_limit
from auditap.runtime.lifecycle import stop_on_signals
from auditap.runtime.logs import configure_logs
from auditap.runtime.up import up
from auditap.settings import load_settings


@click.command("up")
def up_command() -> None:
    """Run everything in one process, embedded.

    The event log is a SQLite file and the database an embedded Postgres, both in data_dir. Without OpenAPI documents
    of your own, an example API with some traffic runs beside it.
    """
    settings = load_settings()
    # The terminal is for the greeting, so only warnings are logged unless a level is set.
    level = settings.log_level if "log_level" in settings.model_fields_set else "warning"
    configure_logs(level, settings.log_format)
    raise_descriptor_limit()

    async def run() -> None:
        await up(settings, stop_on_signals(), Console())

    uvloop.run(run())
