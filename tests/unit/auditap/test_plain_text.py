"""What commands print on a terminal holds no control characters, whatever was recorded."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from auditap.plain_text import plain_json, print_json

_CLI = Path(__file__).resolve().parents[3] / "auditap"
HOSTILE = "\x1b[2J\u009b2J\x7f\u202e\U0001f600\u00e9\t"


class _Output(io.TextIOWrapper):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_json_for_a_terminal_means_the_same_in_printable_ascii() -> None:
    given = json.dumps({HOSTILE: [HOSTILE, 1.5]}, ensure_ascii=False)
    shown = plain_json(given)
    assert json.loads(shown) == json.loads(given)
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize("terminal", [True, False])
def test_json_is_printed_as_it_is_only_into_a_pipe(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """A recorded value could have controlled the terminal of whoever read the log with --json."""
    given = json.dumps([HOSTILE], ensure_ascii=False).encode()
    output = _Output(terminal=terminal)
    monkeypatch.setattr(sys, "stdout", output)
    print_json(given)
    printed = output.buffer.getvalue()  # type: ignore[attr-defined]
    assert printed == (plain_json(given.decode()).encode() if terminal else given) + b"\n"


def test_no_command_prints_json_in_another_way() -> None:
    ways = [
        f"{path.name}: {line.strip()}"
        for path in _CLI.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "stdout.buffer.write" in line or "echo(msgspec" in line
    ]
    assert ways == ['plain_text.py: sys.stdout.buffer.write(text + b"\\n")']
