"""Where results go: sections of bench/RESULTS.md, each with the machine, commit and versions it was measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

BENCH = Path(__file__).parent
RESULTS = BENCH / "RESULTS.md"
_HEAD = """# Benchmark results

`make bench` repeats all measurements, `python -m bench.PART` repeats one part. Each rate comes from one run; comparisons are
ratios within one run. CPU time is that of the process (`process_time`), so it is meaningful on a shared machine too.
"""
_PACKAGES = ("msgspec", "orjson", "openapi-core", "aiokafka", "asyncpg", "uvloop")


def conditions() -> str:
    """Return the machine, the commit and the versions, as a sentence."""
    load = os.getloadavg()
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}; {os.cpu_count()} cores of {_processor()},"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()}; {packages}; load average"
        f" {load[0]:.1f}, {load[1]:.1f}, {load[2]:.1f} at the end."
    )


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=BENCH,
            check=False,
            capture_output=True,
            text=True,
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!*RESULTS*.md", ":!*.png")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_section(title: str, body: str) -> None:
    """Print a section, and put it into RESULTS.md in the place of an older one of the same title."""
    section = f"## {title}\n\n{body.strip()}\n\n{conditions()}\n"
    print(section)
    whole = RESULTS.read_text() if RESULTS.exists() else _HEAD
    parts = re.split(r"(?m)^(?=## )", whole)
    older = {part.partition("\n")[0].removeprefix("## "): part for part in parts[1:]}
    older[title] = section
    RESULTS.write_text("\n".join([_HEAD, *(older[name].strip() + "\n" for name in sorted(older))]))
