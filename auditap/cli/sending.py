"""What `auditap replay` and `auditap import` share: where captures are sent, the progress, and the report."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from auditap.cli.startup import configured_settings
from auditap.plain_text import counted, plain_line
from auditap.settings import DATA_DIR_HINT, Settings
from gateway_tap.replay import ReplayLimits, ReplayReport
from schemas.errors import StartupError, refusal_text
from schemas.private_files import read_token

_Command = TypeVar("_Command", bound=Callable[..., None])
# For people; `--json` prints every refusal that the report holds.
_REFUSALS_SHOWN_MAX = 20


def sending_options(command: _Command) -> _Command:
    """Add the options that say where captures are sent, and how the report is printed."""
    options = (
        click.option(
            "--to", "collector", help="unix:/path or http(s)://host:port.  [default: this host's collector]"
        ),
        click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
        click.option("--batch-pairs", type=click.IntRange(1, 10_000), default=100, show_default=True),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


class Sending(NamedTuple):
    """Where captures are sent, by the options and the settings. The repr does not show the token."""

    collector: str
    token: str | None
    plain_http_allowed: bool
    limits: ReplayLimits

    def __repr__(self) -> str:
        return "<Sending>"

    @classmethod
    def by_options(cls, collector: str | None, token_file: Path | None, batch_pairs: int) -> Sending:
        """Raises StartupError where there is no collector on this host and none was named."""
        settings = configured_settings()
        to = collector or f"unix:{_own_socket(settings)}"
        token = read_token(token_file, "write the tap's token into it") if token_file else None
        return cls(to, token, settings.plain_http_allowed, ReplayLimits(batch_pairs_max=batch_pairs))

    def send(
        self,
        function: Callable[..., Coroutine[Any, Any, ReplayReport]],
        file: Path,
        *,
        description: str = "sending",
        progress_shown: bool,
    ) -> ReplayReport:
        """Send a file by `gateway_tap.replay.replay` or its like, and show how far it is."""
        with _progress(enabled=progress_shown) as progress:
            task = progress.add_task(description, total=None)

            def show(so_far: ReplayReport) -> None:
                progress.update(task, completed=so_far.accepted + so_far.refused + so_far.skipped)

            return uvloop.run(
                function(
                    file,
                    self.collector,
                    token=self.token,
                    plain_http_allowed=self.plain_http_allowed,
                    limits=self.limits,
                    on_progress=show,
                )
            )


def print_counts(report: ReplayReport, *, of: str = "") -> None:
    """Print how many captures were accepted and refused; `of` names the file where there are several."""
    batches = counted(report.retried, "batch", "batches")
    skipped = f", {report.skipped} skipped" if report.skipped else ""
    click.echo(f"{of}{report.accepted} accepted, {report.refused} refused{skipped}, {batches} sent again")


def print_refusals(report: ReplayReport, noun: str) -> None:
    """Print the first refusals to stderr; `noun`: what the number of a refusal counts, such as `line`."""
    for refusal in report.refusals[:_REFUSALS_SHOWN_MAX]:
        # The server at this address wrote the reason and the path, so they may hold anything.
        why = plain_line(refusal_text(refusal.reason, refusal.path))
        click.echo(f"  {noun} {refusal.line}: {why}", err=True)


def _own_socket(settings: Settings) -> Path:
    """Return the Unix socket of this host's collector. Raises StartupError where there is none."""
    path = settings.collector_socket.absolute()
    if not path.exists():
        raise StartupError(
            f"There is no collector at {path}: start one with `auditap up` or `auditap collect`, {DATA_DIR_HINT}, or give --to."
        )
    return path


def _progress(*, enabled: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not enabled,
    )
