"""The line at which a parser of JSON, YAML or TOML stopped; what else its error says may quote the text."""

from __future__ import annotations

import re

import yaml

_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)\Z")


def error_line(error: Exception) -> int | None:
    """Return the line, from 1; None if the error does not say."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return mark.line + 1 if mark else None
    if found := _TOML_LINE.search(str(error)):
        return int(found[1])
    return getattr(error, "lineno", None)
