"""Faults in a random order, by seed, under a steady load; then the count, the watermark's verdict, and a report.

`python -m tests.faults.chaos --seed 1 --minutes 10` starts the whole system with a Kafka and a Postgres of its own, hurts
one part after another, several at once, and writes `seed-1.md` into `--into`. Ends with 1 where anything was lost, is there
twice, a process ended by itself, a polling client missed a record, or the watermark was further behind than documented.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path

import click

from tests.faults import faults, recreated_topic, wrong_clocks
from tests.faults.chaos_report import report
from tests.faults.faults import Fault, Part, revived
from tests.faults.ledger import Count, count, count_when_stored
from tests.faults.load import Load, account_of
from tests.faults.reading import listed
from tests.faults.sampler import Sampler
from tests.faults.system import System, cancelled_by_signal, tap_name
from tests.faults.watermark import Verdict, Watcher, arrivals, judge
from tests.faults.wreaking import Happened, Wreaking, steps

FAULTS: tuple[Fault, ...] = (*faults.FAULTS, *wrong_clocks.FAULTS, *recreated_topic.FAULTS)

_ACCOUNTS = 20
_LAG_MS, _HOLD_MS = 5_000, 60_000
_SETTINGS = {
    "AUDITAP_INGEST__GAP_LEDGER__WATERMARK_LAG_MS": str(_LAG_MS),
    "AUDITAP_INGEST__GAP_LEDGER__WATERMARK_HOLD_MS": str(_HOLD_MS),
}
# The lag, a heartbeat, a report of the log's time, and what a busy machine takes for them.
BEHIND_MS_MAX = _LAG_MS + 15_000
# After the last fault, before the watermark must have caught up: what came late holds it for so long.
CALM_AFTER_S = _HOLD_MS / 1000 + 20
_CALM_S = 20
_FINISH_S_MAX = 120.0
_STORED_S_MAX = 120.0
# A client may have to read the whole run once more.
_POLLED_S_MAX = 300.0
_GAPS_REPORTED_S = 6.0
_EXTRA_S = 900.0
_HELD_BY_MAX = 5


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
    """Of the load that was there all the time."""
    others: Count | None = None
    """Of the taps with wrong clocks, together."""
    listed: int | None = None
    latency_ms: dict[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None
    polling: Polling | None = None
    held_by: list[str] = field(default_factory=list)
    """What holds the watermark while nothing is wrong any more."""
    left_out: str = ""
    calm_after_s: float = CALM_AFTER_S
    behind_ms_max: float = BEHIND_MS_MAX

    @property
    def good(self) -> bool:
        counts = [each for each in (self.count, self.others) if each is not None]
        whole = (
            self.count is not None
            and all(each.balanced for each in counts)
            and self.listed == sum(each.records for each in counts)
        )
        believed = (
            self.verdict is not None
            and not self.verdict.late_claims
            and not self.verdict.wrong
            and self.polling is not None
            and not self.polling.missed
        )
        undisturbed = not self.ended_by_themselves and not any(each.trouble for each in self.happened)
        return whole and believed and undisturbed


@dataclass(frozen=True)
class Polling:
    """What came of the clients that poll."""

    clients: int
    polls: int
    read: int
    missed: int
    pause_s_max: float
    """The longest time between two polls of one client."""


async def chaos(run: Run, folder: Path) -> tuple[Sampler, Load]:
    """Run it; the system is started in `folder` and gone at the end."""
    system = System(folder, {**_SETTINGS, "AUDITAP_COLLECTOR__DURABILITY": run.durability})
    try:
        await system.start()
        load = system.load(rate_per_s=run.rate_per_s, accounts=_ACCOUNTS)
        sampler, watcher = Sampler(system), Watcher(system, _accounts())
        await load.start()
        await sampler.start()
        await watcher.start()
        wreaking = Wreaking(system, sampler, run.minutes * 60)
        run.happened, run.ended_by_themselves = wreaking.happened, wreaking.ended_by_themselves
        try:
            await wreaking.wreak(steps(run.seed, _possible(system, run)))
            run.ended_by_themselves += await revived(system)
            sampler.say("no more faults, waiting until nothing is wrong any more")
            await asyncio.sleep(CALM_AFTER_S)
            calm_from_ms = time.time() * 1000
            await asyncio.sleep(_CALM_S)
            run.held_by = await _held_by(system)
            await load.finish(_FINISH_S_MAX)
            await _tally(system, run)
            await watcher.finish(_POLLED_S_MAX)
            run.polling = await _polled(watcher)
            run.verdict = judge(
                watcher.claims,
                await arrivals(system, watcher.snapshots),
                system.loads,
                calm_from_ms,
                hold_ms=_HOLD_MS,
                behind_ms_max=BEHIND_MS_MAX,
            )
        finally:
            await watcher.stop()
            await sampler.stop()
            await load.abandon()
        return sampler, load
    finally:
        await system.stop()


def _accounts() -> list[str]:
    """Return the accounts that clients poll: of the load that is there all the time, and of the first taps with wrong clocks."""
    return [
        *(account_of(tap_name(0), group) for group in (0, 7, 13)),
        account_of(tap_name(1), 0),
        account_of(tap_name(2), 1),
    ]


def _possible(system: System, run: Run) -> Sequence[Fault]:
    """Return the faults that this user, and this durability, can have."""
    possible = FAULTS
    if not all(disk.mounted for disk in system.disks):
        possible = tuple(fault for fault in possible if fault.disk_of is None)
        run.left_out = "full disks: this user may not mount small ones"
    if run.durability != "spool":
        possible = tuple(fault for fault in possible if Part.SPOOL not in fault.parts)
    return possible


async def _tally(system: System, run: Run) -> None:
    first, *others = system.loads
    for load in system.loads:
        await count_when_stored(system, load, _STORED_S_MAX)
    # By now the gap ledger would list what is missing.
    await asyncio.sleep(_GAPS_REPORTED_S)
    run.count = await count(system, first)
    if others:
        run.others = reduce(add, [await count(system, load) for load in others])
    run.latency_ms = await system.storing_ms(first.tap)
    run.listed = sum([len(await listed(system, load)) for load in system.loads])


async def _held_by(system: System) -> list[str]:
    rows = await system.pipeline.fetch(
        "SELECT coalesce(b.tap_id, '(arrived late)') AS tap, b.state, (c.received_ms - b.bound_ms) / 1000 AS s,"
        " (SELECT max(held_until_ms) - auditap.now_ms() FROM auditap.late_arrivals) / 1000 AS held_s,"
        " (c.received_ms - auditap.now_ms()) / 1000 AS ahead_s"
        " FROM auditap.list_watermark_bounds($1) AS b, auditap.completeness_clock AS c",
        _HELD_BY_MAX,
    )
    return [
        f"{row['tap']}, {row['state']}: {row['s']} s behind the log's time, which is {row['ahead_s']} s ahead of the database's"
        + (f"; held for {row['held_s']} s more" if row["state"] == "late" else "")
        for row in rows
    ]


async def _polled(watcher: Watcher) -> Polling:
    return Polling(
        clients=len(watcher.clients),
        polls=sum(client.polls for client in watcher.clients),
        read=sum(len(client.read) for client in watcher.clients),
        missed=await watcher.missed(),
        pause_s_max=max(client.pause_s_max for client in watcher.clients),
    )


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
        click.echo(
            f"{run.count}\n{run.others}\n{run.verdict}\n{run.polling}\n{path}, {time.monotonic() - began_s:.0f} s altogether"
        )
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
    parser.add_argument("--rate", type=int, default=300, help="captures a second")
    parser.add_argument("--into", type=Path, default=Path(".cache/chaos"), help="folder of the report")
    parser.add_argument(
        "--durability",
        choices=("kafka", "spool"),
        help="the collector's; by default kafka for even seeds, spool for odd",
    )
    chosen = parser.parse_args()
    durability = chosen.durability or ("spool" if chosen.seed % 2 else "kafka")
    sys.exit(main(Run(chosen.seed, chosen.minutes, chosen.rate, durability), chosen.into))
