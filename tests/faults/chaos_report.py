"""A chaos run in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.faults.load import Load
from tests.faults.sampler import Sample, Sampler

if TYPE_CHECKING:
    from tests.faults.chaos import Happened, Run

_MB = 1024 * 1024
# Caught up: no further behind than what comes in within so many seconds.
_CAUGHT_UP_S = 2


def report(run: Run, sampler: Sampler, load: Load) -> str:
    """Return the whole report."""
    return "\n".join(
        [*_head(run, load), *_count(run, load), *_times(run, sampler, load), *_timeline(run, sampler, load)]
    )


def _head(run: Run, load: Load) -> Iterator[str]:
    yield f"# Chaos, seed {run.seed}"
    yield ""
    yield (
        f"{run.minutes:g} minutes, {run.rate_per_s} captures a second in batches, `collector.durability` {run.durability},"
        f" {len(run.happened)} faults one after another; {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()}, Python"
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
    yield "| what | captures |"
    yield "| --- | ---: |"
    yield f"| offered | {load.offered} |"
    yield f"| accepted | {len(load.accepted)} |"
    if (count := run.count) is not None:
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(count.reasons.items()))
        yield f"| records | {count.records} |"
        yield f"| dead letters | {count.dead_letters}{f' ({reasons})' if reasons else ''} |"
        yield f"| duplicates | {count.duplicates} |"
        yield f"| lost | {count.lost} |"
        yield f"| missing by the log's own account of numbers | {count.gaps} |"
        yield f"| in gaps that the log reports | {count.reported} |"
        yield f"| stored and never sent | {count.strangers} |"
    yield f"| listed by the log API | {run.listed} |"
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
    yield (
        "| at, s | fault | for, s | all ready after, s | behind at most | caught up after, s | records/s meanwhile |"
    )
    yield "| ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    starts = [each.at_s for each in run.happened[1:]] + [sampler.now_s]
    for happened, next_s in zip(run.happened, starts, strict=True):
        samples = sampler.between(happened.at_s, next_s)
        yield (
            f"| {happened.at_s:.0f} | {happened.fault} | {happened.lasting_s:g} |"
            f" {happened.until_s - happened.at_s - happened.lasting_s:.1f} | {_behind(samples)} |"
            f" {_caught_up(happened, samples, load.rate_per_s)} |"
        )
        if happened.trouble:
            yield f"| | {happened.trouble} | | | | | |"
    yield ""
    yield (
        "Behind: accepted and not yet stored. Caught up: counted from the end of the fault until no more is behind than"
        f" {_CAUGHT_UP_S} seconds bring; a dash where that was so all along."
    )
    yield ""


def _behind(samples: Sequence[Sample]) -> str:
    return str(max((sample.behind for sample in samples if sample.behind is not None), default="?"))


def _caught_up(happened: Happened, samples: Sequence[Sample], rate_per_s: int) -> str:
    """Return the cells for the seconds until it was caught up, and how many records a second were stored by then."""
    ends_s = happened.at_s + happened.lasting_s
    after = [sample for sample in samples if sample.at_s >= ends_s and sample.stored is not None]
    late = [sample for sample in after if (sample.behind or 0) > _CAUGHT_UP_S * rate_per_s]
    if not late:
        return "- | -"
    back = next((sample for sample in after if sample.at_s > late[-1].at_s), None)
    if back is None:
        return "not before the next | -"
    stored = (back.stored or 0) - (late[0].stored or 0)
    return f"{back.at_s - ends_s:.0f} | {stored / max(back.at_s - late[0].at_s, 1e-9):.0f}"


def _seconds(values_ms: Sequence[float]) -> str:
    return " | ".join(f"{value / 1000:.2f}" for value in values_ms)


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values) or [0.0]
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
