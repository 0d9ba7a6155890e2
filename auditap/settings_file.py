"""The settings file, with the line of each of its keys."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from schemas.errors import StartupError

CONFIG_FILE_VARIABLE = "AUDITAP_CONFIG"
_DEFAULT_FILE = "auditap.toml"
_PLACE = re.compile(r"at line (\d+), column (\d+)")
_HEADER = re.compile(r"(\[\[?)([^\[\]=]+)\]\]?\s*(#.*)?")
_KEY = re.compile(r"([\w.\"' -]+?)\s*=")

Steps = tuple[int | str, ...]
"""Where a value stands: keys of tables, and numbers of entries in lists."""


class SettingsFile(NamedTuple):
    """A TOML file that was read."""

    path: Path
    text: str
    values: dict[str, Any]

    def place(self, steps: Steps) -> str | None:
        """Return the file and the line of a value, or of the nearest table around it. None where it holds neither."""
        lines = dict(_lines(self.text))
        for length in range(len(steps), 0, -1):
            if line := lines.get(steps[:length]):
                return f"{self.path}, line {line}"
        return None


def read_settings_file() -> SettingsFile | None:
    """Read what `AUDITAP_CONFIG` names, else `auditap.toml` in the working directory; None where there is none.

    Raises StartupError, which says where the file is wrong and quotes nothing of it.
    """
    named = os.environ.get(CONFIG_FILE_VARIABLE)
    path = Path(named or _DEFAULT_FILE)
    if not path.is_file():
        if named:
            raise StartupError(
                f"{CONFIG_FILE_VARIABLE} names {path}, which is not a file: correct it or unset it."
            )
        return None
    try:
        # Some editors write a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
        return SettingsFile(path, text, tomllib.loads(text))
    except OSError as error:
        reason = f"{path} cannot be read ({error.strerror}): let this user read it."
    except UnicodeDecodeError:
        reason = f"{path} is not UTF-8: save it in that encoding."
    except tomllib.TOMLDecodeError as error:
        found = _PLACE.search(str(error))
        place = f"line {found[1]}, column {found[2]}" if found else "at its end"
        reason = f"{path}, {place}: this is not TOML. Correct its syntax."
    except ValueError:
        reason = f"{path}: a number in it has too many digits. Correct it."
    except RecursionError:
        reason = f"{path}: a list or table in it is nested too deeply. Correct it."
    # Outside the handlers: what was caught holds the file's text, secrets included.
    raise StartupError(reason)


def _lines(text: str) -> Iterator[tuple[Steps, int]]:
    """Yield where each key and table of a TOML text stands, and its line.

    A reader of lines, which is enough to name a place: keys within an inline table have the line of the table.
    """
    table: Steps = ()
    counts: dict[Steps, int] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if header := _HEADER.fullmatch(line):
            table = _table(_names(header[2]), counts, is_list=header[1] == "[[")
            yield table, number
        elif key := _KEY.match(line):
            yield (*table, *_names(key[1])), number


def _table(names: tuple[str, ...], counts: dict[Steps, int], *, is_list: bool) -> Steps:
    """Return the steps to a table, with the number of the entry for each list on the way. Counts a list's entries."""
    steps: Steps = ()
    for depth, name in enumerate(names, start=1):
        steps = (*steps, name)
        if is_list and depth == len(names):
            counts[steps] = counts.get(steps, -1) + 1
        if steps in counts:
            steps = (*steps, counts[steps])
    return steps


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(name.strip(" \"'") for name in dotted.split("."))
