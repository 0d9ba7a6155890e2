"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def number_option(
    name: str, *, default: int, meaning: str | None = None, least: int = 1
) -> Callable[[_Command], _Command]:
    """Return an option that takes a number of at least `least`, with its default in the help."""
    return click.option(name, type=click.IntRange(least), default=default, show_default=True, help=meaning)


def choice_option(
    name: str, choices: Sequence[str], *, default: str, meaning: str | None = None
) -> Callable[[_Command], _Command]:
    """Return an option that takes one of `choices`, with its default in the help."""
    return click.option(name, type=click.Choice(choices), default=default, show_default=True, help=meaning)


def envelope_option(command: _Command) -> _Command:
    """Add the option that names the envelope property of an OpenAPI document."""
    return click.option(
        "--envelope", help="Property of responses that is recorded in place of the whole, such as result."
    )(command)
