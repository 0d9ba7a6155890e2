"""`python -m tests.mutants.run`: puts each fault into a copy of the code and shows which tests see it.

Ends with status 1 if a fault is seen by none, 2 if one can no longer be made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tests.mutants.faults import FAULTS, Change, Fault

ROOT = Path(__file__).parents[2]
PACKAGES = (
    *(
        "auditap",
        "auditap_tap",
        "gateway_tap",
        "redactor",
        "eventlog",
        "ingestor",
        "enricher",
        "log_api",
        "alerting",
        "schemas",
    ),
    "examples",
)
_SECONDS_MAX = 1_200
_PLUGIN = "mutated_tree"
_PLUGIN_TEXT = """
from pathlib import Path

import redactor


def pytest_configure(config):
    assert Path(redactor.__file__).is_relative_to(Path(__file__).parent), "the tests would run on the unchanged code"
"""


class CannotBeMadeError(Exception):
    """The text that a fault changes is not there any more, or there more than once."""


def changed(text: str, change: Change) -> str:
    """Return a module's text with one change made; raises CannotBeMadeError."""
    if text.count(change.old) != 1:
        raise CannotBeMadeError(f"{change.module} holds {text.count(change.old)} times: {change.old!r}")
    return text.replace(change.old, change.new)


def copy_code(folder: Path) -> None:
    """Copy the packages, and what holds the tests to the copy."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / f"{_PLUGIN}.py").write_text(_PLUGIN_TEXT)


def put_in(fault: Fault, folder: Path) -> None:
    for change in fault.changes:
        module = folder / change.module
        module.write_text(changed(module.read_text(), change))


def take_out(fault: Fault, folder: Path) -> None:
    for change in fault.changes:
        shutil.copyfile(ROOT / change.module, folder / change.module)


def failures(tests: Sequence[str], folder: Path) -> list[str]:
    """Run tests on the code in `folder`; return the names of those that failed.

    Raises RuntimeError where they could not be run.
    """
    arguments = [
        "-q",
        "-p",
        _PLUGIN,
        "-p",
        "no:cacheprovider",
        "--no-header",
        "--tb=no",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            *arguments,
            "--rootdir",
            str(ROOT),
            *(str(ROOT / each) for each in tests),
        ],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(folder), "HYPOTHESIS_PROFILE": "mutants", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"pytest ended with {done.returncode}: {done.stdout[-2_000:]}{done.stderr[-2_000:]}"
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return [line.split(" ")[1].rpartition("tests/")[2] for line in lines]


def caught_by(found: Sequence[str]) -> str:
    files = Counter(each.partition("::")[0] for each in found)
    return "\n".join(f"{file} ({count})" for file, count in files.most_common())


def main(wanted: Sequence[str]) -> int:
    """Run the faults whose names hold any of the words given, or all; return the exit status."""
    faults = [each for each in FAULTS if not wanted or any(word in each.name for word in wanted)]
    table = Table("fault", "seen by", "s", show_lines=True)
    status = 0
    with tempfile.TemporaryDirectory() as name, Live(table, console=Console(), refresh_per_second=2):
        folder = Path(name)
        copy_code(folder)
        for fault in faults:
            started = time.monotonic()
            try:
                put_in(fault, folder)
                found = failures(fault.tests, folder)
            except CannotBeMadeError as reason:
                table.add_row(fault.name, f"[yellow]cannot be made: {reason}", "")
                status = 2
                continue
            except subprocess.TimeoutExpired:
                table.add_row(fault.name, f"[yellow]the tests took longer than {_SECONDS_MAX} s", "")
                status = 2
                continue
            finally:
                take_out(fault, folder)
            status = max(status, 0 if found else 1)
            seen = caught_by(found) if found else "[red]nobody"
            table.add_row(fault.name, seen, f"{time.monotonic() - started:.0f}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
