"""A chaos run in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.faults.ledger import Count
from tests.faults.load import Load
from tests.faults.sampler import Sample, Sampler
from tests.faults.wreaking import AT_ONCE, Happened

if TYPE_CHECKING:
    from tests.faults.chaos import Run

_MB = 1024 * 1024
# Caught up: no further behind than what comes in within so many seconds.
_CAUGHT_UP_S = 2


def report(run: Run, sampler: Sampler, load: Load) -> str:
    """Return the whole report."""
    return "\n".join(
        [
            *_head(run, load),
            *_count(run, load),
            *_watermark(run),
            *_times(run, sampler, load),
            *_timeline(run, sampler, load),
        ]
    )


def _head(run: Run, load: Load) -> Iterator[str]:
    yield f"# Chaos, seed {run.seed}"
    yield ""
    yield (
        f"{run.minutes:g} minutes, {run.rate_per_s} captures a second in batches, `collector.durability` {run.durability},"
        f" {len(run.happened)} faults, up to {AT_ONCE} at once; {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()}, Python"
        f" {platform.python_version()}. `python -m tests.faults.chaos --seed {run.seed} --minutes {run.minutes:g} --rate"
        f" {run.rate_per_s}` runs it again."
    )
    if run.left_out:
        yield f"\nLeft out: {run.left_out}."
    yield ""
    yield f"**{'Nothing lost, nothing twice.' if run.good else 'NOT GOOD: see below.'}**"
    for ended in run.ended_by_themselves:
        yield f"\nEnded by itself: {ended}"
    yield ""


def _count(run: Run, load: Load) -> Iterator[str]:
    yield "| what | captures | of the taps with wrong clocks |"
    yield "| --- | ---: | ---: |"
    counts = [count for count in (run.count, run.others) if count is not None]

    def row(what: str, of: Callable[[Count], object]) -> str:
        cells = [str(of(count)) for count in counts]
        return f"| {what} | {' | '.join(cells + [''] * (2 - len(cells)))} |"

    if counts:
        yield row("offered", lambda count: count.offered)
        yield row("accepted", lambda count: count.accepted)
        yield row("records", lambda count: count.records)
        yield row("dead letters", _dead_letters)
        yield row("duplicates", lambda count: count.duplicates)
        yield row("lost", lambda count: count.lost)
        yield row("missing by the log's own account of numbers", lambda count: count.gaps)
        yield row("in gaps that the log reports", lambda count: count.reported)
        yield row("stored and never sent", lambda count: count.strangers)
    else:
        yield f"| offered | {load.offered} | |"
        yield f"| accepted | {len(load.accepted)} | |"
    yield ""
    yield f"The log API lists {run.listed} records."
    yield ""


def _dead_letters(count: Count) -> str:
    reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(count.reasons.items()))
    return f"{count.dead_letters}{f' ({reasons})' if reasons else ''}"


def _watermark(run: Run) -> Iterator[str]:
    if (verdict := run.verdict) is None or (polling := run.polling) is None:
        return
    behind = [_percentile(verdict.behind_ms, share) for share in (0.5, 0.9, 0.99, 1)]
    yield "| the completeness watermark | |"
    yield "| --- | ---: |"
    yield f"| claims read | {verdict.claims} |"
    yield f"| false: a record with an earlier time was stored afterwards, and was in no gap | {verdict.false_claims} |"
    yield f"| records that made them false | {verdict.late} |"
    yield f"| of these, recorded at a wrong time, because a clock was wrong | {verdict.misdated} |"
    yield f"| of these, a client that polls as often as documented could miss | {verdict.uncorrected} |"
    yield f"| claims while nothing had been wrong for {run.calm_after_s:g} s | {verdict.calm_claims} |"
    yield f"| late: of these, further behind than {run.behind_ms_max / 1000:g} s | {verdict.late_claims} |"
    yield f"| the furthest of them, behind by, s | {verdict.calm_behind_ms / 1000:.1f} |"
    yield f"| clients that poll by it | {polling.clients} |"
    yield f"| their polls, and the longest time between two, s | {polling.polls}, {polling.pause_s_max:.1f} |"
    yield f"| records that they read | {polling.read} |"
    yield f"| **records that they missed** | {polling.missed} |"
    yield ""
    yield "| time, in seconds | p50 | p90 | p99 | longest |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    yield f"| from the oldest capture that could not be seen yet to the watermark, at all times | {_seconds(behind)} |"
    yield ""
    for holding in run.held_by if verdict.late_claims else ():
        yield f"- Holds the watermark at the end: {holding}"
    for late in verdict.wrong:
        yield f"- {late}"
    yield ""


def _times(run: Run, sampler: Sampler, load: Load) -> Iterator[str]:
    yield "| time, in seconds | p50 | p90 | p99 | longest |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    accepting = [_percentile(load.accept_ms, share) for share in (0.5, 0.9, 0.99, 1)]
    yield f"| from offering a batch to its being accepted, sent as often as it takes | {_seconds(accepting)} |"
    if run.latency_ms:
        yield f"| from accepting a capture to its record | {_seconds(list(run.latency_ms.values()))} |"
    yield ""
    yield "| largest process of each part | memory, MB |"
    yield "| --- | ---: |"
    for part, peak in sorted(sampler.peaks().items()):
        yield f"| {part} | {peak / _MB:.0f} |"
    answers = ", ".join(f"{name} {count}" for name, count in sorted(load.answers.items()))
    yield ""
    yield f"Answers to batches: {answers}."
    yield ""


def _timeline(run: Run, sampler: Sampler, load: Load) -> Iterator[str]:
    yield "| at, s | fault | for, s | ready after, s | behind at most | caught up after, s | records/s meanwhile |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for happened in run.happened:
        samples = sampler.between(happened.at_s, sampler.now_s)
        yield (
            f"| {happened.at_s:.0f} | {happened.fault} | {happened.lasting_s:g} |"
            f" {happened.until_s - happened.at_s - happened.lasting_s:.1f} |"
            f" {_behind(sampler.between(happened.at_s, happened.until_s))} |"
            f" {_caught_up(happened, samples, load.rate_per_s)} |"
        )
        if happened.trouble:
            yield f"| | {happened.trouble} | | | | | |"
    yield ""
    yield (
        "Ready: the processes of the parts that it hurt, if no other fault hurt what they need. Behind: accepted and not yet stored, whichever fault was to blame. Caught up:"
        f" counted from the end of the fault until no more was behind than {_CAUGHT_UP_S} seconds bring; a dash where that was so at once."
    )
    yield ""


def _behind(samples: Sequence[Sample]) -> str:
    return str(max((sample.behind for sample in samples if sample.behind is not None), default="?"))


def _caught_up(happened: Happened, samples: Sequence[Sample], rate_per_s: int) -> str:
    """Return the cells for the seconds until it was caught up, and how many records a second were stored by then."""
    ends_s = happened.at_s + happened.lasting_s
    after = [sample for sample in samples if sample.at_s >= ends_s and sample.stored is not None]
    if not after or not _is_late(after[0], rate_per_s):
        return "- | -"
    back = next((sample for sample in after if not _is_late(sample, rate_per_s)), None)
    if back is None:
        return "not before the end | -"
    stored = (back.stored or 0) - (after[0].stored or 0)
    return f"{back.at_s - ends_s:.0f} | {stored / max(back.at_s - after[0].at_s, 1e-9):.0f}"


def _is_late(sample: Sample, rate_per_s: int) -> bool:
    return (sample.behind or 0) > _CAUGHT_UP_S * rate_per_s


def _seconds(values_ms: Sequence[float]) -> str:
    return " | ".join(f"{value / 1000:.2f}" for value in values_ms)


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values) or [0.0]
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
