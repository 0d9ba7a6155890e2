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
from bench.pipeline import _BATCH, Lines, Run, Sender
from bench.results import BENCH, table, write_section
from bench.servers import cpu_s
from bench.workload import EXAMPLE_DOCUMENT
from tests.audit_database import AuditDatabase
from tests.e2e.pipeline import Pipeline
from tests.kafka_broker import KafkaBroker

_CONNECTIONS = 4  # for each worker, so that all of them publish batches of the same size
_COUNTS = (1, 2, 4)
_PAIRS_PER_S = 3_000
_TICK_S = 0.01
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


class _Collector:
    """A running collector of so many workers, beside its Kafka."""

    def __init__(self, pipeline: Pipeline, kafka: KafkaBroker, workers: int) -> None:
        assert pipeline.collector is not None
        self._socket = pipeline.socket
        self._connections = workers * _CONNECTIONS
        self._pids = {"collector": pipeline.collector.pid, "kafka": kafka.pid or 0}
        pid = pipeline.collector.pid
        self._taking = _children(pid) if workers > 1 else [pid]
        self._lines = Lines(seed=1)

    async def send(self, seconds: float, pairs_per_s: int | None = None) -> Run:
        run = Run()
        sender = Sender(self._socket, self._lines, run, self._connections)
        await sender.send(time.monotonic() + seconds, pairs_per_s and pairs_per_s / _BATCH)
        return run

    async def measured(self, seconds: float, pairs_per_s: int | None) -> Turn:
        """Send at a rate, or as fast as accepted."""
        before, each_before = self._cpu_s(), list(map(cpu_s, self._taking))
        run = await self.send(seconds, pairs_per_s)
        us = {name: (spent_s - before[name]) / run.sent * 1e6 for name, spent_s in self._cpu_s().items()}
        shares = [cpu_s(pid) - spent_s for pid, spent_s in zip(self._taking, each_before, strict=True)]
        least = min(shares) / max(statistics.mean(shares), _TICK_S)
        return Turn(run.sent / run.sending_s, us["collector"], us["sender"], us["kafka"], least)

    def _cpu_s(self) -> dict[str, float]:
        return {name: cpu_s(pid) for name, pid in self._pids.items()} | {"sender": time.process_time()}


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


Turns = dict[int, list[Turn]]


async def compare(
    kafka: KafkaBroker, folder: Path, seconds: float, rounds: int = _ROUNDS, counts: Sequence[int] = _COUNTS
) -> str:
    """Measure each number of workers in turns, at a rate for each worker and as fast as accepted."""
    steady: Turns = {count: [] for count in counts}
    fastest: Turns = {count: [] for count in counts}
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
                process = await pipeline.start_collector(AUDITAP_COLLECTOR__WORKERS=str(count))
                collector = _Collector(pipeline, kafka, count)
                await collector.send(min(seconds, _WARMING_S_MAX))
                steady[count].append(await collector.measured(seconds, count * _PAIRS_PER_S))
                fastest[count].append(await collector.measured(seconds, None))
                await process.stop()
    finally:
        await pipeline.stop()
    return report(steady, fastest, seconds)


async def live(seconds: float) -> str:
    with tempfile.TemporaryDirectory(prefix="auditap-bench-") as made:
        folder = Path(made)
        (folder / "kafka").mkdir()
        async with KafkaBroker(folder / "kafka") as kafka:
            return await compare(kafka, folder, seconds)


def report(steady: Turns, fastest: Turns, seconds: float) -> str:
    rounds = len(next(iter(steady.values())))
    conditions = (
        f"{_CONNECTIONS} open connections for each worker, {rounds} rounds of {seconds:.0f} s each, in turns; medians. The"
        " collector's CPU time is that of the parent and all workers. The ratio is of runs in the same round, with its range."
        " Least share: the CPU time of the worker that had least to do, relative to the mean of all."
    )
    return "\n\n".join(
        (
            conditions,
            f"At {_PAIRS_PER_S:,} pairs/s for each worker, which leaves some of the cores free:",
            _table(steady),
            "As fast as accepted, with sender and Kafka on the same cores:",
            _table(fastest),
        )
    )


def _table(turns: Turns) -> str:
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
    head = ["workers", "collector's CPU µs a pair", "relative to one", "least share"]
    return table([*head, "sender's CPU µs a pair", "Kafka's", "accepted/s"], rows)


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
