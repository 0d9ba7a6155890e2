"""A click group that imports a command's module when the command runs, not when the group is listed."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem


class LazyCommand(NamedTuple):
    """Where a command is, and the line that the group's help shows of it."""

    module: str
    attribute: str
    short_help: str
    """Kept here rather than with the command, so that listing it imports nothing."""


class LazyGroup(click.Group):
    """A group of `LazyCommand`s. Its help lists them under headings, in the order given."""

    def __init__(self, *, sections: Mapping[str, Mapping[str, LazyCommand]], **options: Any) -> None:
        super().__init__(**options)
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return [name for section in self.sections.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        for section in self.sections.values():
            if found := section.get(cmd_name):
                command: click.Command = getattr(import_module(found.module), found.attribute)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if near := get_close_matches(args[0], self.list_commands(ctx), n=1):
                error.message += f" Did you mean {near[0]}?"
            raise

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names by the lines of the help: click would import every command."""
        items = [
            CompletionItem(name, help=command.short_help)
            for section in self.sections.values()
            for name, command in section.items()
            if name.startswith(incomplete)
        ]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for title, section in self.sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), command.short_help) for name, command in section.items()]
                )
