"""The pipeline while alerting runs, is killed, frozen, refused or waits for a webhook: `python -m bench.alerting_isolation`.

Real processes at a fixed rate far below the limit. The states take turns in one run, several times each.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from dataclasses import dataclass, field

from auditap.database.connection import administrator
from auditap.runtime.logs import configure_logs
from bench.pipeline import _BATCH, Lines, Run, Sender, _stored, record_latencies
from bench.results import BENCH, conditions, table
from bench.servers import Servers, servers
from bench.workload import EXAMPLE_DOCUMENT
from tests.e2e.faulty_alerting import FaultyAlerting
from tests.e2e.pipeline import Pipeline

PER_S = int(os.environ.get("PER_S", "1000"))
SECONDS = float(os.environ.get("SECONDS", "10"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
_LOOK_S = 0.25


@dataclass
class Turns:
    """The measurements of one state, over all its turns."""

    sent: int = 0
    stored: int = 0
    refused: int = 0
    rates: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)
    """The number of captures that were accepted and not stored yet, sampled four times a second."""

    def row(self, state: str) -> list[str]:
        ordered = sorted(self.latencies_ms)
        p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
        spread = f"{min(self.rates):,.0f} to {max(self.rates):,.0f}"
        lag = f"{statistics.mean(self.behind):,.0f}, {max(self.behind):,}"
        return [state, f"{self.stored:,}", f"{self.refused}", spread, f"{p50:,.0f}", f"{p99:,.0f}", lag]


async def main() -> None:
    configure_logs("warning", "json")
    async with servers() as running:
        print(await measure(running))
    print(conditions())


async def measure(running: Servers) -> str:
    folder = running.folder / "apart"
    folder.mkdir()
    folder.chmod(0o755)
    pipeline = Pipeline(
        folder,
        await running.database("apart"),
        bootstrap=running.kafka.bootstrap,
        topic="apart-",
        documents=f'[redaction]\ndocuments = [{{path = "{EXAMPLE_DOCUMENT.resolve()}", envelope = "result"}}]',
    )
    alerting = FaultyAlerting(pipeline, "isolation-alerting")
    lines, found = Lines(seed=5), {state: Turns() for state in alerting.states}
    try:
        await pipeline.start()
        await alerting.start()
        await turn(pipeline, lines, Turns(), 3)
        for _ in range(ROUNDS):
            for state, held in alerting.states.items():
                async with held():
                    await turn(pipeline, lines, found[state], SECONDS)
                # What it missed it reads before the next turn, not during it.
                await alerting.catches_up(await pipeline.count("audit_records"))
    finally:
        await alerting.stop()
        await pipeline.stop()
    print(f"alerting ended by itself {alerting.restarts} times")
    head = [
        "alerting is",
        "records",
        "refused",
        "stored/s of each turn",
        "p50 ms",
        "p99 ms",
        "behind: mean, most",
    ]
    return table(head, [turns.row(state) for state, turns in found.items()])


async def turn(pipeline: Pipeline, lines: Lines, turns: Turns, seconds: float) -> None:
    run = Run()
    before = await pipeline.count("audit_records")
    lines.sampled.clear()
    async with administrator(pipeline.database.admin_dsn) as connection:
        looking = [
            asyncio.create_task(record_latencies(connection, lines, run)),
            asyncio.create_task(_look(pipeline, run, turns, before)),
        ]
        began = time.monotonic()
        await Sender(pipeline.socket, lines, run).send(began + seconds, PER_S / _BATCH)
        await _stored(pipeline, before + run.sent)
        turns.rates.append(run.sent / (time.monotonic() - began))
        await asyncio.sleep(1)
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
    stored = await pipeline.count("audit_records") - before
    assert stored == run.sent, (stored, run.sent)
    turns.sent += run.sent
    turns.stored += stored
    turns.refused += run.refused
    turns.latencies_ms += run.latencies_ms


async def _look(pipeline: Pipeline, run: Run, turns: Turns, before: int) -> None:
    [ingestor] = pipeline.ingestors
    while True:
        sent = run.sent
        stored = int(await ingestor.metric("auditap_records_stored_total")) - before
        turns.behind.append(max(sent - stored, 0))
        await asyncio.sleep(_LOOK_S)


if __name__ == "__main__":
    os.chdir(BENCH.parent)
    sys.exit(asyncio.run(main()))
