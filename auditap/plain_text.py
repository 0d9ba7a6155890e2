"""Text on a terminal: of OpenAPI documents and records, with control characters and markup made harmless, and in the right number."""

from __future__ import annotations

import json
import re
import sys
from typing import Final

from rich.markup import escape

_NOT_PLAIN: Final = re.compile(r"[^\n\x20-\x7e]")


def plain(text: str) -> str:
    """Return a text on one line, without control characters and with rich's markup escaped."""
    return escape(plain_line(text))


def plain_line(text: str) -> str:
    """Return a text on one line, without control characters; for what does not read markup."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number and what it counts; `plural` where that is not the noun and an s."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def plain_json(text: str) -> str:
    """Return JSON that means the same and holds printable ASCII and line ends alone."""
    return _NOT_PLAIN.sub(_escaped, text)


def print_json(text: bytes) -> None:
    """Print JSON on a line of standard output: as it is into a pipe or a file, as `plain_json` on a terminal, which must not
    execute control characters in recorded values.
    """
    if sys.stdout.isatty():
        text = plain_json(text.decode(errors="replace")).encode()
    sys.stdout.buffer.write(text + b"\n")


def _escaped(character: re.Match[str]) -> str:
    # `json` leaves this one as it is.
    return json.dumps(character[0])[1:-1].replace("\x7f", "\\u007f")
