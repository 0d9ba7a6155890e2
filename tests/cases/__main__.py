"""`python -m tests.cases FOLDER`: run every folder of cases, print a table, and end with status 1 if one is not as expected."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

from auditap.runtime.embedded_postgres import EmbeddedPostgres
from tests.cases.case import Bench, Case
from tests.cases.table import CASES
from tests.kafka_broker import KafkaBroker


async def run_all(folder: Path) -> bool:
    """Run each case on servers of this run's own. Returns whether all of them, and no other folder, are there and fine."""
    table = Table("folder", "expected", "seen", "ok", "tests with inputs of their own", expand=False)
    unknown = _without_case(folder)
    fine = not unknown
    with tempfile.TemporaryDirectory(prefix="auditap-cases-") as scratch:
        base = Path(scratch)
        (base / "kafka").mkdir()
        async with (
            EmbeddedPostgres(base / "postgres") as postgres,
            # Nothing kills it, and on a busy machine it may stand still for some seconds.
            KafkaBroker(base / "kafka", session_timeout_ms=120_000) as broker,
        ):
            for case in CASES:
                own = base / case.folder
                own.mkdir()
                seen = await _seen(case, Bench(folder / case.folder, own, postgres.dsn(), broker.bootstrap))
                fine &= seen == case.expected
                ok = "yes" if seen == case.expected else "NO"
                table.add_row(case.folder, case.expected, seen, ok, "\n".join(case.tests))
    for name in unknown:
        table.add_row(name, "", "no case of this name", "NO", "")
    Console(width=None if sys.stdout.isatty() else 220).print(table, markup=False)
    return fine


def _without_case(folder: Path) -> list[str]:
    folders = {each.name for each in folder.iterdir() if each.is_dir()}
    return sorted(folders - {case.folder for case in CASES})


async def _seen(case: Case, bench: Bench) -> str:
    sys.stderr.write(f"{case.folder}\n")
    try:
        return await case.see(bench)
    except Exception as fault:  # noqa: BLE001  one row of the table; the others are run all the same
        return f"{type(fault).__name__}: {fault}"[:500]


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) == 2 else os.environ.get("AUDITAP_CASES")
    if folder is None:
        sys.exit("usage: python -m tests.cases FOLDER (or set AUDITAP_CASES)")
    # What the parts log is theirs; the table is this program's.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(not asyncio.run(run_all(Path(folder).resolve())))


if __name__ == "__main__":
    main()
