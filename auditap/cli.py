"""The command line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import click
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from auditap.alerts_command import alerts
from auditap.completeness_command import completeness_command
from auditap.dead_letters_command import dead_letters
from auditap.explain_command import explain_command
from auditap.lint_command import lint_command
from auditap.logs import configure_logs, guard_last_resorts
from auditap.query_command import query_command
from auditap.retention_command import retention_command
from auditap.rules_command import rules
from auditap.settings import ANOTHER_FOLDER, Settings, admin_dsn, load_settings
from auditap.tail_command import tail_command
from auditap.tokens_command import tokens
from schemas.errors import AuditapError, RefusedCapture, StartupError

_REFUSALS_SHOWN_MAX = 20


def main() -> None:
    """Run the command; a wrong setting or a part that is away ends it with a sentence and exit code 1."""
    # Before any command: logs that nobody configured would show tracebacks with the values in them.
    configure_logs("info", "auto")
    guard_last_resorts()
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except AuditapError as error:
        click.secho("auditap: ", fg="red", nl=False, err=True)
        click.echo(str(error), err=True)
        sys.exit(1)


def _version() -> str:
    found = find_spec("redactor.fast_path")
    is_compiled = found is not None and not (found.origin or "").endswith(".py")
    return version("auditap") + (", compiled" if is_compiled else "")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="auditap")
def cli() -> None:
    """Take an API's audit log at its gateway: exactly what the OpenAPI document marks x-auditable."""


@cli.command("up")
def up_command() -> None:
    """Run everything here, embedded."""
    from auditap.up import up  # noqa: PLC0415  each command imports its own part, so that all start quickly
    from auditap.waiting import stop_on_signals  # noqa: PLC0415

    settings = load_settings()
    # The terminal is for the greeting; whoever wants to read along sets the level.
    level = settings.log_level if "log_level" in settings.model_fields_set else "warning"
    configure_logs(level, settings.log_format)

    async def run() -> None:
        await up(settings, stop_on_signals(), Console())

    uvloop.run(run())


@cli.command()
def collect() -> None:
    """Take captures from taps, redact them and publish events."""
    from auditap.collect import Collector  # noqa: PLC0415

    _run_process(lambda settings: Collector(settings).run)


@cli.command()
def ingest() -> None:
    """Build records from events and store them."""
    from auditap.ingest import IngestorProcess  # noqa: PLC0415

    _run_process(lambda settings: IngestorProcess(settings).run)


@cli.command()
def serve() -> None:
    """Answer queries: the log API."""
    from auditap.serve import LogApiProcess  # noqa: PLC0415

    _run_process(lambda settings: LogApiProcess(settings).run)


@cli.command()
def watch() -> None:
    """Watch the stream by rules, store alerts and tell them."""
    from auditap.watch import WatchProcess  # noqa: PLC0415

    _run_process(lambda settings: WatchProcess(settings).run)


@cli.command()
@click.option("--spec", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--envelope", help="The property of responses that is recorded in their place, such as result.")
@click.argument("captures", type=click.File("rb"), default="-")
def redact(spec: Path, envelope: str | None, captures: IO[bytes]) -> None:
    """Redact CAPTURES (NDJSON, or standard input) by a document: one audit event per line, in order."""
    from redactor.config import DocumentConfig, RedactionConfig  # noqa: PLC0415
    from redactor.redact import Redactor, redact_lines  # noqa: PLC0415

    redactor = Redactor.from_config(RedactionConfig(documents=(DocumentConfig(spec, envelope=envelope),)))
    refused = 0

    def on_refused(index: int, reason: RefusedCapture) -> None:
        nonlocal refused
        refused += 1
        click.echo(f"line {index + 1}: {reason}", err=True)

    for event in redact_lines(redactor, captures, on_refused):
        sys.stdout.buffer.write(event + b"\n")
    if refused:
        sys.exit(1)


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--to", "collector", help="unix:/path or http(s)://host:port; by default this host's Unix socket."
)
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--batch-pairs", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def replay(
    file: Path, collector: str | None, token_file: Path | None, batch_pairs: int, as_json: bool
) -> None:
    """Send the captures of FILE (NDJSON, plain or .gz) to a collector."""
    from gateway_tap.replay import ReplayLimits, ReplayReport  # noqa: PLC0415
    from gateway_tap.replay import replay as send  # noqa: PLC0415

    to = collector or f"unix:{_own_socket(_settings())}"
    token = token_file.read_text().strip() if token_file else None
    with _progress(enabled=not as_json) as progress:
        task = progress.add_task("sending", total=None)

        def show(so_far: ReplayReport) -> None:
            progress.update(task, completed=so_far.accepted + so_far.refused)

        limits = ReplayLimits(batch_pairs_max=batch_pairs)
        report = uvloop.run(send(file, to, token=token, limits=limits, on_progress=show))
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        click.echo(
            f"{report.accepted} accepted, {report.refused} refused, {report.retried} batches sent again"
        )
        for refusal in report.refusals[:_REFUSALS_SHOWN_MAX]:
            click.echo(f"  line {refusal.line}: {refusal.reason} {refusal.path}", err=True)
    if report.unknown_fields:
        click.echo(
            f"{report.unknown_fields} captures hold fields that no capture has, which were passed over; the first is line"
            f" {report.unknown_fields_line}: compare its names with schemas/capture.schema.json",
            err=True,
        )
    if report.refused:
        sys.exit(1)


cli.add_command(lint_command)
cli.add_command(explain_command)
cli.add_command(query_command)
cli.add_command(tail_command)
cli.add_command(completeness_command)
cli.add_command(tokens)
cli.add_command(dead_letters)
cli.add_command(alerts)
cli.add_command(rules)
cli.add_command(retention_command)


@cli.command("migrate")
def migrate_command() -> None:
    """Bring the database's schema up to date and let its roles log in."""
    from auditap.database import administrator, let_role_log_in, migrate, shape_log  # noqa: PLC0415

    settings = _settings()
    passwords = {
        "auditap_writer": settings.postgres.writer_password,
        "auditap_reader": settings.postgres.reader_password,
        "auditap_maintainer": settings.postgres.maintainer_password,
        "auditap_watcher": settings.postgres.watcher_password,
        "auditap_operator": settings.postgres.operator_password,
    }
    interval, days = settings.postgres.partition_interval, settings.ingest.bounds.retention_days

    async def run() -> None:
        async with administrator(admin_dsn(settings)) as connection:
            applied = await migrate(connection)
            await shape_log(connection, interval, days)
            for role, password in passwords.items():
                if password is not None:
                    await let_role_log_in(connection, role, password.get_secret_value())
        click.echo(f"applied: {', '.join(applied)}" if applied else "up to date")
        click.echo(f"the log is divided by {interval} and kept for {days} days")
        for role, password in passwords.items():
            told = (
                "may log in"
                if password
                else "has no password from here: set postgres.*_password, or give it one"
            )
            click.echo(f"{role} {told}")

    asyncio.run(run())


@cli.command()
def topics() -> None:
    """Create the Kafka topics where they are missing, and check how they are kept."""
    from auditap.kafka import topic_settings  # noqa: PLC0415
    from redactor.topics import ensure_topics  # noqa: PLC0415

    settings = _settings()
    if settings.embedded_log:
        raise StartupError(
            "Set kafka.bootstrap_servers (AUDITAP_KAFKA__BOOTSTRAP_SERVERS): without it there is no Kafka."
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
    if not report.as_wanted:
        sys.exit(1)


@cli.command("settings")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the page of the documentation.")
def settings_command(as_markdown: bool) -> None:
    """List every setting: its name and default, its variable, its meaning. A line each, with tabs, into a pipe."""
    from auditap.settings_reference import markdown, settings_reference  # noqa: PLC0415

    entries = settings_reference()
    if as_markdown:
        click.echo(markdown(entries), nl=False)
        return
    if not sys.stdout.isatty():
        for entry in entries:
            click.echo("\t".join(entry))
        return
    console = Console()
    for entry in entries:
        # Names are there to be copied: no column cuts them.
        console.print(
            f"[bold]{escape(entry.name)}[/]  {escape(entry.default)}", highlight=False, soft_wrap=True
        )
        if entry.variable:
            console.print(f"  {entry.variable}", style="dim", highlight=False, soft_wrap=True)
        if entry.meaning:
            console.print(Padding(escape(entry.meaning), (0, 0, 0, 2)), highlight=False)


def _own_socket(settings: Settings) -> Path:
    """Return where this host's collector listens. Raises StartupError where nothing is."""
    path = settings.collector_socket.absolute()
    if not path.exists():
        raise StartupError(
            f"There is no collector at {path}: start one with `auditap up` or `auditap collect`, {ANOTHER_FOLDER}, or give --to."
        )
    return path


def _settings() -> Settings:
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    return settings


def _run_process(make: Callable[[Settings], Callable[[asyncio.Event], Awaitable[None]]]) -> None:
    from auditap.waiting import stop_on_signals  # noqa: PLC0415

    settings = _settings()

    async def run() -> None:
        await make(settings)(stop_on_signals())

    uvloop.run(run())


def _progress(*, enabled: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not enabled,
    )
