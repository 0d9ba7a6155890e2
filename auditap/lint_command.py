"""`auditap lint`: what a person should know of a document before its traffic is recorded."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from auditap.plain_text import plain
from schemas.errors import StartupError

if TYPE_CHECKING:
    from redactor.coverage import OperationCoverage, Tally
    from redactor.lint import LintReport
    from redactor.lint_checks import Check, Finding
    from redactor.surface import Side

CLEAN, FOUND, UNUSABLE = 0, 1, 2
_BAR_CELLS = 20
_COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUTPUT = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command("lint")
@click.argument("spec", type=_FILE)
@click.option("--envelope", help="The property of responses that is recorded in their place, such as result.")
@click.option(
    "--container-marks",
    type=click.Choice(["presence", "inherit"]),
    default="presence",
    show_default=True,
    help="Whether a mark on a container reaches its parts.",
)
@click.option(
    "--baseline", type=_FILE, help="An older version of the document, to tell what the change exposes."
)
@click.option("--ignore-file", type=_FILE, help="YAML or TOML: findings that may stay, each with its reason.")
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    help="Fail if less than so many percent of the bodies' leaves is recorded.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "note", "never"]),
    default="error",
    show_default=True,
    help="Fail if there is a finding of this level or above.",
)
@click.option("--by", type=click.Choice(["product", "operation"]), default="product", show_default=True)
@click.option(
    "--rows", type=click.IntRange(0), default=20, show_default=True, help="Rows of coverage; 0 is all."
)
@click.option(
    "--examples", type=click.IntRange(0), default=3, show_default=True, help="Findings of each kind."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--sarif", type=_OUTPUT, help="Write the findings to this file as SARIF 2.1.0.")
def lint_command(spec: Path, sarif: Path | None, **options: Any) -> None:
    """Tell what SPEC lets be recorded, and what of its marks may not do what they seem to.

    Exit code 0: clean. 1: a finding at or above --fail-on, or coverage below --fail-under. 2: a file or an option
    cannot be used.
    """
    try:
        with _no_garbage():
            report = _report(spec, options)
            if sarif is not None:
                _write_sarif(sarif, spec, report)
        exit_code = _exit_code(report, options["fail_on"], options["fail_under"])
    except StartupError as error:
        click.secho(f"auditap: {error}", fg="red", err=True)
        sys.exit(UNUSABLE)
    if options["as_json"]:
        from redactor.lint_report import report_as_json  # noqa: PLC0415

        click.echo(json.dumps(report_as_json(report, exit_code=exit_code)))
    else:
        _show(Console(), spec, report, options)
    sys.exit(exit_code)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Look for none meanwhile: all that is built lives on, and looking through it takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _report(spec: Path, options: dict[str, Any]) -> LintReport:
    from redactor.config import DocumentConfig, RedactionConfig  # noqa: PLC0415
    from redactor.document import load_document  # noqa: PLC0415
    from redactor.lint import lint  # noqa: PLC0415
    from redactor.lint_ignore import load_ignore_file  # noqa: PLC0415

    def config(path: Path) -> DocumentConfig:
        return DocumentConfig(path, envelope=options["envelope"], container_marks=options["container_marks"])

    baseline = options["baseline"]
    ignore_file = options["ignore_file"]
    return lint(
        load_document(config(spec)),
        RedactionConfig(documents=(config(spec),)),
        None if baseline is None else load_document(config(baseline)),
        () if ignore_file is None else load_ignore_file(ignore_file),
    )


def _exit_code(report: LintReport, fail_on: str, fail_under: float | None) -> int:
    from redactor.lint_checks import Level  # noqa: PLC0415

    worst = report.worst()
    too_bad = fail_on != "never" and worst is not None and worst >= Level[fail_on.upper()]
    return FOUND if too_bad or _is_under(report, fail_under) else CLEAN


def _is_under(report: LintReport, fail_under: float | None) -> bool:
    percent = report.coverage.percent
    return fail_under is not None and percent is not None and percent < fail_under


def _write_sarif(sarif: Path, spec: Path, report: LintReport) -> None:
    from redactor.line_numbers import positions_of  # noqa: PLC0415
    from redactor.lint_report import report_as_sarif, sarif_pointers  # noqa: PLC0415

    positions = positions_of(spec, spec.read_bytes(), sarif_pointers(report))
    log = report_as_sarif(report, uri=_uri_of(spec), version=version("auditap"), positions=positions)
    try:
        sarif.write_text(json.dumps(log) + "\n")
    except OSError as error:
        reason = error.strerror
    else:
        return
    raise StartupError(f"The SARIF file {sarif} cannot be written: {reason}.")


def _uri_of(spec: Path) -> str:
    """Return the document's path from the working directory, which in CI is the repository's root."""
    resolved, here = spec.resolve(), Path.cwd().resolve()
    return resolved.relative_to(here).as_posix() if resolved.is_relative_to(here) else resolved.as_uri()


def _show(console: Console, spec: Path, report: LintReport, options: dict[str, Any]) -> None:
    audited = sum(each.reads_bodies for each in report.operations)
    about = f"{len(report.operations)} operations, {audited} of them with bodies that are read"
    console.print(Panel(f"[bold]{plain(str(spec))}[/bold]\n{about}\ndigest {report.digest}", expand=False))
    console.print(_sides_table(report))
    console.print(_rows_table(report, options["by"], options["rows"]))
    _show_findings(console, report, options["examples"])
    _show_verdict(console, report, options)


def _sides_table(report: LintReport) -> Table:
    table = Table("side", "", title="What is recorded of all leaves", title_justify="left")
    for name in ("kept", "leaves", "share"):
        table.add_column(name, justify="right")
    for side, tally in report.sides.items():
        table.add_row(side.value, _bar(tally), *_figures(tally))
        if side.value == "error":
            table.add_row(
                "[bold]bodies[/bold]", _bar(report.coverage), *_figures(report.coverage), end_section=True
            )
    return table


def _bar(tally: Tally) -> Text:
    percent = tally.percent or 0.0
    filled = round(percent * _BAR_CELLS / 100)
    return Text("█" * filled, style="green") + Text("░" * (_BAR_CELLS - filled), style="dim")


def _figures(tally: Tally) -> tuple[str, str, str]:
    share = "-" if tally.percent is None else f"{tally.percent:.1f} %"
    return f"{tally.kept:,}", f"{tally.leaves:,}", share


def _rows_table(report: LintReport, by: str, rows: int) -> Table:
    from redactor.coverage import total  # noqa: PLC0415
    from redactor.surface import BODY_SIDES  # noqa: PLC0415

    groups: list[tuple[str, Sequence[OperationCoverage]]] = (
        list(report.products.items())
        if by == "product"
        else [(each.name, [each]) for each in report.operations if each.reads_bodies]
    )
    tallies = {
        name: {side: total([each.side(side) for each in operations]) for side in BODY_SIDES}
        for name, operations in groups
    }
    # The largest unrecorded surface first: that is where marks are missing or where to look whether they are.
    order = sorted(tallies, key=lambda name: sum(each.kept - each.leaves for each in tallies[name].values()))
    shown = order[: rows or None]
    table = Table(by, title=f"By {by}, least recorded first", title_justify="left")
    for name in (*(side.value for side in BODY_SIDES), "share"):
        table.add_column(name, justify="right")
    for name in shown:
        table.add_row(plain(name) or "-", *_side_cells(tallies[name]))
    if len(shown) < len(order):
        table.caption = f"{len(order) - len(shown)} more: --rows 0"
        table.caption_justify = "left"
    return table


def _side_cells(sides: dict[Side, Tally]) -> list[str]:
    from redactor.coverage import total  # noqa: PLC0415

    cells = [f"{each.kept}/{each.leaves}" if each.leaves else "-" for each in sides.values()]
    return [*cells, _figures(total(list(sides.values())))[2]]


def _show_findings(console: Console, report: LintReport, examples: int) -> None:
    from redactor.lint_checks import CHECKS  # noqa: PLC0415

    for code, check in sorted(CHECKS.items(), key=lambda item: -item[1].level):
        found = [each for each in report.findings if each.code == code]
        if found:
            _show_check(console, check, found, examples)


def _show_check(console: Console, check: Check, found: Sequence[Finding], examples: int) -> None:
    level = check.level.text
    told = f"[{_COLOURS[level]}]{level}[/] [bold]{found[0].code}[/bold] ({len(found)})"
    console.print(f"\n{told}  [dim]{check.meaning}[/dim]")
    for each in found[:examples]:
        console.print(f"  {plain(each.message)}", soft_wrap=True, highlight=False)
        if each.pointer:
            console.print(f"    [dim]{plain(each.pointer)}[/dim]", soft_wrap=True, highlight=False)
    if len(found) > examples:
        console.print(f"  [dim]… {len(found) - examples} more[/dim]")


def _show_verdict(console: Console, report: LintReport, options: dict[str, Any]) -> None:
    from redactor.lint_checks import Level  # noqa: PLC0415

    totals = {level.text: sum(each.level is level for each in report.findings) for level in reversed(Level)}
    counts = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in totals.items()]
    ignored = f", {len(report.ignored)} ignored with reasons" if report.ignored else ""
    console.print(f"\n{', '.join(counts)}{ignored}", highlight=False)
    if _is_under(report, options["fail_under"]):
        share = _figures(report.coverage)[2]
        console.print(
            f"[red]{share} of the bodies' leaves is recorded, less than {options['fail_under']:g} %[/red]"
        )
