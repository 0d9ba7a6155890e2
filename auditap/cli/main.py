"""The entry point: the commands, with those for a first look at the top, and what a person sees when one fails.

Nothing but click and `schemas.errors` is imported here, so that `auditap --help` is immediate: a command's module is
imported when the command runs.
"""

from __future__ import annotations

import sys

import click

from auditap.cli.lazy_group import LazyCommand, LazyGroup
from auditap.runtime.exception_hooks import install_exception_hooks
from schemas.errors import AuditapError

COMMANDS = {
    "Get started": {
        "up": LazyCommand("auditap.cli.up", "up_command", "Run everything in one process, embedded."),
        "init": LazyCommand(
            "auditap.cli.init", "init_command", "Write auditap.toml for a gateway, and what it has to load."
        ),
        "query": LazyCommand("auditap.cli.query", "query_command", "Read records."),
        "tail": LazyCommand("auditap.cli.tail", "tail_command", "Follow new records."),
        "lint": LazyCommand(
            "auditap.cli.lint",
            "lint_command",
            "Report what an OpenAPI document lets auditap record.",
        ),
        "explain": LazyCommand(
            "auditap.cli.explain",
            "explain_command",
            "Show which parts of a capture are recorded, and by which rule.",
        ),
    },
    "Run in production": {
        "collect": LazyCommand(
            "auditap.cli.collect",
            "collect_command",
            "Take captures from taps, redact them and publish events.",
        ),
        "ingest": LazyCommand(
            "auditap.cli.ingest", "ingest_command", "Build records from events and store them."
        ),
        "serve": LazyCommand("auditap.cli.serve", "serve_command", "Serve the log API."),
        "alerting": LazyCommand(
            "auditap.cli.alerting",
            "alerting_command",
            "Evaluate alert rules on the stream and deliver alerts.",
        ),
    },
    "Set up": {
        "settings": LazyCommand("auditap.cli.settings", "settings_command", "List every setting."),
        "migrate": LazyCommand(
            "auditap.cli.migrate",
            "migrate_command",
            "Migrate the database and let its roles log in.",
        ),
        "topics": LazyCommand(
            "auditap.cli.topics", "topics_command", "Create missing Kafka topics and check their settings."
        ),
        "tokens": LazyCommand(
            "auditap.cli.tokens", "tokens", "Create, list and revoke tokens of the log API."
        ),
    },
    "Send and check captures": {
        "redact": LazyCommand(
            "auditap.cli.redact", "redact_command", "Redact captures by an OpenAPI document."
        ),
        "import": LazyCommand(
            "auditap.cli.import_files",
            "import_command",
            "Send a HAR file, or flows of mitmproxy, to a collector.",
        ),
        "replay": LazyCommand(
            "auditap.cli.replay", "replay_command", "Send a file of captures to a collector."
        ),
    },
    "Operate": {
        "doctor": LazyCommand(
            "auditap.cli.doctor", "doctor_command", "Follow a request through the gateway to its record."
        ),
        "completeness": LazyCommand(
            "auditap.cli.completeness",
            "completeness_command",
            "Show the completeness watermark and the gaps in a time range; retire a tap.",
        ),
        "alerts": LazyCommand(
            "auditap.cli.alerts", "alerts", "List and acknowledge alerts; list and retry deliveries."
        ),
        "rules": LazyCommand(
            "auditap.cli.rules", "rules", "Check alert rules, and test them on stored records."
        ),
        "dead-letters": LazyCommand(
            "auditap.cli.dead_letters", "dead_letters", "List, retry and discard dead letters."
        ),
        "retention": LazyCommand(
            "auditap.cli.retention", "retention_command", "Drop partitions older than the retention."
        ),
    },
}


def main() -> None:
    """Run a command. A wrong setting or an unreachable service ends it with a sentence and exit code 1."""
    # First of all: what the interpreter prints of an uncaught exception holds the values in its message.
    install_exception_hooks()
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
        for sentence in str(error).splitlines():
            click.secho("auditap: ", fg="red", nl=False, err=True)
            click.echo(sentence, err=True)
        sys.exit(1)


def _print_version(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from importlib.metadata import version  # noqa: PLC0415  takes as long as the rest of the help together
    from importlib.util import find_spec  # noqa: PLC0415

    found = find_spec("redactor.pipeline.pipeline")
    is_compiled = found is not None and not (found.origin or "").endswith(".py")
    click.echo(f"auditap, version {version('auditap')}{', compiled' if is_compiled else ''}")
    context.exit()


@click.group(cls=LazyGroup, sections=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """An audit log for any API, taken at the gateway: it keeps exactly what the OpenAPI document marks x-auditable."""
    from auditap.runtime.logs import configure_logs  # noqa: PLC0415  not needed for the help

    # A command that reads no settings logs in the default format.
    configure_logs("info", "auto")
