"""`auditap lint`: which fields an OpenAPI document lets auditap record, and which marks have no effect."""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from auditap.cli.options import choice_option, envelope_option, number_option
from auditap.plain_text import counted, plain
from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import load_document
from redactor.report.coverage import OperationCoverage, Tally, by_side, total
from redactor.report.findings import CHECKS, Check, Finding, Level, load_ignore_file
from redactor.report.line_numbers import lines_and_columns
from redactor.report.lint import LintReport, lint
from redactor.report.lint_formats import report_as_json, report_as_sarif, sarif_pointers
from redactor.report.operation_fields import BODY_SIDES
from schemas.errors import StartupError

CLEAN, FOUND, UNUSABLE = 0, 1, 2
_BAR_CELLS = 20
_COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUTPUT = click.Path(dir_okay=False, writable=True, path_type=Path)


@dataclass(frozen=True)
class _Options:
    """The options of the command, by the names that click gives them."""

    envelope: str | None
    container_marks: Any
    baseline: Path | None
    ignore_file: Path | None
    fail_under: float | None
    fail_on: str
    by: str
    rows: int
    examples: int
    as_json: bool


@click.command("lint")
@click.argument("spec", type=_FILE)
@envelope_option
@choice_option(
    "--container-marks",
    ["presence", "inherit"],
    default="presence",
    meaning="Whether a mark on a container records only its presence, or is inherited by its parts.",
)
@click.option(
    "--baseline", type=_FILE, help="Older version of SPEC; report the fields that the change adds or removes."
)
@click.option(
    "--ignore-file", type=_FILE, help="YAML or TOML file of findings to ignore, each with a reason."
)
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    help="Fail if less than this percentage of the fields in bodies is recorded.",
)
@choice_option(
    "--fail-on",
    ["error", "warning", "note", "never"],
    default="error",
    meaning="Fail on findings of this level or above.",
)
@choice_option(
    "--by", ["product", "operation"], default="product", meaning="How to group the coverage table."
)
@number_option("--rows", default=20, least=0, meaning="Rows of the coverage table; 0 shows all.")
@number_option("--examples", default=3, least=0, meaning="Findings shown for each check.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--sarif", type=_OUTPUT, help="Write the findings to this file as SARIF 2.1.0.")
def lint_command(spec: Path, sarif: Path | None, **values: Any) -> None:
    """Report which fields the OpenAPI document SPEC lets auditap record, and which marks have no effect.

    Exit codes: 0 if SPEC passes; 1 for a finding at or above --fail-on, or coverage below --fail-under; 2 if a file or
    an option is invalid.
    """
    options = _Options(**values)
    try:
        with _garbage_collection_paused():
            report = _report(spec, options)
            if sarif is not None:
                _write_sarif(sarif, spec, report)
        exit_code = _exit_code(report, options)
    except StartupError as error:
        click.secho(f"auditap: {error}", fg="red", err=True)
        sys.exit(UNUSABLE)
    if options.as_json:
        click.echo(json.dumps(report_as_json(report, exit_code=exit_code)))
    else:
        _show(Console(), spec, report, options)
    sys.exit(exit_code)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection: everything that lint builds stays alive, and scanning it takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _report(spec: Path, options: _Options) -> LintReport:
    def config(path: Path) -> DocumentConfig:
        return DocumentConfig(path, envelope=options.envelope, container_marks=options.container_marks)

    return lint(
        load_document(config(spec)),
        RedactionConfig(documents=(config(spec),)),
        None if options.baseline is None else load_document(config(options.baseline)),
        () if options.ignore_file is None else load_ignore_file(options.ignore_file),
    )


def _exit_code(report: LintReport, options: _Options) -> int:
    highest = report.highest_level()
    has_failed = (
        options.fail_on != "never" and highest is not None and highest >= Level[options.fail_on.upper()]
    )
    return FOUND if has_failed or _is_under(report, options.fail_under) else CLEAN


def _is_under(report: LintReport, fail_under: float | None) -> bool:
    percent = report.coverage.percent
    return fail_under is not None and percent is not None and percent < fail_under


def _write_sarif(sarif: Path, spec: Path, report: LintReport) -> None:
    positions = lines_and_columns(spec, spec.read_bytes(), sarif_pointers(report))
    log = report_as_sarif(report, uri=_uri_of(spec), version=version("auditap"), positions=positions)
    try:
        sarif.write_text(json.dumps(log) + "\n")
    except OSError as error:
        reason = error.strerror
    else:
        return
    raise StartupError(f"The SARIF file {sarif} cannot be written: {reason}.")


def _uri_of(spec: Path) -> str:
    """Return the path of the document from the working directory, which in CI is the repository's root."""
    resolved, here = spec.resolve(), Path.cwd().resolve()
    return resolved.relative_to(here).as_posix() if resolved.is_relative_to(here) else resolved.as_uri()


def _show(console: Console, spec: Path, report: LintReport, options: _Options) -> None:
    read = sum(each.reads_bodies for each in report.operations)
    summary = f"{counted(len(report.operations), 'operation')}, {read} with bodies that auditap reads"
    console.print(Panel(f"[bold]{plain(str(spec))}[/bold]\n{summary}\ndigest {report.digest}", expand=False))
    console.print(_sides_table(report))
    console.print(_groups_table(_groups(report, options.by), options))
    _show_findings(console, report, options.examples)
    _show_totals(console, report, options)


def _sides_table(report: LintReport) -> Table:
    table = Table("part", "", title="Recorded fields", title_justify="left")
    for name in ("recorded", "fields", "share"):
        table.add_column(name, justify="right")
    for side, tally in report.sides.items():
        table.add_row(side.value, _bar(tally), *_figures(tally))
        if side.value == "error":
            coverage = report.coverage
            table.add_row("[bold]bodies[/bold]", _bar(coverage), *_figures(coverage), end_section=True)
    return table


def _bar(tally: Tally) -> Text:
    percent = tally.percent or 0.0
    filled = round(percent * _BAR_CELLS / 100)
    return Text("█" * filled, style="green") + Text("░" * (_BAR_CELLS - filled), style="dim")


def _figures(tally: Tally) -> tuple[str, str, str]:
    return f"{tally.kept:,}", f"{tally.fields:,}", _share(tally)


def _share(tally: Tally) -> str:
    return "-" if tally.percent is None else f"{tally.percent:.1f} %"


def _groups(report: LintReport, by: str) -> Mapping[str, Sequence[OperationCoverage]]:
    if by == "product":
        return report.products
    return {each.name: [each] for each in report.operations if each.reads_bodies}


class _Row(NamedTuple):
    """One group of operations: the tally of each kind of body, and of all bodies together."""

    name: str
    sides: Sequence[Tally]
    bodies: Tally


def _row(name: str, operations: Sequence[OperationCoverage]) -> _Row:
    tallies = by_side(operations)
    sides = [tallies[side] for side in BODY_SIDES]
    return _Row(name, sides, total(sides))


def _by_unrecorded(row: _Row) -> int:
    return row.bodies.kept - row.bodies.fields


def _groups_table(groups: Mapping[str, Sequence[OperationCoverage]], options: _Options) -> Table:
    # The group with the most unrecorded fields comes first: there marks are missing, or were left out on purpose.
    rows = sorted((_row(name, operations) for name, operations in groups.items()), key=_by_unrecorded)
    shown = rows[: options.rows or None]
    title = f"By {options.by}, most unrecorded fields first"
    table = Table(options.by, title=title, title_justify="left")
    for column in (*(side.value for side in BODY_SIDES), "share"):
        table.add_column(column, justify="right")
    for row in shown:
        cells = [f"{tally.kept}/{tally.fields}" if tally.fields else "-" for tally in row.sides]
        table.add_row(plain(row.name) or "-", *cells, _share(row.bodies))
    if len(shown) < len(rows):
        table.caption = f"{len(rows) - len(shown)} more; --rows 0 shows all"
        table.caption_justify = "left"
    return table


def _show_findings(console: Console, report: LintReport, examples: int) -> None:
    for code, check in sorted(CHECKS.items(), key=lambda item: -item[1].level):
        found = [each for each in report.findings if each.code == code]
        if found:
            _show_check(console, check, found, examples)


def _show_check(console: Console, check: Check, found: Sequence[Finding], examples: int) -> None:
    level = check.level.text
    heading = f"[{_COLOURS[level]}]{level}[/] [bold]{found[0].code}[/bold] ({len(found)})"
    console.print(f"\n{heading}  [dim]{check.meaning}[/dim]")
    for each in found[:examples]:
        console.print(f"  {plain(each.message)}", soft_wrap=True, highlight=False)
        if each.pointer:
            console.print(f"    [dim]{plain(each.pointer)}[/dim]", soft_wrap=True, highlight=False)
    if len(found) > examples:
        console.print(f"  [dim]… {len(found) - examples} more[/dim]")


def _show_totals(console: Console, report: LintReport, options: _Options) -> None:
    by_level = Counter(each.level for each in report.findings)
    counts = [counted(by_level[level], level.text) for level in reversed(Level)]
    if report.ignored:
        counts.append(f"{len(report.ignored)} ignored with reasons")
    console.print(f"\n{', '.join(counts)}", highlight=False)
    if _is_under(report, options.fail_under):
        share = _share(report.coverage)
        console.print(
            f"[red]{share} of the fields in bodies is recorded, less than {options.fail_under:g} %[/red]"
        )
