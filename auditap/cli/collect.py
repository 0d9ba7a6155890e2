"""`auditap collect`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import click

from auditap.cli.startup import run_process
from auditap.runtime.collect import Collector
from auditap.runtime.collector_workers import CollectorWorkers
from auditap.settings import Settings


@click.command("collect")
@click.option(
    "--workers",
    type=int,
    help="Processes that share the work, one for each core to use.  [default: collector.workers]",
)
def collect_command(workers: int | None) -> None:
    """Take captures from taps, redact them and publish events."""
    if workers is None:
        run_process(_run)
    else:
        run_process(_run, {"collector.workers": "--workers"}, collector={"workers": workers})


def _run(settings: Settings) -> Callable[[asyncio.Event], Awaitable[None]]:
    return (Collector(settings) if settings.collector.workers == 1 else CollectorWorkers(settings)).run
