"""`auditap topics`."""

from __future__ import annotations

import asyncio
import sys

import click
from rich.console import Console
from rich.table import Table

from auditap.cli.startup import configured_settings
from auditap.runtime.kafka import topic_settings
from eventlog.kafka.topics import ensure_topics
from schemas.errors import StartupError


@click.command("topics")
def topics_command() -> None:
    """Create missing Kafka topics and check their settings."""
    settings = configured_settings()
    if settings.embedded_log:
        raise StartupError(
            "Set kafka.bootstrap_servers (AUDITAP_KAFKA__BOOTSTRAP_SERVERS): without it the log is embedded and has no topics."
        )
    report = asyncio.run(ensure_topics(topic_settings(settings.kafka)))
    table = Table("topic", "partitions", "replicas", "state")
    for topic in report.topics:
        state = "; ".join(topic.differences) or ("created" if topic.created else "as wanted")
        table.add_row(
            topic.name,
            str(topic.partitions),
            str(topic.replication_factor),
            f"[yellow]{state}[/yellow]" if topic.differences else f"[green]{state}[/green]",
        )
    Console().print(table)
    if not report.matches:
        sys.exit(1)
