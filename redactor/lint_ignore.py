"""The ignore file: findings that someone has looked at, each with the reason why it may stay."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from redactor.lint_checks import CHECKS, Finding
from schemas.errors import StartupError

FILE_BYTES_MAX = 1_048_576
ENTRIES_MAX = 10_000
_KEYS = {"code", "location", "reason"}


class IgnoreEntry(NamedTuple):
    """Findings of `code` (or `*`) whose pointer fits `location`, in which `*` stands for any text."""

    code: str
    location: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Tell whether a finding is meant."""
        return self.code in ("*", finding.code) and fnmatchcase(finding.pointer, self.location)


def load_ignore_file(path: Path) -> tuple[IgnoreEntry, ...]:
    """Read an ignore file, TOML (`.toml`) or YAML: a list `ignore` of tables with code, location and reason.

    Raises StartupError, one sentence, where it cannot be read or an entry is not complete.
    """
    tree = _parse(path)
    listed = tree.get("ignore") if isinstance(tree, dict) else None
    if not isinstance(listed, list) or len(listed) > ENTRIES_MAX:
        raise StartupError(f"The ignore file {path} must hold a list named ignore, of {ENTRIES_MAX} at most.")
    return tuple(_entry(path, number, each) for number, each in enumerate(listed, 1))


def _parse(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) <= FILE_BYTES_MAX:
            return tomllib.loads(text.decode()) if path.suffix == ".toml" else yaml.safe_load(text)
        reason = f"it is larger than {FILE_BYTES_MAX} bytes"
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
    except (ValueError, yaml.YAMLError, RecursionError):
        reason = "it is neither YAML nor, if so named, TOML"
    raise StartupError(f"The ignore file {path} cannot be read: {reason}.")


def _entry(path: Path, number: int, entry: Any) -> IgnoreEntry:
    fits = isinstance(entry, dict) and set(entry) == _KEYS
    if not fits or not all(isinstance(value, str) and value.strip() for value in entry.values()):
        raise StartupError(
            f"Entry {number} of the ignore file {path} must have code, location and reason, each a text."
        )
    if entry["code"] not in CHECKS and entry["code"] != "*":
        raise StartupError(f"Entry {number} of the ignore file {path} names a code that does not exist.")
    return IgnoreEntry(entry["code"], entry["location"], entry["reason"])
