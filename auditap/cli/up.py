"""`auditap up`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import uvloop
from rich.console import Console

from auditap.cli.preview import document_at
from auditap.runtime.descriptors import raise_descriptor_limit
from auditap.runtime.lifecycle import stop_on_signals
from auditap.runtime.logs import configure_logs
from auditap.runtime.up import up
from auditap.settings import Settings, load_settings


@click.command("up")
@click.option(
    "--spec",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The OpenAPI document of your service.  [default: those in the settings]",
)
@click.option(
    "--upstream",
    metavar="URL",
    help="Address of your service, such as http://127.0.0.1:3000: a gateway with a tap runs in front of it.",
)
def up_command(spec: Path | None, upstream: str | None) -> None:
    """Run everything in one process, embedded.

    The event log is a SQLite file and the database an embedded Postgres, both in data_dir. With --spec and --upstream, a
    gateway in front of your service records what is called through it. With --spec alone, it waits for a tap of yours. With
    neither, an example API with some traffic runs beside it.
    """
    settings = _settings(spec, upstream)
    # The terminal is for the greeting, so only warnings are logged unless a level is set.
    level = settings.log_level if "log_level" in settings.model_fields_set else "warning"
    configure_logs(level, settings.log_format)
    raise_descriptor_limit()

    async def run() -> None:
        await up(settings, stop_on_signals(), Console())

    uvloop.run(run())


def _settings(spec: Path | None, upstream: str | None) -> Settings:
    """Return the settings with what the options name. Raises StartupError."""
    if upstream is None:
        settings = load_settings()
    else:
        settings = load_settings({"up.upstream": "--upstream"}, up={"upstream": upstream})
    if spec is None:
        return settings
    redaction = replace(settings.redaction, documents=(document_at(settings.redaction, spec),))
    return settings.model_copy(update={"redaction": redaction})
