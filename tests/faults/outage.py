"""Postgres away for a minute under a steady load: what each process keeps in memory, and how fast it is caught up.

`python -m tests.faults.outage` prints both, in Markdown. Nothing is asserted but the count: the figures depend on the
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from tests.faults.ledger import Count, count_when_stored
from tests.faults.sampler import Memory, Sample, Sampler
from tests.faults.system import System, cancelled_by_signal

_CAUGHT_UP_S_MAX = 300.0
# Caught up: no further behind than what comes in within a second.
_CAUGHT_UP_S = 1.0


@dataclass(frozen=True)
class Outage:
    """What was seen."""

    away_s: float
    accepted_per_s: float
    """While Postgres was away and until it was caught up."""
    partitions: tuple[float, float, float]
    """Assigned to the ingestors before, at the end of the time away, and caught up."""
    behind: int
    caught_up_s: float
    stored_per_s: float
    """From Postgres' return until it was caught up."""
    memory: dict[tuple[str, int], Memory]
    count: Count


async def outage(system: System, rate_per_s: int, warm_up_s: float, away_s: float) -> Outage:
    """Run it on a started system."""
    load = system.load(rate_per_s=rate_per_s, batch=100)
    sampler = Sampler(system, interval_s=2)
    await load.start()
    await sampler.start()
    try:
        await asyncio.sleep(warm_up_s)
        sampler.memory.clear()
        partitions = [await _partitions(system)]
        before, gone_s = sampler.last, sampler.now_s
        await system.postgres.stop()
        await asyncio.sleep(away_s)
        partitions.append(await _partitions(system))
        await system.postgres.start()
        back_s = sampler.now_s
        caught = await _caught_up(sampler, rate_per_s)
        partitions.append(await _partitions(system))
        memory = dict(sampler.memory)
        await load.finish(120)
        found = await count_when_stored(system, load, 120)
    finally:
        await sampler.stop()
        await load.abandon()
    behind = max((sample.behind or 0 for sample in sampler.between(back_s, caught.at_s)), default=0)
    stored = (caught.stored or 0) - (before.stored or 0)
    return Outage(
        away_s=back_s - gone_s,
        accepted_per_s=(caught.accepted - before.accepted) / (caught.at_s - before.at_s),
        partitions=(partitions[0], partitions[1], partitions[2]),
        behind=behind,
        caught_up_s=caught.at_s - back_s,
        stored_per_s=stored / (caught.at_s - back_s),
        memory=memory,
        count=found,
    )


async def _caught_up(sampler: Sampler, rate_per_s: int) -> Sample:
    back_s = sampler.now_s
    while sampler.now_s < back_s + _CAUGHT_UP_S_MAX:
        await asyncio.sleep(0.2)
        last = sampler.last
        if last.at_s > back_s and last.behind is not None and last.behind <= _CAUGHT_UP_S * rate_per_s:
            return last
    raise AssertionError(f"not caught up within {_CAUGHT_UP_S_MAX:g} s: {sampler.last}")


async def _partitions(system: System) -> float:
    return sum([await each.metric("auditap_partitions_assigned") for each in system.ingestors])


def say(seen: Outage) -> None:
    """Print what was seen, in Markdown."""
    click.echo("# Postgres away under load\n\n`python -m tests.faults.outage` wrote this.\n")
    click.echo(f"{seen.count}; Postgres away for {seen.away_s:.0f} s.\n")
    click.echo(
        f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, Python {platform.python_version()}.\n"
    )
    click.echo("| what | figure |\n| --- | ---: |")
    click.echo(f"| accepted, captures/s | {seen.accepted_per_s:.0f} |")
    click.echo(f"| behind at most, captures | {seen.behind} |")
    click.echo(f"| caught up after, s | {seen.caught_up_s:.1f} |")
    ratio = seen.stored_per_s / seen.accepted_per_s
    click.echo(
        f"| stored while catching up, records/s | {seen.stored_per_s:.0f} ({ratio:.1f} times what came in) |"
    )
    click.echo(
        "| partitions assigned before, away, after | {:.0f}, {:.0f}, {:.0f} |".format(*seen.partitions)
    )
    for (part, pid), memory in sorted(seen.memory.items()):
        click.echo(f"| {part} ({pid}): memory grew by, MB | {memory.growth_mb:.0f} |")


async def _run(chosen: argparse.Namespace, folder: Path) -> Outage:
    cancelled_by_signal()
    system = System(folder, small_disks=False)
    try:
        await system.start()
        return await outage(system, chosen.rate, chosen.warm_up, chosen.away)
    finally:
        await system.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.outage", description=__doc__)
    parser.add_argument("--rate", type=int, default=2_000, help="captures a second")
    parser.add_argument("--warm-up", type=float, default=20, help="seconds")
    parser.add_argument("--away", type=float, default=60, help="seconds")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="auditap-outage-"))
    try:
        seen = asyncio.run(_run(chosen, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(seen)
    return 0 if seen.count.balanced else 1


if __name__ == "__main__":
    sys.exit(main())
