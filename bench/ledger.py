"""The cost of the gap ledger in the store: turns with its statements and without, in one run.

`python -m bench.ledger` stores the same records in both ways in turn, in one database, `_IN_FLIGHT` batches at once as the
ingestor does, and prints CPU time a record and rate. `BATCH` and `TAPS` change the batch size and the number of taps.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from uuid import UUID

import msgspec

from auditap.runtime.embedded_postgres import EmbeddedPostgres
from bench.results import conditions, table
from bench.servers import cpu_s
from ingestor import postgres_store
from ingestor.postgres_store import PostgresStore
from ingestor.sequence_numbers import SequenceNumbers
from schemas.identity import new_id
from schemas.record import Record
from tests.audit_database import migrated
from tests.records import record

_ROWS = int(os.environ.get("ROWS", "40000"))
_BATCHES = [int(each) for each in os.environ.get("BATCH", "5000,500").split(",")]
_TAPS = int(os.environ.get("TAPS", "8"))
_TURNS = 6
_IN_FLIGHT = 4


class Turn(NamedTuple):
    """The cost of a turn: CPU µs a record of the store's process and of Postgres, and records a second."""

    python_us: float
    postgres_us: float
    per_s: float


def batches(size: int, numbers: Iterator[int]) -> list[list[Record]]:
    """Return records with fresh ids, numbered by `_TAPS` taps in turn."""
    at_ms = time.time_ns() // 1_000_000
    sample = record(
        at_ms,
        enrichment="complete",
        account_id="71217cafeaf3b0af4feb976ec66332ab",
        actor_id="f6b5de0326bb5182b8a4840ee01ec774",
        actor_ip_address="203.0.113.9",
        resource_product="alerting",
        resource_type="policies",
        resource_request='{"alert_type":"health","enabled":true,"name":"Origin down"}',
        tap_epoch=1,
    )
    made = []
    for first in range(0, _ROWS, size):
        batch = []
        for _ in range(first, min(first + size, _ROWS)):
            number = next(numbers)
            tap, seq = f"tap-{number % _TAPS}", number // _TAPS + 1
            batch.append(msgspec.structs.replace(sample, id=UUID(new_id(at_ms)), tap_id=tap, tap_seq=seq))
        made.append(batch)
    return made


@contextmanager
def without_notes() -> Iterator[None]:
    """The store keeps no ledger."""
    nothing = SequenceNumbers((), ())
    with mock.patch.object(postgres_store, "numbers_of_records", return_value=nothing):
        yield


async def turn(store: PostgresStore, work: Sequence[Sequence[Record]], postmaster: int) -> Turn:
    """Store everything and return what it took."""
    waiting = iter(work)

    async def one_after_the_other() -> None:
        for batch in waiting:
            assert (await store.store(batch)).stored == len(batch)

    python_s, postgres_s, began_s = time.process_time(), cpu_s(postmaster), time.monotonic()
    await asyncio.gather(*(one_after_the_other() for _ in range(_IN_FLIGHT)))
    wall_s = time.monotonic() - began_s
    rows = sum(map(len, work))
    return Turn(
        (time.process_time() - python_s) / rows * 1e6,
        (cpu_s(postmaster) - postgres_s) / rows * 1e6,
        rows / wall_s,
    )


async def compared(
    store: PostgresStore, size: int, numbers: Iterator[int], postmaster: int
) -> list[list[str]]:
    """Return a line of the table for each way, and one of their ratios."""
    turns: dict[str, list[Turn]] = {"without": [], "with": []}
    await turn(store, batches(size, numbers), postmaster)
    for number in range(2 * _TURNS):
        work = batches(size, numbers)
        # In the order without, with, with, without: what grows with the table falls on both.
        if number % 4 in (0, 3):
            with without_notes():
                turns["without"].append(await turn(store, work, postmaster))
        else:
            turns["with"].append(await turn(store, work, postmaster))
    medians = {
        way: Turn(*(statistics.median(each) for each in zip(*of, strict=True))) for way, of in turns.items()
    }
    off, on = medians["without"], medians["with"]
    together = (on.python_us + on.postgres_us) / (off.python_us + off.postgres_us)
    return [
        *(
            [f"{size}", way, f"{of.python_us:.1f}", f"{of.postgres_us:.1f}", f"{of.per_s:,.0f}"]
            for way, of in medians.items()
        ),
        [f"{size}", "ratio", f"CPU together {together:.2f}", "", f"{on.per_s / off.per_s:.2f}"],
    ]


async def measured() -> list[list[str]]:
    """Return the lines of the table, measured on a Postgres of its own."""
    with tempfile.TemporaryDirectory(prefix="auditap-bench-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # noqa: ASYNC240  # nothing else runs yet
        async with EmbeddedPostgres(folder / "postgres") as server:
            database = await migrated(server.dsn())
            store = await PostgresStore.connect(
                database.writer_dsn, connections_max=_IN_FLIGHT, command_timeout_ms=60_000
            )
            postmaster = int(next(folder.glob("**/postmaster.pid")).read_text().split()[0])  # noqa: ASYNC240
            numbers = itertools.count()
            lines = [line for size in _BATCHES for line in await compared(store, size, numbers, postmaster)]
            await store.close()
            return lines


if __name__ == "__main__":
    head = ["records a batch", "ledger", "Python's CPU µs a record", "Postgres' CPU µs a record", "records/s"]
    print(table(head, asyncio.run(measured())))
    print(f"\n{_TAPS} taps, medians of {_TURNS} turns of {_ROWS:,} records each way.\n\n{conditions()}")
