"""What `auditap lint` reports: the checks with their levels, the findings, and the file of findings to ignore."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from enum import IntEnum
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from schemas.error_lines import error_line
from schemas.errors import StartupError

IGNORE_FILE_BYTES_MAX = 1_048_576
IGNORE_ENTRIES_MAX = 10_000
_IGNORE_KEYS = {"code", "location", "reason"}


class Level(IntEnum):
    """How serious a finding is."""

    NOTE = 1
    WARNING = 2
    ERROR = 3

    @property
    def text(self) -> str:
        """The level in lower case, the spelling of command options and of SARIF."""
        return self.name.lower()


class Check(NamedTuple):
    """One check: the level of its findings, and one sentence on what they mean."""

    level: Level
    meaning: str


class Finding(NamedTuple):
    """One result of a check: its code, a JSON pointer into the document, and a message of one sentence."""

    code: str
    pointer: str
    message: str

    @property
    def level(self) -> Level:
        """The level of the check that made the finding."""
        return CHECKS[self.code].level


# The codes are part of the interface: ignore files, SARIF consumers and docs/lint.md name them.
CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "secret_recorded": Check(
            Level.ERROR, "The name or format of a recorded field says that it holds a secret."
        ),
        "secret_likely": Check(
            Level.WARNING, "The name or format of a recorded field suggests that it holds a secret."
        ),
        "newly_exposed": Check(Level.WARNING, "The baseline does not record this field, the document does."),
        "newly_hidden": Check(Level.NOTE, "The baseline records this field, the document does not."),
        "inert_container": Check(
            Level.NOTE,
            "A mark on a container records only that the container was present; its parts need marks of their own.",
        ),
        "inert_empty": Check(
            Level.WARNING, "A marked container is recorded as {} or [], because nothing in it is marked."
        ),
        "inert_reference": Check(Level.WARNING, "A mark beside a $ref has no effect in OpenAPI 3.0."),
        "inert_condition": Check(
            Level.WARNING, "A mark under not, a conditional, contains or unevaluated… has no effect."
        ),
        "inert_place": Check(
            Level.WARNING,
            "A mark has an effect only on path and query parameters, and on schemas of these and of bodies.",
        ),
        "inert_denied": Check(Level.WARNING, "A denial on this node or above it overrides the mark."),
        "inert_type": Check(
            Level.WARNING, "A mark has no effect where the schema does not have one definite type."
        ),
        "inert_enum": Check(
            Level.NOTE, "From status 400 on, nothing is recorded of a container with an enum or const."
        ),
        "inert_composition": Check(
            Level.WARNING, "Another schema that applies to the same value does not record it."
        ),
        "inert_envelope": Check(Level.NOTE, "The mark is outside of the envelope property."),
        "inert_unread": Check(
            Level.NOTE,
            "The mark is in no body that auditap reads: only in bodies of GET or other media types, or unused.",
        ),
        "mark_misspelt": Check(
            Level.WARNING, "A keyword that resembles x-auditable has no effect: the field is not recorded."
        ),
        "denial_misspelt": Check(
            Level.ERROR, "A keyword that resembles x-sensitive has no effect: it denies nothing."
        ),
        "value_denies": Check(Level.WARNING, "A value of x-auditable that is not a boolean denies."),
        "nothing_audited": Check(Level.NOTE, "Nothing of this body is recorded."),
        "route_twins": Check(
            Level.WARNING,
            "Two path templates of the same shape match the same URLs: only what both record is recorded.",
        ),
        "route_crosswise": Check(
            Level.NOTE,
            "Two path templates match a common URL and neither is more literal: only what both record is recorded.",
        ),
        "route_method_gap": Check(
            Level.NOTE, "A path template lacks the method, so a less literal one applies to its URLs."
        ),
        "route_unreachable": Check(Level.WARNING, "No request can match this operation."),
        "nothing_matches": Check(
            Level.ERROR, "No request can match any operation of this document: nothing is recorded by it."
        ),
        "untrusted": Check(Level.WARNING, "This part of the document is invalid and therefore denied."),
        "ignore_unused": Check(Level.WARNING, "An entry of the ignore file matches no finding."),
    }
)


class IgnoreEntry(NamedTuple):
    """One entry of the ignore file: it covers findings with this code whose pointer matches `location`.

    `code` may be `*`. `location` is a pattern in which `*` matches any text, slashes included.
    """

    code: str
    location: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Whether the entry applies to this finding."""
        return self.code in ("*", finding.code) and fnmatchcase(finding.pointer, self.location)


def load_ignore_file(path: Path) -> tuple[IgnoreEntry, ...]:
    """Read an ignore file: a list named `ignore` of entries with code, location and reason.

    The file is TOML if its name ends in `.toml`, and YAML otherwise. Raises StartupError with one sentence if it
    cannot be read, is too large, or holds an incomplete entry.
    """
    tree = _parse_ignore_file(path)
    listed = tree.get("ignore") if isinstance(tree, dict) else None
    if not isinstance(listed, list) or len(listed) > IGNORE_ENTRIES_MAX:
        raise StartupError(
            f"The ignore file {path} must hold a list named ignore with at most {IGNORE_ENTRIES_MAX} entries."
        )
    return tuple(_ignore_entry(path, number, each) for number, each in enumerate(listed, 1))


def _parse_ignore_file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            text = file.read(IGNORE_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or "it cannot be opened") from None
    if len(text) > IGNORE_FILE_BYTES_MAX:
        raise _unreadable(path, f"it is larger than {IGNORE_FILE_BYTES_MAX} bytes")
    is_toml = path.suffix == ".toml"
    try:
        if is_toml:
            return tomllib.loads(text.decode())
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = "it is not valid TOML" if is_toml else "it is not valid YAML"
        line = error_line(error)
    if line is not None:
        reason = f"line {line}: {reason}"
    # Raised outside of the handler, because the parser's error may quote the file.
    raise _unreadable(path, reason)


def _unreadable(path: Path, reason: str) -> StartupError:
    return StartupError(f"The ignore file {path} cannot be read: {reason}.")


def _ignore_entry(path: Path, number: int, entry: Any) -> IgnoreEntry:
    is_complete = isinstance(entry, dict) and set(entry) == _IGNORE_KEYS
    if not is_complete or not all(isinstance(value, str) and value.strip() for value in entry.values()):
        raise StartupError(
            f"Entry {number} of the ignore file {path} must have code, location and reason, each a non-empty string."
        )
    if entry["code"] not in CHECKS and entry["code"] != "*":
        raise StartupError(f"Entry {number} of the ignore file {path} names an unknown code.")
    return IgnoreEntry(entry["code"], entry["location"], entry["reason"])
