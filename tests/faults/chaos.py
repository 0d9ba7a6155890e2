"""Faults in a random order, by seed, under a steady load; then the count, and a report.

`python -m tests.faults.chaos --seed 1 --minutes 10` starts the whole system with a Kafka and a Postgres of its own, hurts
one part after another, and writes `seed-1.md` into `--into`. Ends with 1 where anything was lost, is there twice, or a
process ended by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from tests.faults.chaos_report import report
from tests.faults.faults import FAULTS, Fault, healed, ready, revived
from tests.faults.ledger import Count, count, count_when_stored
from tests.faults.load import Load
from tests.faults.reading import listed
from tests.faults.sampler import Sampler
from tests.faults.system import System, cancelled_by_signal

_QUIET_S = (2.0, 6.0)
_STEP_S_MAX = 150.0
_FINISH_S_MAX = 60.0
_STORED_S_MAX = 60.0
_GAPS_REPORTED_S = 6.0
_EXTRA_S = 170.0


@dataclass(frozen=True)
class Step:
    """A fault to come: after so many quiet seconds, for so long."""

    quiet_s: float
    fault: Fault
    lasting_s: float


@dataclass
class Happened:
    """A step as it went; times are seconds from the start of the load."""

    fault: str
    at_s: float
    lasting_s: float
    until_s: float = 0.0
    """When everything was ready again."""
    trouble: str = ""


@dataclass
class Run:
    """A run and what came of it."""

    seed: int
    minutes: float
    rate_per_s: int
    durability: str
    """The collector's: kafka or spool."""
    happened: list[Happened] = field(default_factory=list)
    ended_by_themselves: list[str] = field(default_factory=list)
    count: Count | None = None
    listed: int | None = None
    latency_ms: dict[str, float] = field(default_factory=dict)
    left_out: str = ""

    @property
    def good(self) -> bool:
        whole = self.count is not None and self.count.balanced and self.listed == self.count.records
        return whole and not self.ended_by_themselves and not any(each.trouble for each in self.happened)


def steps(seed: int, faults: tuple[Fault, ...] = FAULTS) -> Iterator[Step]:
    """Yield steps without end: every fault once in a random order, then all of them again in another."""
    drawn = random.Random(seed)
    while True:
        for fault in drawn.sample(faults, len(faults)):
            lasting_s = round(drawn.uniform(fault.seconds_min, fault.seconds_max), 1)
            yield Step(round(drawn.uniform(*_QUIET_S), 1), fault, lasting_s)


async def wreak(system: System, load: Load, sampler: Sampler, run: Run, faults: tuple[Fault, ...]) -> None:
    """Take step after step until the minutes are over."""
    for step in steps(run.seed, faults):
        if sampler.now_s + step.quiet_s + step.lasting_s > run.minutes * 60:
            break
        await asyncio.sleep(step.quiet_s)
        happened = Happened(step.fault.name, sampler.now_s, step.lasting_s)
        run.happened.append(happened)
        say(sampler, f"{step.fault.name} for {step.lasting_s:g} s")
        try:
            async with asyncio.timeout(_STEP_S_MAX):
                async with step.fault.inflict(system):
                    await asyncio.sleep(step.lasting_s)
                run.ended_by_themselves += await revived(system)
                await ready(system)
        except Exception as trouble:  # noqa: BLE001  # the run goes on, and is called bad
            happened.trouble = str(trouble).partition("\n")[0] or type(trouble).__name__
            say(sampler, f"  {happened.trouble}")
            await healed(system)
        happened.until_s = sampler.now_s
    await asyncio.sleep(max(0.0, run.minutes * 60 - sampler.now_s))


async def chaos(run: Run, folder: Path) -> tuple[Sampler, Load]:
    """Run it; the system is started in `folder` and gone at the end."""
    system = System(folder, {"AUDITAP_COLLECTOR__DURABILITY": run.durability})
    try:
        await system.start()
        disks = system.kafka_disk.mounted and system.postgres_disk.mounted
        faults = tuple(fault for fault in FAULTS if disks or not fault.needs_disk)
        if not disks:
            run.left_out = "full disks: this user may not mount small ones"
        load = system.load(rate_per_s=run.rate_per_s)
        sampler = Sampler(system, load)
        await load.start()
        await sampler.start()
        try:
            await wreak(system, load, sampler, run, faults)
            run.ended_by_themselves += await revived(system)
            say(sampler, "no more faults, waiting for what is under way")
            await load.finish(_FINISH_S_MAX)
            await count_when_stored(system, load, _STORED_S_MAX)
            # By now the gap ledger would list what is missing.
            await asyncio.sleep(_GAPS_REPORTED_S)
            run.count = await count(system, load)
            run.latency_ms = await system.storing_ms(load.tap)
            run.listed = len(await listed(system, load))
        finally:
            await sampler.stop()
            await load.abandon()
        return sampler, load
    finally:
        await system.stop()


def say(sampler: Sampler, what: str) -> None:
    last = sampler.last
    behind = "?" if last.behind is None else last.behind
    click.echo(f"[{sampler.now_s:6.1f} s] accepted {last.accepted}, behind {behind}: {what}")


async def _bounded(run: Run, folder: Path) -> tuple[Sampler, Load]:
    cancelled_by_signal()
    async with asyncio.timeout(run.minutes * 60 + _EXTRA_S):
        return await chaos(run, folder)


def main(run: Run, into: Path) -> int:
    """Run, report into the folder and return the exit code."""
    into.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="auditap-chaos-"))
    began_s = time.monotonic()
    click.echo(
        f"seed {run.seed}, {run.minutes:g} minutes, {run.rate_per_s} captures/s, durability {run.durability},"
        f" data in {folder}"
    )
    try:
        sampler, load = asyncio.run(_bounded(run, folder))
        path = into / f"seed-{run.seed}.md"
        path.write_text(report(run, sampler, load))
        click.echo(f"{run.count}\n{path}, {time.monotonic() - began_s:.0f} s altogether")
    except (AssertionError, OSError, TimeoutError, asyncio.CancelledError) as trouble:
        click.echo(f"the run broke off: {str(trouble) or type(trouble).__name__}")
    finally:
        if not run.good:
            _keep_logs(folder / "auditap", into / f"seed-{run.seed}-logs")
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if run.good else 1


def _keep_logs(of: Path, kept: Path) -> None:
    kept.mkdir(exist_ok=True)
    for log_file in of.glob("*.log"):
        shutil.copy(log_file, kept)
    click.echo(f"the logs of the processes are in {kept}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=int, default=500, help="captures a second")
    parser.add_argument("--into", type=Path, default=Path(".cache/chaos"), help="folder of the report")
    parser.add_argument(
        "--durability",
        choices=("kafka", "spool"),
        help="the collector's; by default kafka for even seeds, spool for odd",
    )
    chosen = parser.parse_args()
    durability = chosen.durability or ("spool" if chosen.seed % 2 else "kafka")
    sys.exit(main(Run(chosen.seed, chosen.minutes, chosen.rate, durability), chosen.into))
