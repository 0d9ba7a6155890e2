"""(f) Workers: what a pair costs a collector of 1, 2 and 4 processes. `python -m bench.workers`.

The log is a real Kafka; nobody reads it. Collector, Kafka and sender are processes on this machine, so the rate grows with the workers
only as long as there are cores for all of them; the CPU time of a pair says what more cores would give.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from auditap.runtime.logs import configure_logs
from bench.pipeline import Lines, Run, Sender
from bench.results import BENCH, table, write_section
from bench.servers import cpu_s
from bench.workload import EXAMPLE_DOCUMENT
from tests.audit_database import AuditDatabase
from tests.e2e.pipeline import Pipeline
from tests.kafka_broker import KafkaBroker

_CONNECTIONS = 4  # for each worker, so that all of them publish batches of the same size
_COUNTS = (1, 2, 4)
_ROUNDS = 5
_WARMING_S_MAX = 2
_NO_DATABASE = "postgresql://nobody@127.0.0.1/none"


@dataclass(frozen=True)
class Turn:
    """One run with so many workers."""

    pairs_per_s: float
    collector_us: float
    """CPU µs a pair of the parent and all workers."""
    sender_us: float
    kafka_us: float
    least_share: float
    """The CPU time of the worker that had least to do, relative to the mean."""


async def measured(pipeline: Pipeline, kafka: KafkaBroker, workers: int, seconds: float) -> Turn:
    """Start a collector, send to it as fast as it accepts, and end it."""
    collector = await pipeline.start_collector(AUDITAP_COLLECTOR__WORKERS=str(workers))
    try:
        lines = Lines(seed=1)
        connections = workers * _CONNECTIONS
        await _send(pipeline, lines, Run(), connections, min(seconds, _WARMING_S_MAX))
        taking = _workers_of(collector.pid) if workers > 1 else [collector.pid]
        pids = {"collector": collector.pid, "kafka": kafka.pid or 0}
        cpu = {name: cpu_s(pid) for name, pid in pids.items()} | {"sender": time.process_time()}
        each = [cpu_s(pid) for pid in taking]
        run = Run()
        await _send(pipeline, lines, run, connections, seconds)
        spent = {name: cpu_s(pid) - cpu[name] for name, pid in pids.items()}
        spent["sender"] = time.process_time() - cpu["sender"]
        shares = [cpu_s(pid) - before for pid, before in zip(taking, each, strict=True)]
    finally:
        await collector.stop()
    us = {name: spent_s / run.sent * 1e6 for name, spent_s in spent.items()}
    least = min(shares) / statistics.mean(shares)
    return Turn(run.sent / run.sending_s, us["collector"], us["sender"], us["kafka"], least)


async def _send(pipeline: Pipeline, lines: Lines, run: Run, connections: int, seconds: float) -> None:
    sender = Sender(pipeline.socket, lines, run, connections)
    await sender.send(time.monotonic() + seconds, None)


def _workers_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def compare(
    kafka: KafkaBroker, folder: Path, seconds: float, rounds: int = _ROUNDS, counts: Sequence[int] = _COUNTS
) -> str:
    """Measure each number of workers in turns."""
    turns: dict[int, list[Turn]] = {count: [] for count in counts}
    pipeline = Pipeline(
        folder,
        AuditDatabase(*[_NO_DATABASE] * 4),
        bootstrap=kafka.bootstrap,
        topic="workers-",
        documents=f'[redaction]\ndocuments = [{{path = "{EXAMPLE_DOCUMENT.resolve()}", envelope = "result"}}]',
    )
    try:
        await pipeline.run_command("topics")
        for _ in range(rounds):
            for count in counts:
                turns[count].append(await measured(pipeline, kafka, count, seconds))
    finally:
        await pipeline.stop()
    return report(turns, seconds)


async def live(seconds: float) -> str:
    with tempfile.TemporaryDirectory(prefix="auditap-bench-") as made:
        folder = Path(made)
        (folder / "kafka").mkdir()
        async with KafkaBroker(folder / "kafka") as kafka:
            return await compare(kafka, folder, seconds)


def report(turns: dict[int, list[Turn]], seconds: float) -> str:
    first = next(iter(turns.values()))
    rows = []
    for count, of_count in turns.items():
        ratios = [one.collector_us / alone.collector_us for one, alone in zip(of_count, first, strict=True)]
        rows.append(
            [
                str(count),
                f"{statistics.median(one.collector_us for one in of_count):.1f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                f"{statistics.median(one.least_share for one in of_count):.2f}",
                f"{statistics.median(one.sender_us for one in of_count):.1f}",
                f"{statistics.median(one.kafka_us for one in of_count):.1f}",
                f"{statistics.median(one.pairs_per_s for one in of_count):,.0f}",
            ]
        )
    return (
        f"As fast as accepted over {_CONNECTIONS} open connections for each worker, {len(first)} rounds of {seconds:.0f} s each, in turns; medians."
        " The collector's CPU time is that of the parent and all workers. The ratio is of runs in the same round, with its range."
        " Least share: the CPU time of the worker that had least to do, relative to the mean of all.\n\n"
        + table(
            [
                "workers",
                "collector's CPU µs a pair",
                "relative to one",
                "least share",
                "sender's CPU µs a pair",
                "Kafka's",
                "accepted/s on these cores",
            ],
            rows,
        )
    )


def run(seconds: float = 5) -> None:
    configure_logs("warning", "json")
    write_section("(f) Workers", asyncio.run(live(seconds)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=5, help="of each run")
    run(options.parse_args().seconds)


if __name__ == "__main__":
    os.chdir(BENCH.parent)
    main()
