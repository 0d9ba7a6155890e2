"""`auditap settings`."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from auditap.settings_reference import SettingsTable, alike, markdown, settings_tables


@click.command("settings")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the page of the documentation.")
def settings_command(as_markdown: bool) -> None:
    """List every setting.

    On a terminal: a table of the file after the other, with defaults and meanings. Into a pipe: a line for each setting,
    of its name, variable, default and meaning, with tabs between.
    """
    tables = settings_tables()
    if as_markdown:
        click.echo(markdown(tables), nl=False)
    elif sys.stdout.isatty():
        _show(Console(), tables)
    else:
        for table in tables:
            for entry in table.entries:
                click.echo("\t".join(entry))


def _show(console: Console, tables: list[SettingsTable]) -> None:
    """Print the tables with keys and defaults in the same columns everywhere, so that the eye can run down."""
    key_width = max(len(entry.key) for table in tables for entry in table.entries)
    for group in alike(tables):
        table = group[0]
        title = ", ".join(f"[{each.name}]" for each in group) if table.name else "top of the file"
        console.print(f"\n[bold]{escape(title)}[/]", highlight=False)
        console.print(escape(table.description), style="dim", highlight=False)
        shown = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        shown.add_column(no_wrap=True, min_width=key_width, style="cyan")
        shown.add_column(overflow="fold", min_width=12, max_width=24)
        shown.add_column()
        for entry in table.entries:
            shown.add_row(entry.key, escape(entry.default), escape(entry.description))
        console.print(shown)
    console.print(
        "\nA setting's variable is its path in upper case: [cyan]\\[kafka] topic[/] is [cyan]AUDITAP_KAFKA__TOPIC[/].",
        highlight=False,
    )
